"""What a batch of rays needs besides its samples: encoded directions and the background behind."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nerfcore.encoding.directions import spherical_harmonics
from nerfcore.field import mlp
from nerfcore.field.parameters import Parameters
from nerfcore.settings import ModelSettings
from nerfcore.tracing.contract import Rays, TracedScene


@dataclass(frozen=True)
class Sky:
    """Directions and background of rays.

    Attributes:
        harmonics: [R, 16], encoded directions.
        rgbs: [R, 3], background colours in the compositing space.
        weights, inputs: the background MLP's matrices and layer inputs, empty for a fixed colour.
    """

    harmonics: Tensor
    rgbs: Tensor
    weights: list[Tensor]
    inputs: list[Tensor]

    @staticmethod
    def of(background: Parameters, settings: ModelSettings, rays: Rays) -> "Sky":
        harmonics = spherical_harmonics(torch.from_numpy(rays.directions))
        if not background:
            fixed = torch.tensor(settings.background_rgb, dtype=torch.float32)
            return Sky(harmonics, fixed.repeat(len(rays), 1), [], [])
        weights = [background["bg.0"], background["bg.1"]]
        out, inputs = mlp.forward(harmonics, weights)
        return Sky(harmonics, out.sigmoid(), weights, inputs)

    def add_gradient(self, d_rgbs: Tensor, buffers: Parameters) -> None:
        """Add the background MLP's gradient, given the loss's gradient [R, 3] to the colours."""
        if self.weights:
            grad = d_rgbs * self.rgbs * (1 - self.rgbs)
            mlp.backward(grad, self.weights, self.inputs, [buffers["bg.0"], buffers["bg.1"]])


def grouped_by_expert(
    scene: TracedScene, rays: Rays, truth: NDArray[np.float32]
) -> tuple[Rays, NDArray[np.float32]]:
    """Reorder rays so that neighbours meet the same expert at the middle of the scene's height.

    A chunk of neighbouring rays then touches few experts, however many there are.
    """
    centroids = scene.march.centroids
    if len(centroids) == 1:
        return rays, truth
    low, high = scene.march.aabb
    height = (low[0] + high[0]) / 2
    down = rays.directions[:, 0]
    safe = np.where(np.abs(down) < 1e-6, np.float32(1e-6), down)
    points = rays.origins + ((height - rays.origins[:, 0]) / safe)[:, None] * rays.directions
    points = np.clip(points, low, high)
    nearest = (points @ centroids.T) * -2 + (centroids**2).sum(1)
    order = np.argsort(nearest.argmin(1), kind="stable")
    return Rays(rays.origins[order], rays.directions[order], rays.jitter[order]), truth[order]
