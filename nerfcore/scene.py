"""Owns a whole scene model: experts, background, occupancy, frame; and rendering pictures from it.

World frame DRB, camera axes RUB (see `nerfcore.geometry.camera`). Parameters are plain tensors
without autograd; training writes gradients into buffers (see `nerfcore.training`).
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nerfcore.background import initial_background
from nerfcore.colour import linear_to_srgb
from nerfcore.data.partition import Partition
from nerfcore.data.records import SceneFrame
from nerfcore.field.backends import chosen_tracer, resolve_device
from nerfcore.field.memory import require_memory, scene_needs
from nerfcore.field.parameters import Architecture, Parameters, initial_parameters
from nerfcore.field.workers import worker_count
from nerfcore.geometry.camera import Camera, Rendered
from nerfcore.sampling.headway import headway
from nerfcore.sampling.march import MarchScene
from nerfcore.sampling.occupancy import OccupancyGrid, full_grid, grid_dims
from nerfcore.sampling.routing import build_routing
from nerfcore.settings import BackendName, ModelSettings, SamplingSettings
from nerfcore.tracing.contract import Rays, TracedScene
from nerfcore.variants import Variants

RENDER_CHUNK_RAYS = 4096


@dataclass
class SceneModel:
    """A city as spatial experts.

    Attributes:
        frame: where the scene lies and its scale.
        partition: which expert owns what.
        settings: architecture; sampling: where samples lie.
        experts: parameters of each expert, local copies behind them; background: of the
            background MLP.
        occupancy: which cells may hold matter.
        device, backend_name: where and how fields are evaluated, as asked.
        backend_used: the backend that "auto" chose, else the one asked for.
        variants: where local copies answer, or None.
    """

    frame: SceneFrame
    partition: Partition
    settings: ModelSettings
    sampling: SamplingSettings
    experts: Sequence[Parameters]
    background: Parameters
    occupancy: OccupancyGrid
    device: torch.device
    backend_name: BackendName = "auto"
    variants: Variants | None = None
    architecture: Architecture = field(init=False)
    backend_used: BackendName = field(init=False)

    def __post_init__(self) -> None:
        self.architecture = Architecture.of(self.settings)
        p = self.partition
        self.routing = build_routing(
            p.aabb, p.centroids, p.boundary_margin, 1 if p.cluster_2d else 0
        )
        self.backend_used, self.tracer = chosen_tracer(
            self.backend_name, self.architecture, self.device
        )

    @property
    def scale_m(self) -> float:
        """Metres per world unit."""
        return self.frame.pose_scale_factor_m

    def computation(self) -> dict[str, Any]:
        """Say how fields are evaluated: backend, bfloat16 or not, threads on the CPU."""
        compiled = self.backend_used == "numba"
        return {
            "backend": self.backend_used,
            "bf16": self.settings.use_bf16 and not compiled,
            "threads": worker_count() if compiled else torch.get_num_threads(),
        }

    def traced(self, sampling: SamplingSettings | None = None) -> TracedScene:
        """What tracing needs, sharing this model's occupancy; `sampling` replaces its own."""
        sampling = sampling or self.sampling
        p, grid = self.partition, self.occupancy
        cells = grid.occupied if sampling.use_occupancy else np.ones_like(grid.occupied)
        march = MarchScene(
            p.aabb, p.centroids, p.box_mins, p.box_maxs, p.boundary_margin,
            1 if p.cluster_2d else 0, self.routing, cells, grid.offsets, grid.dims,
            grid.columns(use_occupancy=sampling.use_occupancy),
        )  # fmt: skip
        return TracedScene(march, sampling, self.settings, self.scale_m, self.variants)

    def densities(self, expert: int, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """One expert's densities f32[N] per metre at world points f32[N, 3]."""
        low = self.partition.box_mins[expert]
        edge = (self.partition.box_maxs[expert] - low).max()
        local = np.clip((points - low) / edge, 0.0, 1.0).astype(np.float32)
        if self.variants is None:
            return self.tracer.densities(self.experts[expert], local)
        found = np.empty(len(points), np.float32)
        answering = self.variants.answering(expert, points)
        for k in np.unique(answering):
            own = answering == k
            found[own] = self.tracer.densities(self.experts[int(k)], local[own])
        return found

    def shown_rgb(self, rgb: Tensor) -> Tensor:
        """sRGB of composited colours."""
        if self.settings.colour_space == "linear":
            return linear_to_srgb(rgb.clamp_min(0.0))
        return rgb

    def with_sampling(self, sampling: SamplingSettings) -> "SceneModel":
        """The same model with other sampling; parameters, occupancy and tracer are shared."""
        other = copy.copy(self)
        other.sampling = sampling
        return other

    @torch.no_grad()
    def render_rays(
        self,
        origins: NDArray[np.float32],
        directions: NDArray[np.float32],
        max_samples: int | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Render rays f32[R, 3]; return sRGB f32[R, 3], opacity f32[R] and depth f32[R] in metres.

        Depth is NaN where opacity < 0.5.
        """
        rays = Rays(origins, directions, np.full(len(origins), 0.5, np.float32))
        found = self.tracer.render(self.traced(), self.experts, self.background, rays, max_samples)
        rgb = self.shown_rgb(torch.from_numpy(found.rgb)).clamp(0.0, 1.0)
        solid = found.opacity >= 0.5
        depth_m = np.full(len(solid), np.nan, np.float32)
        depth_m[solid] = found.depth[solid] / found.opacity[solid] * np.float32(self.scale_m)
        return rgb.numpy(), found.opacity, depth_m

    def render(
        self,
        camera: Camera,
        *,
        max_samples: int | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Rendered | None:
        """Render one picture.

        A step spans at least `sampling.step_px` pixels, so a small picture takes few samples a ray;
        full-sized ones step as training did, also from farther away (`sampling.headway`).

        Args:
            camera: the view.
            max_samples: fewer samples a ray than the model's own limit.
            cancelled: asked between chunks of rays.

        Returns:
            The picture, or None if cancelled.
        """
        origins, directions = camera.rays()
        count = len(origins)
        own = self.sampling
        ahead = headway(origins, directions, self.partition.aabb, own, self.scale_m)
        origins = (origins + ahead * directions).astype(np.float32)
        ahead_m = ahead * self.scale_m
        model = self.with_sampling(replace(
            own,
            step_growth=max(own.step_growth, own.step_px / camera.fx),
            near_m=None if own.near_m is None else max(own.near_m - ahead_m, 0.0),
            far_m=None if own.far_m is None else own.far_m - ahead_m,
        ))  # fmt: skip
        rgb = np.empty((count, 3), np.float32)
        depth_m, opacity = np.empty(count, np.float32), np.empty(count, np.float32)
        for begin in range(0, count, RENDER_CHUNK_RAYS):
            if cancelled is not None and cancelled():
                return None
            chunk = slice(begin, begin + RENDER_CHUNK_RAYS)
            rgb[chunk], opacity[chunk], depth_m[chunk] = model.render_rays(
                origins[chunk], directions[chunk], max_samples
            )
        shape = (camera.height_px, camera.width_px)
        depth_m += np.float32(ahead_m)
        return Rendered(rgb.reshape(*shape, 3), depth_m.reshape(shape), opacity.reshape(shape))


def new_scene(
    frame: SceneFrame,
    partition: Partition,
    settings: ModelSettings,
    sampling: SamplingSettings,
    *,
    cell_m: float,
    device: str = "auto",
    backend: BackendName = "auto",
    seed: int = 0,
) -> SceneModel:
    """Make an untrained scene model.

    Args:
        cell_m: wished edge of an occupancy cell.
        Others as the attributes of `SceneModel`.

    Raises:
        SettingsError: the experts do not fit in memory (checked before allocation).
        BackendUnavailableError: see `nerfcore.field.backends`.
    """
    architecture = Architecture.of(settings)
    target = resolve_device(device)
    cell = cell_m / frame.pose_scale_factor_m
    cells = int(grid_dims(partition, cell).astype(np.int64).prod(axis=1).sum())
    what = f"log2_hashmap_size {settings.grid.log2_size}, {len(partition)} experts"
    require_memory(what, scene_needs(architecture, len(partition), cells, target))
    generator = torch.Generator().manual_seed(seed)
    experts = [
        {
            name: value.to(target)
            for name, value in initial_parameters(architecture, generator).items()
        }
        for _ in partition.centroids
    ]
    background = {
        name: value.to(target) for name, value in initial_background(settings, generator).items()
    }
    grid = full_grid(partition, cell)
    return SceneModel(
        frame, partition, settings, sampling, experts, background, grid, target, backend
    )
