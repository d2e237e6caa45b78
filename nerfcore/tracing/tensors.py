"""Traces rays in tensor operations on any device, with autograd's gradient.

March, encode and weigh all samples without a graph; drop what no light reaches; then evaluate the
rest with a graph that begins at the encoded features and the small matrices. The gradient of the
features goes back to the table by the hash grid itself, so no graph holds a table.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nerfcore.background import background_rgb
from nerfcore.colour import linear_to_srgb
from nerfcore.encoding.directions import frequencies, spherical_harmonics
from nerfcore.encoding.grids import HashGrid
from nerfcore.field import reference
from nerfcore.field.parameters import Architecture, Parameters
from nerfcore.sampling.march import MarchScene
from nerfcore.sampling.tensor_march import TensorSamples, tensor_march
from nerfcore.sampling.tensor_routing import DeviceScene
from nerfcore.tracing.contract import Gradients, LossReport, Rays, TracedRays, TracedScene
from nerfcore.tracing.tensor_composite import composite, transmittance

DENSITY_ROWS = 1 << 17


@dataclass
class _Group:
    """One expert's entries in a batch.

    Attributes:
        sample_ids: i64[E]; weights: f32[E]; positions: f32[E, 3] in its unit cube.
        features: f32[E, width]; leaves: parameters that get a gradient, by name.
    """

    expert: int
    parameters: Parameters
    sample_ids: Tensor
    weights: Tensor
    positions: Tensor
    features: Tensor
    leaves: Parameters

    def picked(self, keep: Tensor, places: Tensor) -> "_Group":
        """The entries of the kept samples, which move to new places."""
        own = keep[self.sample_ids]
        return _Group(
            self.expert, self.parameters, places[self.sample_ids[own]], self.weights[own],
            self.positions[own], self.features[own], self.leaves,
        )  # fmt: skip


@dataclass
class _Lit:
    """A batch's lit samples, ready to be shaded.

    Attributes:
        samples: all; sigmas: f32[S] per metre, of all.
        lit: the lit ones; deltas: their f32 lengths in metres.
        harmonics: f32[R, 16], of the rays.
        groups: entries by expert, counted among the lit samples.
    """

    samples: TensorSamples
    sigmas: Tensor
    lit: TensorSamples
    deltas: Tensor
    harmonics: Tensor
    groups: list[_Group]


class TensorTracer:
    """See `contract.Tracer`. Parameters must lie on the tracer's device."""

    makes_splats = False

    def __init__(
        self, architecture: Architecture, device: torch.device, grid: HashGrid | None
    ) -> None:
        """Args: the architecture, where to compute, and its hash grid (None for "vanilla")."""
        if (grid is None) != (architecture.layout is None):
            raise ValueError(f'grid: does not fit variant "{architecture.settings.variant}"')
        self.architecture = architecture
        self.device = device
        self.grid = grid
        self._scene: DeviceScene | None = None

    @torch.no_grad()
    def densities(
        self, parameters: Parameters, positions: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """See `contract.Tracer`."""
        points = self._tensor(positions)
        parts = [self._densities(parameters, part)[1] for part in points.split(DENSITY_ROWS)]
        return torch.cat(parts).cpu().numpy()

    @torch.no_grad()
    def render(
        self,
        scene: TracedScene,
        experts: Sequence[Parameters],
        background: Parameters,
        rays: Rays,
        max_samples: int | None = None,
    ) -> TracedRays:
        """See `contract.Tracer`."""
        batch = self._light(scene, experts, rays, max_samples)
        behind = background_rgb(background, scene.settings, batch.harmonics)
        rgb, opacity, depth = self._shade(batch, behind)
        return TracedRays(rgb.cpu().numpy(), opacity.cpu().numpy(), depth.cpu().numpy())

    def loss_gradient(
        self,
        scene: TracedScene,
        experts: Sequence[Parameters],
        background: Parameters,
        rays: Rays,
        truth: NDArray[np.float32],
        gradients: Gradients,
    ) -> LossReport:
        """See `contract.Tracer`."""
        with torch.no_grad():
            batch = self._light(scene, experts, rays, None)
        sky = background if gradients.background is None else _leaves(background)
        groups = [g for g in batch.groups if len(g.sample_ids) and g.expert in gradients.experts]
        for group in groups:
            group.leaves = _leaves({n: v for n, v in group.parameters.items() if n != "table"})
            group.features.requires_grad_(self.grid is not None)
        with torch.enable_grad():
            behind = background_rgb(sky, scene.settings, batch.harmonics)
            shown = _shown(self._shade(batch, behind)[0], scene)
            loss = (shown - self._tensor(truth)).square().mean()
            mse = float(loss.detach())
            if math.isfinite(mse) and loss.requires_grad:
                loss.backward()
                self._hand_over(groups, sky, gradients)
        touched = frozenset(g.expert for g in groups) if math.isfinite(mse) else frozenset()
        return LossReport(
            mse, len(batch.deltas), touched, rays, batch.samples.to_samples(),
            batch.sigmas.cpu().numpy(),
        )  # fmt: skip

    def _hand_over(self, groups: list[_Group], sky: Parameters, gradients: Gradients) -> None:
        """Add what backward found to the buffers."""
        for group in groups:
            buffers = gradients.experts[group.expert]
            for name, leaf in group.leaves.items():
                _add(leaf, buffers[name])
            if self.grid is not None and group.features.grad is not None:
                found = group.features.grad
                self.grid.add_table_gradient(group.positions, found, buffers["table"])
        if gradients.background is not None:
            for name, leaf in sky.items():
                _add(leaf, gradients.background[name])

    def _light(
        self,
        scene: TracedScene,
        experts: Sequence[Parameters],
        rays: Rays,
        max_samples: int | None,
    ) -> _Lit:
        """March, weigh, and keep what light reaches."""
        samples = self._march(scene, rays, max_samples)
        harmonics = spherical_harmonics(self._tensor(rays.directions))
        deltas = samples.dts * scene.scale_m
        sigmas = torch.zeros_like(deltas)
        groups = []
        for group in self._groups(scene, experts, rays, samples):
            group.features, found = self._densities(group.parameters, group.positions)
            sigmas.index_add_(0, group.sample_ids, group.weights * found)
            groups.append(group)
        keep = transmittance(samples, sigmas * deltas) >= scene.sampling.min_transmittance
        places = keep.cumsum(0) - 1
        groups = [group.picked(keep, places) for group in groups]
        return _Lit(samples, sigmas, _kept(samples, keep), deltas[keep], harmonics, groups)

    def _march(self, scene: TracedScene, rays: Rays, max_samples: int | None) -> TensorSamples:
        s = scene.sampling
        origins, directions = self._tensor(rays.origins), self._tensor(rays.directions)
        samples = tensor_march(
            self._on_device(scene.march),
            origins,
            directions,
            self._tensor(rays.jitter),
            near=(s.near_m or 0.0) / scene.scale_m,
            far=1e9 if s.far_m is None else s.far_m / scene.scale_m,
            step=s.step_m / scene.scale_m,
            growth=s.step_growth,
            max_samples=min(s.max_samples, max_samples or s.max_samples),
        )
        if scene.variants is None:
            return samples
        points = origins[samples.ray_ids] + samples.ts[:, None] * directions[samples.ray_ids]
        return replace(samples, owners=scene.variants.applied(samples.owners, points))

    def _on_device(self, scene: MarchScene) -> DeviceScene:
        """The scene on the tracer's device, uploaded where it is not what was traced last."""
        found = self._scene
        if found is None or not found.shows(scene):
            self._scene = found = DeviceScene.of(scene, self.device)
        return found

    def _groups(
        self,
        scene: TracedScene,
        experts: Sequence[Parameters],
        rays: Rays,
        samples: TensorSamples,
    ) -> list[_Group]:
        """Entries by expert, of the experts that samples meet; only those are fetched."""
        ids, slots = (samples.owners >= 0).nonzero(as_tuple=True)
        owners, weights = samples.owners[ids, slots], samples.owner_weights[ids, slots]
        order = torch.argsort(owners, stable=True)
        met, counts = torch.unique_consecutive(owners[order], return_counts=True)
        origins, directions = self._tensor(rays.origins), self._tensor(rays.directions)
        groups = []
        for expert, own in zip(met.tolist(), order.split(counts.tolist()), strict=True):
            low, high = scene.box(expert)
            own_ids = ids[own]
            ray_ids = samples.ray_ids[own_ids]
            points = origins[ray_ids] + samples.ts[own_ids, None] * directions[ray_ids]
            edge = 1.0 / float((high - low).max())
            positions = ((points - self._tensor(low)) * edge).clamp(0.0, 1.0)
            nothing = positions.new_empty(0)
            groups.append(
                _Group(expert, experts[expert], own_ids, weights[own], positions, nothing, {})
            )
        return groups

    def _densities(self, parameters: Parameters, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Features and densities of points."""
        if self.grid is None:
            features = frequencies(positions)
        else:
            features = self.grid.encode(positions, parameters["table"])
        with self._matrix_type():
            return features, reference.densities(parameters, features)

    def _shade(self, batch: _Lit, behind: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Composite the lit samples over the background."""
        sigmas = torch.zeros_like(batch.deltas)
        rgbs = sigmas.new_zeros(len(sigmas), 3)
        for group in batch.groups:
            harmonics = batch.harmonics[batch.lit.ray_ids[group.sample_ids]]
            with self._matrix_type():
                parameters = group.parameters | group.leaves
                found = reference.field(parameters, group.features, harmonics)
            sigmas = sigmas.index_add(0, group.sample_ids, group.weights * found[0])
            rgbs = rgbs.index_add(0, group.sample_ids, group.weights[:, None] * found[1])
        rgb, opacity, depth = composite(batch.lit, sigmas, rgbs, batch.deltas)
        return rgb + (1.0 - opacity)[:, None] * behind, opacity, depth

    def _matrix_type(self) -> torch.autocast:
        """bfloat16 matrix products where the settings ask for them."""
        use = self.architecture.settings.use_bf16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=use)

    def _tensor(self, array: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def _leaves(parameters: Parameters) -> Parameters:
    return {name: value.detach().requires_grad_() for name, value in parameters.items()}


def _add(leaf: Tensor, buffer: Tensor) -> None:
    if leaf.grad is not None:
        buffer.add_(leaf.grad)


def _kept(samples: TensorSamples, keep: Tensor) -> TensorSamples:
    """Some of the samples; `keep` is a beginning of every ray."""
    ids = samples.ray_ids[keep]
    counts = torch.bincount(ids, minlength=len(samples.ray_starts) - 1)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return TensorSamples(
        starts, ids, samples.ts[keep], samples.dts[keep],
        samples.owners[keep], samples.owner_weights[keep],
    )  # fmt: skip


def _shown(rgb: Tensor, scene: TracedScene) -> Tensor:
    """sRGB of composited colours."""
    return linear_to_srgb(rgb.clamp_min(0.0)) if scene.settings.colour_space == "linear" else rgb
