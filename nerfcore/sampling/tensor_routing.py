"""Routes points to experts in tensor operations on any device, as `sampling.march` does.

Only the candidates of a point's place are looked at, however many experts there are. What a device
holds of a scene is uploaded when it changes, not at every batch. Lengths are world units.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nerfcore.sampling.march import MAX_OWNERS, MarchScene

ROUTED_PAIRS = 1 << 22


@dataclass(frozen=True)
class DeviceScene:
    """A `MarchScene` on a device.

    Attributes:
        source: what it was made of.
        aabb, centroids, mins, maxs, dims: as there.
        candidates: i64[cells, most], with places of `table_dims` along the scene box.
        table_scale, cell_scales: cells a unit, of the candidates' table and of each expert.
        words, word_offsets, depths: occupancy, see `Columns`; words are its bits as i64.
    """

    source: MarchScene
    aabb: Tensor
    centroids: Tensor
    mins: Tensor
    maxs: Tensor
    dims: Tensor
    candidates: Tensor
    table_dims: Tensor
    table_scale: Tensor
    cell_scales: Tensor
    words: Tensor
    word_offsets: Tensor
    depths: Tensor

    @staticmethod
    def of(scene: MarchScene, device: torch.device) -> "DeviceScene":
        """Upload a scene."""
        extent, sizes = scene.aabb[1] - scene.aabb[0], scene.box_maxs - scene.box_mins
        routing, columns = scene.routing, scene.columns
        arrays = (
            scene.aabb, scene.centroids, scene.box_mins, scene.box_maxs,
            scene.cell_dims.astype(np.int64), routing.candidates.astype(np.int64), routing.dims,
            (routing.dims / extent).astype(np.float32),
            (scene.cell_dims / sizes).astype(np.float32),
            columns.words.view(np.int64), columns.offsets, columns.depths,
        )  # fmt: skip
        tensors = [torch.tensor(np.ascontiguousarray(a)).to(device) for a in arrays]
        return DeviceScene(scene, *tensors)

    def shows(self, scene: MarchScene) -> bool:
        """Whether it is still what `of` would make: those arrays are replaced, never written to."""
        own = self.source
        same = (
            own.columns is scene.columns
            and own.routing is scene.routing
            and own.box_mins is scene.box_mins
        )
        return same and (own.margin, own.first_axis) == (scene.margin, scene.first_axis)


def owners_of(scene: DeviceScene, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Experts i64[N, MAX_OWNERS] of points f32[N, 3], their weights, and which are occupied."""
    parts = points.split(max(1, ROUTED_PAIRS // scene.candidates.shape[1]))
    found = zip(*(_owners(scene, part) for part in parts), strict=True)
    owners, weights, occupied = (torch.cat(values) for values in found)
    return owners, weights, occupied


def _owners(scene: DeviceScene, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    margin = float(scene.source.margin)
    candidates = scene.candidates[_place(scene, points)]
    known = candidates.clamp_min(0)
    away = points[:, None, :] - scene.centroids[known]
    square = away[..., scene.source.first_axis :].square().sum(-1)
    square = square.masked_fill(candidates < 0, torch.inf)
    nearest = square.amin(1, keepdim=True)
    # not a squared reach: rounded, it may miss the nearest expert itself where the margin is 1
    chosen = (square <= margin**2 * nearest) & (candidates >= 0)
    own = points[:, None, :]
    chosen &= ((own >= scene.mins[known]) & (own < scene.maxs[known])).all(-1)
    raw = (margin * (nearest / square).sqrt() - 1.0).clamp_min(1e-6)
    raw = torch.where(chosen, torch.where(square > 0, raw, 1e-6), 0.0)
    columns, kept = _greatest(raw)
    slots = (kept > 0).cumsum(1) - 1
    rows, found = (kept > 0).nonzero(as_tuple=True)
    slots, experts = slots[rows, found], candidates[rows, columns[rows, found]]
    owners = torch.full((len(points), MAX_OWNERS), -1, device=points.device)
    weights = points.new_zeros(len(points), MAX_OWNERS)
    owners[rows, slots] = experts
    weights[rows, slots] = kept[rows, found]
    weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-30)
    occupied = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    occupied[rows[_occupied(scene, points[rows], experts)]] = True
    return owners, weights, occupied


def _greatest(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Columns of the greatest weights of f32[N, C], in order, and those less the next one's."""
    values, columns = raw.topk(min(MAX_OWNERS + 1, raw.shape[1]), dim=1)
    if values.shape[1] > MAX_OWNERS:
        kept, left_out = values[:, :MAX_OWNERS], values[:, MAX_OWNERS:]
        less = torch.where(left_out > 0, (kept - left_out).clamp_min(1e-6), kept)
        values, columns = torch.where(kept > 0, less, kept), columns[:, :MAX_OWNERS]
    columns, order = columns.sort(1)
    return columns, values.gather(1, order)


def _place(scene: DeviceScene, points: Tensor) -> Tensor:
    """Row of `candidates` for each point."""
    cell = ((points - scene.aabb[0]) * scene.table_scale).long()
    cell = torch.minimum(cell.clamp_min(0), scene.table_dims - 1)
    return (cell[:, 0] * scene.table_dims[1] + cell[:, 1]) * scene.table_dims[2] + cell[:, 2]


def _occupied(scene: DeviceScene, points: Tensor, experts: Tensor) -> Tensor:
    """Whether an expert's cell around each point is occupied, bool[N]."""
    dims = scene.dims[experts]
    cell = ((points - scene.mins[experts]) * scene.cell_scales[experts]).long()
    i, j, k = torch.minimum(cell.clamp_min(0), dims - 1).unbind(1)
    column = (j * dims[:, 2] + k) * scene.depths[experts]
    words = scene.words[scene.word_offsets[experts] + column + (i >> 6)]
    return ((words >> (i & 63)) & 1).bool()
