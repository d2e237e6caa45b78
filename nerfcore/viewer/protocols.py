"""Owns what the viewer asks of the engine: a scene that renders, an adapter, a choice of versions.

The viewer knows the engine only through these shapes, so that it can be tested with an analytic
scene. World frame DRB (scaled), cameras RUB, as in `nerfcore.geometry.camera`.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nerfcore.data.records import SceneFrame
from nerfcore.geometry.camera import Camera, Rendered
from nerfcore.viewer.options import RenderOptions


@dataclass(frozen=True, eq=False)
class ExpertLayout:
    """Which expert owns what: the nearest centroid's.

    Attributes:
        centroids: f32[K, 3], world.
        cluster_2d: distances use the horizontal axes only.
        aabb: f32[2, 3], the scene's box (minimum, maximum), world.
    """

    centroids: NDArray[np.float32]
    cluster_2d: bool
    aabb: NDArray[np.float32]

    def owners(self, points: NDArray[np.floating]) -> NDArray[np.intp]:
        """Return the index of the expert that owns each world point [N, 3], i64[N]."""
        first = 1 if self.cluster_2d else 0
        offsets = points[:, None, first:] - self.centroids[None, :, first:]
        return np.square(offsets).sum(axis=-1).argmin(axis=1)


class SceneLike(Protocol):
    """A scene that renders pinhole pictures, slice by slice."""

    @property
    def frame(self) -> SceneFrame:
        """How world coordinates relate to metres and to the Earth."""
        ...

    @property
    def experts(self) -> ExpertLayout:
        """Which expert owns what."""
        ...

    def render(
        self,
        camera: Camera,
        *,
        options: RenderOptions = ...,
        cancelled: Callable[[], bool] | None = None,
    ) -> Rendered | None:
        """Render a camera's picture.

        Args:
            camera: the view.
            options: samples, bounds, background and what of the scene is shown.
            cancelled: asked between chunks of rays; the caller may block in it to let others use
                the model. True ends the render.

        Returns:
            The picture, or None when cancelled.
        """
        ...


@dataclass(frozen=True)
class AdaptChoice:
    """What to adapt to, and how.

    Attributes:
        batch: name of the images.
        rays: rays of a step.
        replay: share of them that comes from old images, 0 to 0.9.
        encoding_lr, sigma_lr, color_lr: Adam's rates of tables, density and colour MLPs.
    """

    batch: str
    rays: int = 4000
    replay: float = 0.0
    encoding_lr: float = 1e-2
    sigma_lr: float = 2e-3
    color_lr: float = 2e-3


class StepResultLike(Protocol):
    """What one adaptation step reports."""

    @property
    def step(self) -> int:
        """Steps taken so far."""
        ...

    @property
    def loss(self) -> float:
        """Loss of this step's batch."""
        ...

    @property
    def psnr(self) -> float:
        """PSNR of this step's batch, dB."""
        ...

    @property
    def seconds(self) -> float:
        """Time spent in all steps so far, s."""
        ...


class PreparationLike(Protocol):
    """What an adapter prepares with, beside others who use the model."""

    def model(self) -> AbstractContextManager[Callable[[], bool]]:
        """Have the model to oneself, as briefly as may be.

        What it gives is to be called often: others use the model in it. It raises when this is to
        end, and is else False.
        """
        ...

    def looked(self, done: int, total: int) -> None:
        """Tell how many of the images were looked over."""
        ...


class AdapterLike(Protocol):
    """Test-time optimisation of the shown model, in place.

    It is made while renders go on, so making it must leave the parameters as they are, and so must
    `retune` and `prepare`; the others have the model to themselves.
    """

    def retune(self, choice: AdaptChoice) -> bool:
        """Go on with other rates and rays; False where the choice needs another adapter."""
        ...

    def prepare(self, preparation: PreparationLike) -> None:
        """Look at what the first step needs; called before every run, of use once."""
        ...

    def step(self) -> StepResultLike:
        """Take one optimiser step."""
        ...

    def divergence(self) -> str | None:
        """Say in one line how the steps so far have diverged; None while they go well."""
        ...

    def reset(self) -> object:
        """Put the model back to what it was when the adapter was made."""
        ...


class AdaptingLike(Protocol):
    """What live adaptation can do with the shown model."""

    @property
    def batches(self) -> Sequence[str]:
        """Names of the images that can be adapted to."""
        ...

    @property
    def choice(self) -> AdaptChoice:
        """What the page offers first."""
        ...

    def make(self, choice: AdaptChoice, steps: int) -> AdapterLike:
        """Return an adapter of the shown model.

        Args:
            choice: images and rates.
            steps: adaptation steps in the shown model, 0 = it is as it was loaded.
        """
        ...

    def put_back(self) -> None:
        """Undo all adaptation; has the model to itself."""
        ...


class VersionsLike(Protocol):
    """Versions of the model: those there are, loading one, saving the shown one."""

    def names(self) -> Sequence[str]:
        """Return the versions there are now, the newest last."""
        ...

    @property
    def current(self) -> str:
        """The version that was loaded last."""
        ...

    def newest(self) -> str | None:
        """Return the newest version of the training that is followed; None where there is none."""
        ...

    def read(self, name: str) -> Callable[[], None]:
        """Read a version, while renders go on, and return what shows it (called with the model).

        Raises:
            NerfcoreError: gone, damaged, or of another scene.
        """
        ...

    def save(self, path: Path, steps: int, batches: Sequence[str]) -> None:
        """Write the shown model to a new folder.

        Args:
            path: must not exist.
            steps: adaptation steps in the shown model, since `current` was loaded.
            batches: names of the images that they were taken on, in order.
        """
        ...
