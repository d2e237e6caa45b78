"""Owns the reference recipe: the obvious NeRF trainer that the engine's speed is held against.

96 stratified samples spread evenly between where a ray enters and leaves the scene's box; every
sample goes to the experts that own it and is blended by their weights; hash grid, MLPs and
compositing in plain differentiable PyTorch on whole batches; one `torch.optim.Adam` over all
parameters. Same architecture, routing, colours and loss as the engine's, no occupancy, no early
end, no chunks. World frame DRB; densities per metre, distances world units.
"""

import torch
from torch import Tensor

from nerfcore.background import background_rgb
from nerfcore.colour import linear_to_srgb
from nerfcore.encoding import torch_grid
from nerfcore.encoding.directions import spherical_harmonics
from nerfcore.encoding.layout import GridLayout
from nerfcore.field.parameters import Parameters, mlp
from nerfcore.scene import SceneModel
from nerfcore.settings import SamplingSettings

SAMPLES = 96
LOG_SIGMA_SHIFT, LOG_SIGMA_LIMIT = -2.0, 15.0
LEAST_WEIGHT = 1e-6


class ReferenceRecipe:
    """Renders and trains a scene the plain way.

    Attributes:
        samples: a ray's.
    """

    def __init__(self, scene: SceneModel, samples: int = SAMPLES) -> None:
        """Args: the scene whose parameters are copied (variant "instant"), samples a ray.

        Raises:
            ValueError: the scene has no hash grid.
        """
        layout = scene.architecture.layout
        if layout is None:
            raise ValueError("the reference recipe needs a scene with hash grids")
        self.layout: GridLayout = layout
        self.samples = samples
        self.settings, self.scale_m, self.device = scene.settings, scene.scale_m, scene.device
        self.bounds: SamplingSettings = scene.sampling
        self.margin = scene.partition.boundary_margin
        self.first_axis = 1 if scene.partition.cluster_2d else 0
        p = scene.partition
        self.aabb, self.centroids, self.box_mins, self.box_maxs = (
            torch.from_numpy(a).to(self.device)
            for a in (p.aabb, p.centroids, p.box_mins, p.box_maxs)
        )
        self.experts = [_leaves(parameters) for parameters in scene.experts]
        self.background = _leaves(scene.background)
        every = [value for group in (*self.experts, self.background) for value in group.values()]
        self.adam = torch.optim.Adam(every, lr=1e-3, betas=(0.9, 0.99), eps=1e-15)

    def step(self, origins: Tensor, directions: Tensor, truth: Tensor) -> float:
        """Take one training step on rays f32[R, 3] with true sRGB f32[R, 3]; return the error."""
        jitter = torch.rand(len(origins), self.samples, device=self.device)
        loss = (self.render(origins, directions, jitter) - truth).square().mean()
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        return float(loss.detach())

    def render(self, origins: Tensor, directions: Tensor, jitter: Tensor | None = None) -> Tensor:
        """Return sRGB f32[R, 3] of rays; `jitter` f32[R, samples] in [0, 1), None = middles."""
        near, far = self._box_interval(origins, directions)
        bins = torch.arange(self.samples, device=self.device)
        steps = (far - near)[:, None] / self.samples
        ts = near[:, None] + steps * (bins + (0.5 if jitter is None else jitter))
        points = origins[:, None] + ts[..., None] * directions[:, None]
        harmonics = spherical_harmonics(directions)
        sigmas, rgbs = self._field(
            points.reshape(-1, 3), harmonics.repeat_interleave(self.samples, 0)
        )
        deltas = (steps * self.scale_m).expand(-1, self.samples)
        optical = sigmas.view(deltas.shape) * deltas
        before = torch.exp(-(torch.cumsum(optical, 1) - optical))
        weights = before * (1.0 - torch.exp(-optical))
        rgb = (weights[..., None] * rgbs.view(*deltas.shape, 3)).sum(1)
        behind = background_rgb(self.background, self.settings, harmonics)
        rgb = rgb + (1.0 - weights.sum(1))[:, None] * behind
        return linear_to_srgb(rgb.clamp_min(0.0)) if self.settings.colour_space == "linear" else rgb

    def _box_interval(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Where rays enter and leave the scene's box, f32[R] each (equal where they miss it)."""
        a = (self.aabb[0] - origins) / directions
        b = (self.aabb[1] - origins) / directions
        near = torch.minimum(a, b).amax(1).clamp_min((self.bounds.near_m or 0.0) / self.scale_m)
        far = torch.maximum(a, b).amin(1)
        if self.bounds.far_m is not None:
            far = far.clamp_max(self.bounds.far_m / self.scale_m)
        return near, torch.maximum(near, far)

    def _field(self, points: Tensor, harmonics: Tensor) -> tuple[Tensor, Tensor]:
        """Blended densities [S] and colours [S, 3] at points [S, 3]."""
        weights = self._owner_weights(points)
        sigmas, rgbs = points.new_zeros(len(points)), points.new_zeros(len(points), 3)
        for k, parameters in enumerate(self.experts):
            ids = weights[:, k].nonzero().squeeze(1)
            if not len(ids):
                continue
            edge = (self.box_maxs[k] - self.box_mins[k]).max()
            local = ((points[ids] - self.box_mins[k]) / edge).clamp(0.0, 1.0)
            sigma, rgb = self._expert(parameters, local, harmonics[ids])
            share = weights[ids, k]
            sigmas = sigmas.index_add(0, ids, share * sigma)
            rgbs = rgbs.index_add(0, ids, share[:, None] * rgb)
        return sigmas, rgbs

    def _owner_weights(self, points: Tensor) -> Tensor:
        """Each expert's share of each point, [S, K]; a row sums to 1, or to 0 outside all boxes."""
        apart = points[:, None, self.first_axis :] - self.centroids[:, self.first_axis :]
        distances = apart.norm(dim=-1)
        reach = self.margin * distances.amin(1, keepdim=True)
        inside = ((points[:, None] >= self.box_mins) & (points[:, None] < self.box_maxs)).all(-1)
        weights = (reach / distances - 1.0).clamp_min(LEAST_WEIGHT)
        weights = weights * (inside & (distances <= reach))
        return weights / weights.sum(1, keepdim=True).clamp_min(LEAST_WEIGHT)

    def _expert(
        self, parameters: Parameters, local: Tensor, harmonics: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One expert's densities [N] and colours [N, 3] at unit-cube points [N, 3]."""
        features = torch_grid.encode(local, parameters["table"], self.layout)
        hidden = _apply(features, mlp(parameters, "sigma"))
        sigmas = torch.exp((hidden[:, 0] + LOG_SIGMA_SHIFT).clamp(max=LOG_SIGMA_LIMIT))
        ones = hidden.new_ones(len(hidden), 1)
        seen = torch.cat([hidden[:, 1:], harmonics, ones], dim=1)
        return sigmas, torch.sigmoid(_apply(seen, mlp(parameters, "color")))


def _leaves(parameters: Parameters) -> Parameters:
    return {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}


def _apply(x: Tensor, weights: list[Tensor]) -> Tensor:
    for weight in weights[:-1]:
        x = torch.relu(x @ weight)
    return x @ weights[-1]
