"""Owns one gradient step: loss of a ray batch, gradients in preallocated buffers, Adam.

The loss is the mean squared error in sRGB, whatever the compositing space.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nerfcore.background import background_rgb
from nerfcore.errors import NonFiniteError
from nerfcore.field.parameters import Parameters, zeros_like
from nerfcore.scene import SceneModel
from nerfcore.tracing import Trace, accumulate_gradient, trace
from nerfcore.training.adam import Adam
from nerfcore.training.pixels import RayBatch
from nerfcore.volrend import Composited

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
    """One expert's own copy of its parameters with a gradient buffer (inner loops).

    `with_background` also gathers the background's gradient, into the learner's buffer.
    """

    expert: int
    parameters: Parameters
    grads: Parameters
    with_background: bool = False


def psnr_of(mse: float) -> float:
    """PSNR in dB of a mean squared error on values in [0, 1]; at most 100."""
    return min(100.0, -10.0 * math.log10(max(mse, 1e-10)))


class Learner:
    """Gradients and moments of a scene model; experts without any sample keep no moments moving."""

    def __init__(self, scene: SceneModel, rng: np.random.Generator) -> None:
        self.scene = scene
        self.rng = rng
        self.grads = [zeros_like(p) for p in scene.experts]
        self.background_grads = zeros_like(scene.background)
        self.adams = [Adam.of(p) for p in scene.experts]
        self.background_adam = Adam.of(scene.background)
        self.touched: set[int] = set()
        self.rejected_in_a_row = 0
        self.observed = 0
        self.sampling = scene.sampling

    def jitter(self, count: int) -> NDArray[np.float32]:
        """Random sample positions within steps, f32[count]."""
        return self.rng.random(count, dtype=np.float32)

    def gradient(
        self,
        batch: RayBatch,
        fast: FastWeights | None = None,
    ) -> tuple[float, int]:
        """Add a batch's gradient to the buffers.

        Args:
            batch: rays with true colours.
            fast: one expert's parameters and buffer used in place of the scene's; then only that
                expert gets gradient (into the buffer given), and nothing else.

        Returns:
            The mean squared error, and the samples shaded.
        """
        scene = self.scene
        experts, grads = list(scene.experts), list(self.grads)
        if fast is not None:
            experts[fast.expert], grads[fast.expert] = fast.parameters, fast.grads
        tracing = scene.trace_scene(self.sampling)
        traced = trace(
            tracing,
            experts,
            batch.origins,
            batch.directions,
            self.jitter(len(batch)),
            for_gradient=True,
        )
        mse, grad = self._pixel_loss(
            traced.composited,
            traced.harmonics,
            batch.rgbs,
            with_background=fast is None or fast.with_background,
        )
        if not math.isfinite(mse):
            return mse, traced.sample_count
        if fast is None:
            self._observe(batch, traced)
        else:
            traced.groups = [group for group in traced.groups if group.expert == fast.expert]
        accumulate_gradient(tracing, experts, traced, grad, grads)
        self.touched |= {group.expert for group in traced.groups}
        return mse, traced.sample_count

    def _observe(self, batch: RayBatch, traced: Trace) -> None:
        """Let the occupancy learn from every few batches' densities."""
        self.observed += 1
        if self.scene.sampling.use_occupancy and self.observed % OBSERVE_EVERY == 0:
            self.scene.occupancy.observe(
                traced.samples,
                traced.sigmas,
                batch.origins,
                batch.directions,
                self.scene.sampling.step_m,
            )

    def _pixel_loss(
        self,
        found: Composited,
        harmonics: Tensor,
        truth: NDArray[np.float32],
        *,
        with_background: bool,
    ) -> tuple[float, Composited]:
        device = self.scene.device
        rgb = torch.from_numpy(found.rgb).to(device).requires_grad_()
        opacity = torch.from_numpy(found.opacity).to(device).requires_grad_()
        leaves = {
            name: value.detach().requires_grad_() for name, value in self.scene.background.items()
        }
        with torch.enable_grad():
            behind = background_rgb(leaves, self.scene.settings, harmonics)
            shown = self.scene.shown_rgb(rgb + (1.0 - opacity)[:, None] * behind)
            loss = (shown - torch.from_numpy(truth).to(device)).square().mean()
            found_grads = torch.autograd.grad(loss, [rgb, opacity, *leaves.values()])
        if with_background:
            for name, value in zip(leaves, found_grads[2:], strict=True):
                self.background_grads[name].add_(value)
        d_rgb, d_opacity = (g.cpu().numpy() for g in found_grads[:2])
        return float(loss.detach()), Composited(d_rgb, d_opacity, np.zeros_like(d_opacity))

    def apply(self, rates: Rates) -> None:
        """Take one Adam step on all that has gradient, and zero the buffers."""
        by_name = rates.by_name()
        for expert in sorted(self.touched):
            self.adams[expert].update(self.scene.experts[expert], self.grads[expert], by_name)
        self.touched.clear()
        self.background_adam.update(self.scene.background, self.background_grads, by_name)

    def clear(self) -> None:
        """Zero the gradient buffers."""
        for buffers in (*self.grads, self.background_grads):
            for value in buffers.values():
                value.zero_()
        self.touched.clear()

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
        if all(math.isfinite(e) for e in errors) and self._finite_gradients():
            self.rejected_in_a_row = 0
            self.apply(rates)
            return True
        self.clear()
        self.rejected_in_a_row += 1
        if self.rejected_in_a_row >= MOST_REJECTED_IN_A_ROW:
            raise NonFiniteError(
                f"loss: not finite in {MOST_REJECTED_IN_A_ROW} steps in a row; the last good state "
                "is kept; lower the learning rates or check the images and poses"
            )
        return False

    def _finite_gradients(self) -> bool:
        """Check the small matrices; a non-finite table gradient always shows in them too."""
        buffers = [self.grads[k] for k in self.touched] + [self.background_grads]
        return all(
            bool(torch.isfinite(value).all())
            for grads in buffers
            for name, value in grads.items()
            if name != "table"
        )
