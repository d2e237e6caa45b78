"""Marches rays in tensor operations on any device: the same samples as `sampling.march`.

All rays walk together, `BLOCK_STEPS` steps at a time; a block's points are routed to their experts
at once, and what lies in empty cells is dropped before the next block. Lengths are world units.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nerfcore.sampling.march import Samples
from nerfcore.sampling.tensor_routing import DeviceScene, owners_of

BLOCK_STEPS = 32
MAX_STRETCHES = 3


@dataclass(frozen=True)
class TensorSamples:
    """`Samples` as tensors: sorted by ray, then by distance.

    Attributes:
        ray_starts: i64[R + 1]; ray_ids: i64[S]; ts, dts: f32[S].
        owners: i64[S, MAX_OWNERS], -1 where unused; owner_weights: f32[S, MAX_OWNERS].
    """

    ray_starts: Tensor
    ray_ids: Tensor
    ts: Tensor
    dts: Tensor
    owners: Tensor
    owner_weights: Tensor

    @property
    def ranks(self) -> Tensor:
        """Place of each sample within its ray, i64[S]."""
        places = torch.arange(len(self.ray_ids), device=self.ray_ids.device)
        return places - self.ray_starts[self.ray_ids]

    def to_samples(self) -> Samples:
        """The same in NumPy arrays."""
        return Samples(
            self.ray_starts.cpu().numpy(),
            self.ray_ids.cpu().numpy().astype(np.int32),
            self.ts.cpu().numpy(),
            self.dts.cpu().numpy(),
            self.owners.cpu().numpy().astype(np.int16),
            self.owner_weights.cpu().numpy(),
        )


@dataclass(frozen=True)
class _Walk:
    """Rays to walk: where they begin and end, and how steps grow."""

    origins: Tensor
    directions: Tensor
    jitter: Tensor
    begins: Tensor
    ends: Tensor
    stretches: Tensor
    step: float
    growth: float

    def of(self, rays: Tensor, stretches: Tensor) -> "_Walk":
        """Some of the rays, with other stretches."""
        return _Walk(
            self.origins[rays], self.directions[rays], self.jitter[rays],
            self.begins[rays], self.ends[rays], stretches, self.step, self.growth,
        )  # fmt: skip


# Ray ids, ts, dts, owners and owner weights of occupied samples, in any order of rays.
_Found = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def box_interval(
    origins: Tensor, directions: Tensor, box: Tensor, near: float, far: float
) -> tuple[Tensor, Tensor]:
    """Where rays f[R, 3] are inside a box f[2, 3]: begin f[R] and end f[R], begin > end for never.

    Rays that are not finite or have no direction never are.

    Args:
        near, far: bounds of the interval.
    """
    parallel = directions.abs() < 1e-12
    slopes = torch.where(parallel, torch.ones_like(directions), directions)
    a, b = (box[0] - origins) / slopes, (box[1] - origins) / slopes
    enters = torch.where(parallel, -torch.inf, torch.minimum(a, b))
    leaves = torch.where(parallel, torch.inf, torch.maximum(a, b))
    begins, ends = enters.amax(1).clamp_min(near), leaves.amin(1).clamp_max(far)
    outside = (parallel & ((origins < box[0]) | (origins > box[1]))).any(1)
    lengths = directions.square().sum(1)
    outside |= ~((origins.sum(1).abs() < 1e30) & (lengths > 1e-12) & (lengths < 1e30))
    return begins.masked_fill(outside, 1.0), ends.masked_fill(outside, 0.0)


def tensor_march(
    scene: DeviceScene,
    origins: Tensor,
    directions: Tensor,
    jitter: Tensor,
    *,
    near: float,
    far: float,
    step: float,
    growth: float,
    max_samples: int,
) -> TensorSamples:
    """Place samples along rays f32[R, 3] of one device; arguments as in `sampling.march.march`."""
    begins, ends = box_interval(origins, directions, scene.aabb, near, far)
    stretches = torch.ones_like(begins)
    walk = _Walk(origins, directions, jitter, begins, ends, stretches, step, growth)
    found = _walk(scene, walk)
    counts = torch.bincount(found[0], minlength=len(origins))
    for _ in range(MAX_STRETCHES):
        over = (counts > max_samples).nonzero()[:, 0]
        if not len(over):
            break
        stretches[over] *= counts[over].float() / max_samples * 1.02
        again = _walk(scene, walk.of(over, stretches[over]))
        kept = (counts <= max_samples)[found[0]]
        found = _joined([tuple(v[kept] for v in found), (over[again[0]], *again[1:])])
        counts = torch.bincount(found[0], minlength=len(origins))
    return _packed(found, counts, max_samples)


def _joined(parts: list) -> _Found:  # type: ignore[type-arg]
    """Concatenate, sorted by ray; a ray's own order is kept."""
    joined = [torch.cat(values) for values in zip(*parts, strict=True)]
    order = torch.argsort(joined[0], stable=True)
    ids, ts, dts, owners, weights = (values[order] for values in joined)
    return ids, ts, dts, owners, weights


def _packed(found: _Found, counts: Tensor, max_samples: int) -> TensorSamples:
    """Cut every ray's samples at the cap."""
    full = torch.cumsum(counts, 0) - counts
    ranks = torch.arange(len(found[0]), device=counts.device) - full[found[0]]
    ids, ts, dts, owners, weights = (values[ranks < max_samples] for values in found)
    starts = torch.cat([counts.new_zeros(1), counts.clamp_max(max_samples).cumsum(0)])
    return TensorSamples(starts, ids, ts, dts, owners, weights)


def _walk(scene: DeviceScene, walk: _Walk) -> _Found:
    """All occupied samples of the rays, without a cap."""
    t = walk.begins
    blocks = []
    while not blocks or bool((t < walk.ends).any()):
        ts, dts, inside = [], [], []
        for _ in range(BLOCK_STEPS):
            inside.append(t < walk.ends)
            dt = (walk.growth * t).clamp_min(walk.step) * walk.stretches
            dt = torch.minimum(dt, walk.ends - t)
            ts.append(t + walk.jitter * dt)
            dts.append(dt)
            # a step too short to move t in float32 must not walk on the spot
            t = t + torch.maximum(dt, 1e-7 * t.clamp_min(1.0))
        steps = (torch.stack(values, 1) for values in (ts, dts, inside))
        blocks.append(_occupied(scene, walk, *steps))
    return _joined(blocks)


def _occupied(scene: DeviceScene, walk: _Walk, ts: Tensor, dts: Tensor, inside: Tensor) -> _Found:
    """The samples [R, steps] that lie inside and in occupied cells."""
    rays, steps = inside.nonzero(as_tuple=True)
    ts, dts = ts[rays, steps], dts[rays, steps]
    points = walk.origins[rays] + ts[:, None] * walk.directions[rays]
    owners, weights, occupied = owners_of(scene, points)
    return rays[occupied], ts[occupied], dts[occupied], owners[occupied], weights[occupied]
