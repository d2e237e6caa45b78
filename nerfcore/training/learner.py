"""Owns one gradient step: loss of a ray batch, gradients, Adam.

The loss is the mean squared error in sRGB, whatever the compositing space.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nerfcore.errors import NonFiniteError
from nerfcore.field.lazy import LazyExperts
from nerfcore.field.parameters import Parameters
from nerfcore.scene import SceneModel
from nerfcore.tracing.contract import LossReport, Rays
from nerfcore.training.adam import Adam, Update, update_all
from nerfcore.training.gradients import GradientStore
from nerfcore.training.pixels import RayBatch
from nerfcore.training.table_adam import TableDescent

MOST_REJECTED_IN_A_ROW = 10
OBSERVE_EVERY = 4


@dataclass(frozen=True)
class Rates:
    """Learning rates of tables, density MLPs, colour MLPs and the background."""

    encoding: float = 1e-2
    sigma: float = 2e-3
    color: float = 2e-3
    background: float = 1e-3

    def scaled(self, factor: float) -> "Rates":
        """All rates times a factor."""
        return Rates(
            self.encoding * factor,
            self.sigma * factor,
            self.color * factor,
            self.background * factor,
        )

    def by_name(self) -> dict[str, float]:
        """Rates by the first part of a parameter's name."""
        return {
            "table": self.encoding,
            "sigma": self.sigma,
            "color": self.color,
            "bg": self.background,
        }


@dataclass(frozen=True)
class FastWeights:
    """One expert's own copy of its parameters, for inner loops.

    Attributes:
        expert: which.
        parameters: used in place of the scene's.
        store: where this expert's gradient goes; no other gets any.
        background: used in place of the scene's, its gradient goes to the store too; None for the
            scene's, which then gets none.
    """

    expert: int
    parameters: Parameters
    store: GradientStore
    background: Parameters | None = None


def psnr_of(mse: float) -> float:
    """PSNR in dB of a mean squared error on values in [0, 1]; at most 100, NaN if not finite."""
    if not math.isfinite(mse):
        return float("nan")
    return min(100.0, -10.0 * math.log10(max(mse, 1e-10)))


class Learner:
    """Gradients and moments of a scene model; experts that no ray met have neither.

    Attributes:
        only: experts that may change, the background not among them; None for all and it.
        observes: whether the occupancy learns from the batches.
    """

    def __init__(self, scene: SceneModel, rng: np.random.Generator) -> None:
        self.scene = scene
        self.rng = rng
        if isinstance(scene.experts, LazyExperts):
            scene.experts.hold_all()
        self.store = self.new_store()
        self.adams = [Adam() for _ in scene.experts]
        self.background_adam = Adam()
        layout = scene.architecture.layout
        self.descent = TableDescent(layout) if layout and scene.tracer.makes_splats else None
        self.rejected_in_a_row = 0
        self.observed = 0
        self.observes = True
        self._unobserved: list[LossReport] = []
        self.only: frozenset[int] | None = None
        self.sampling = scene.sampling
        self.before_change: Callable[[int], None] | None = None

    def new_store(self) -> GradientStore:
        """An empty gradient store for this scene."""
        scene = self.scene
        return GradientStore(scene.experts, scene.background, splats=scene.tracer.makes_splats)

    def jitter(self, count: int) -> NDArray[np.float32]:
        """Random sample positions within steps, f32[count]."""
        return self.rng.random(count, dtype=np.float32)

    def gradient(self, batch: RayBatch, fast: FastWeights | None = None) -> tuple[float, int]:
        """Add a batch's gradient to the store (or to the fast weights' own).

        Returns:
            The mean squared error, and the samples shaded.
        """
        scene = self.scene
        experts, store, background = list(scene.experts), self.store, scene.background
        sink = store.sink(with_background=self.only is None)
        if self.only is not None:
            sink = replace(sink, experts={k: store.of(k) for k in self.only})
        if fast is not None:
            experts[fast.expert], store = fast.parameters, fast.store
            sink = store.sink(fast.expert, with_background=fast.background is not None)
            background = scene.background if fast.background is None else fast.background
        rays = Rays(batch.origins, batch.directions, self.jitter(len(batch)))
        report = scene.tracer.loss_gradient(
            scene.traced(self.sampling), experts, background, rays, batch.rgbs, sink
        )
        if math.isfinite(report.mse):
            store.touched |= report.touched
            if fast is None:
                self._unobserved.append(report)
        return report.mse, report.shaded

    def _observe(self, report: LossReport) -> None:
        """Let the occupancy learn from every few batches' densities."""
        self.observed += 1
        use = self.observes and self.scene.sampling.use_occupancy
        if use and self.observed % OBSERVE_EVERY == 0:
            variants, samples = self.scene.variants, report.samples
            if variants is not None:
                samples = variants.base_owned(samples)
            self.scene.occupancy.observe(
                samples, report.sigmas, report.rays.origins, report.rays.directions,
                self.scene.sampling.step_m,
            )  # fmt: skip

    def apply(self, rates: Rates) -> None:
        """Take one Adam step on all that has gradient, and forget the gradient."""
        scene, store, by_name = self.scene, self.store, rates.by_name()
        updates = [Update(self.background_adam, scene.background, store.background, by_name)]
        for k in sorted(store.touched):
            if self.before_change is not None:
                self.before_change(k)
            own = self.adams[k], scene.experts[k], store.of(k), by_name, store.table(k)
            updates.append(Update(*own))
        update_all(updates, self.descent)
        store.clear()

    def step(self, batch: RayBatch, rates: Rates) -> tuple[float, int]:
        """Gradient and update; a non-finite loss changes nothing.

        Returns:
            The mean squared error (NaN for a rejected step), and the samples shaded.

        Raises:
            NonFiniteError: the tenth rejected step in a row.
        """
        mse, samples = self.gradient(batch)
        return (mse if self.apply_or_reject([mse], rates) else float("nan")), samples

    def apply_or_reject(self, errors: list[float], rates: Rates) -> bool:
        """Apply the gathered gradient if errors and gradients are finite, else drop it.

        Raises:
            NonFiniteError: the tenth rejected step in a row.
        """
        if all(math.isfinite(e) for e in errors) and self.store.finite():
            self.rejected_in_a_row = 0
            for report in self._unobserved:
                self._observe(report)
            self._unobserved.clear()
            self.apply(rates)
            return True
        self._unobserved.clear()
        self.store.clear()
        self.rejected_in_a_row += 1
        if self.rejected_in_a_row >= MOST_REJECTED_IN_A_ROW:
            raise NonFiniteError(
                f"loss: not finite in {MOST_REJECTED_IN_A_ROW} steps in a row; the last good state "
                "is kept; lower the learning rates or check the images and poses"
            )
        return False
