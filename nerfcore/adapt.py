"""Test-time adaptation: a few Adam steps on new images, mixed with rays of old ones.

The model given is adapted in place; `reset` brings the parameters and the occupancy back as they
were. Every step draws its rays from pixel indices; no ray is stored.
"""

import time
from dataclasses import dataclass, field

import numpy as np

from nerfcore.data.images import ImageStore
from nerfcore.data.records import SparsePoints
from nerfcore.errors import SettingsError
from nerfcore.field.parameters import Parameters
from nerfcore.sampling.occupancy import admit_points
from nerfcore.scene import SceneModel
from nerfcore.training.learner import Learner, Rates, psnr_of
from nerfcore.training.pixels import PixelSampler, joined
from nerfcore.training.schedule import training_sampling

BAND_STEPS = 2.0


@dataclass(frozen=True)
class AdaptSettings:
    """How to adapt.

    Attributes:
        rays: rays of a step, new and old together.
        replay: share of them that comes from old images, 0 to 0.9.
        rates: Adam's learning rates, constant.
        seed: draws the rays.
    """

    rays: int = 4000
    replay: float = 0.0
    rates: Rates = field(default_factory=Rates)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.replay <= 0.9:
            raise SettingsError(f"replay {self.replay}: allowed are 0 to 0.9")
        if self.rays < 1:
            raise SettingsError(f"support_rays {self.rays}: must be at least 1")


@dataclass(frozen=True)
class StepResult:
    """One adaptation step: its number (1-based), loss, PSNR in dB of its rays, seconds so far."""

    step: int
    loss: float
    psnr: float
    seconds: float


class Adapter:
    """Adapts a scene model to new images."""

    def __init__(
        self,
        scene: SceneModel,
        new: ImageStore,
        settings: AdaptSettings,
        *,
        old: ImageStore | None = None,
        new_points: SparsePoints | None = None,
    ) -> None:
        """Prepare to adapt.

        Args:
            scene: adapted in place.
            new: images to adapt to.
            settings: how.
            old: images to replay from; needed when `settings.replay` > 0.
            new_points: sparse points of the new images, which open occupancy cells.

        Raises:
            SettingsError: replay without old images.
        """
        if settings.replay > 0 and old is None:
            raise SettingsError(f"replay {settings.replay}: needs old images, the dataset has none")
        self.scene = scene
        self.settings = settings
        self.old_rays = round(settings.rays * settings.replay) if old is not None else 0
        self._new, self._old = new, old
        self._points = new_points
        self._initial: dict[int, Parameters] = {}
        self._initial_background = {n: v.clone() for n, v in scene.background.items()}
        self._initial_cells = scene.occupancy.state()
        self._begin()

    def _begin(self) -> None:
        rng = np.random.default_rng(self.settings.seed)
        self.learner = Learner(self.scene, rng)
        self.learner.before_change = self._keep
        self.learner.sampling = training_sampling(self.scene.sampling, 1.0)
        self._new_pixels = PixelSampler(self._new, rng)
        self._old_pixels = PixelSampler(self._old, rng) if self._old is not None else None
        self.steps = 0
        self.seconds = 0.0

    def _keep(self, expert: int) -> None:
        """Keep an expert as it was before its first change."""
        if expert not in self._initial:
            parameters = self.scene.experts[expert]
            self._initial[expert] = {n: v.clone() for n, v in parameters.items()}

    def reset(self) -> None:
        """Bring the model back to what it was when the adapter was made."""
        pairs = [(self.scene.experts[k], initial) for k, initial in self._initial.items()]
        for parameters, initial in [*pairs, (self.scene.background, self._initial_background)]:
            for name, value in initial.items():
                parameters[name].copy_(value)
        self.scene.occupancy.restore(self._initial_cells)
        self._begin()

    def step(self) -> StepResult:
        """Take one step.

        Raises:
            NonFiniteError: ten steps in a row had a non-finite loss; the model is as before them.
        """
        began_s = time.monotonic()
        if self.steps == 0 and self._points is not None:
            margin = BAND_STEPS * self.scene.sampling.step_m / self.scene.scale_m
            admit_points(self.scene.occupancy, self._points.xyz, margin)
        batch = self._new_pixels.draw(self.settings.rays - self.old_rays)
        if self._old_pixels is not None and self.old_rays:
            batch = joined([batch, self._old_pixels.draw(self.old_rays)])
        mse, _ = self.learner.step(batch, self.settings.rates)
        self.steps += 1
        self.seconds += time.monotonic() - began_s
        return StepResult(self.steps, mse, psnr_of(mse), self.seconds)
