"""Marches rays through the scene box and places samples where matter may be.

A ray is cut into steps dt = max(step, growth * t); a step's sample lies at t + jitter * dt and is
kept where an expert that may answer there calls its cell occupied. Every kept sample names at most
`MAX_OWNERS` experts with weights that sum to 1:

    w_k ~ m d_min / d_k - 1   for d_k < m d_min,   d_k = distance to centroid k, m = boundary margin

which falls to 0 at the margin, so opacity has no seam, and is the nearest expert alone for m = 1.
Where more experts are within the margin, those of the greatest weights answer, each less the
greatest weight left out: so an expert that takes another's place begins at 0.
All lengths are world units (see `nerfcore.data.dataset`).
"""

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from nerfcore.compiled import EXACT, FAST
from nerfcore.sampling.columns import Columns
from nerfcore.sampling.routing import Routing

MAX_OWNERS = 4
MOST_STRETCHES = 3


@dataclass(frozen=True)
class Samples:
    """Packed samples of a batch of rays, and the entries (sample, expert) that shade them.

    Attributes:
        ray_starts: i64[R + 1], samples of ray r are ray_starts[r] .. ray_starts[r + 1].
        ray_ids: i32[S].
        ts, dts: f32[S], middle distance and step length.
        owners: i16[S, MAX_OWNERS], expert indices, -1 where unused.
        owner_weights: f32[S, MAX_OWNERS].
    """

    ray_starts: NDArray[np.int64]
    ray_ids: NDArray[np.int32]
    ts: NDArray[np.float32]
    dts: NDArray[np.float32]
    owners: NDArray[np.int16]
    owner_weights: NDArray[np.float32]

    @property
    def count(self) -> int:
        return len(self.ts)


@dataclass(frozen=True)
class MarchScene:
    """What marching needs to know of the scene.

    Attributes:
        aabb: f32[2, 3], the scene box.
        centroids: f32[K, 3]; box_mins, box_maxs: f32[K, 3].
        margin: boundary margin, >= 1.
        first_axis: first axis of the routing distance: 1 for horizontal routing, else 0.
        routing: which experts may own a point, by place.
        cells: u8[total], occupancy of all experts' cells (0 = empty).
        cell_offsets: i64[K]; cell_dims: i32[K, 3], C order.
        columns: the same cells as bits.
    """

    aabb: NDArray[np.float32]
    centroids: NDArray[np.float32]
    box_mins: NDArray[np.float32]
    box_maxs: NDArray[np.float32]
    margin: float
    first_axis: int
    routing: Routing
    cells: NDArray[np.uint8]
    cell_offsets: NDArray[np.int64]
    cell_dims: NDArray[np.int32]
    columns: Columns


@numba.njit(inline="always")
def _box_interval(ox, oy, oz, dx, dy, dz, aabb, near, far):  # type: ignore[no-untyped-def]
    start, end = near, far
    if not (abs(ox + oy + oz) < 1e30 and 1e-12 < dx * dx + dy * dy + dz * dz < 1e30):
        return np.float32(1.0), np.float32(0.0)
    for axis in range(3):
        o = ox if axis == 0 else (oy if axis == 1 else oz)
        d = dx if axis == 0 else (dy if axis == 1 else dz)
        if abs(d) < 1e-12:
            if o < aabb[0, axis] or o > aabb[1, axis]:
                return np.float32(1.0), np.float32(0.0)
        else:
            a = (aabb[0, axis] - o) / d
            b = (aabb[1, axis] - o) / d
            start = max(start, min(a, b))
            end = min(end, max(a, b))
    return np.float32(start), np.float32(end)


@numba.njit(inline="always")
def _owners_at(  # type: ignore[no-untyped-def]
    x, y, z, aabb, table, table_scale, table_dims, centroids, mins, maxs, scales, margin, first,
    words, offsets, depths, dims, ids, weights,
):  # fmt: skip
    """Fill ids and weights; return (owner count, occupied)."""
    most = weights.shape[0]
    left_out = np.float32(0.0)
    place = _cell(x, y, z, aabb[0], table_scale, table_dims)
    candidates = table[place]
    single = candidates.shape[0] == 1 or candidates[1] < 0
    nearest = np.float32(1e30)
    if not single:
        for c in range(candidates.shape[0]):
            k = candidates[c]
            if k < 0:
                break
            nearest = min(nearest, _square(x, y, z, centroids, k, first))
    count = 0
    occupied = False
    total = np.float32(0.0)
    for c in range(candidates.shape[0]):
        k = candidates[c]
        if k < 0:
            break
        weight = np.float32(1.0)
        if not single:
            square = _square(x, y, z, centroids, k, first)
            if square > margin * margin * nearest:
                continue
            weight = np.float32(1e-6)
            if square > 0:
                weight = max(weight, margin * np.sqrt(nearest / square) - np.float32(1.0))
        if (
            x < mins[k, 0] or y < mins[k, 1] or z < mins[k, 2]
            or x >= maxs[k, 0] or y >= maxs[k, 1] or z >= maxs[k, 2]
        ):  # fmt: skip
            continue
        slot = count
        if count == most:
            slot = np.argmin(weights)
            if weight <= weights[slot]:
                left_out = max(left_out, weight)
                continue
            left_out = max(left_out, weights[slot])
        else:
            count += 1
        ids[slot] = k
        weights[slot] = weight
    for n in range(count):
        k = ids[n]
        if left_out > 0:
            weights[n] = max(weights[n] - left_out, np.float32(1e-6))
        total += weights[n]
        i = min(max(int((x - mins[k, 0]) * scales[k, 0]), 0), dims[k, 0] - 1)
        j = min(max(int((y - mins[k, 1]) * scales[k, 1]), 0), dims[k, 1] - 1)
        m = min(max(int((z - mins[k, 2]) * scales[k, 2]), 0), dims[k, 2] - 1)
        word = words[offsets[k] + (np.int64(j) * dims[k, 2] + m) * depths[k] + (i >> 6)]
        if (word >> np.uint64(i & 63)) & np.uint64(1):
            occupied = True
    if count > 1 and occupied:
        for n in range(count):
            weights[n] /= total
    elif count == 1:
        weights[0] = np.float32(1.0)
    return count, occupied


@numba.njit(inline="always")
def _cell(x, y, z, low, scale, dims):  # type: ignore[no-untyped-def]
    """Index of a point's cell in a box, C order."""
    i = min(max(int((x - low[0]) * scale[0]), 0), dims[0] - 1)
    j = min(max(int((y - low[1]) * scale[1]), 0), dims[1] - 1)
    k = min(max(int((z - low[2]) * scale[2]), 0), dims[2] - 1)
    return (np.int64(i) * dims[1] + j) * dims[2] + k


@numba.njit(inline="always")
def _square(x, y, z, centroids, k, first):  # type: ignore[no-untyped-def]
    """Squared routing distance of a point to a centroid."""
    b, c = y - centroids[k, 1], z - centroids[k, 2]
    square = b * b + c * c
    if first == 0:
        a = x - centroids[k, 0]
        square += a * a
    return square


@numba.njit(parallel=True, **FAST)
def _march(  # type: ignore[no-untyped-def]
    origins, directions, jitter, aabb, table, table_scale, table_dims, centroids, mins, maxs,
    scales, margin, first, words, offsets, depths, dims, near, far, step, growth, cap, counts, ts,
    dts, owners, owner_weights,
):  # fmt: skip
    """Write up to `cap` samples of ray r from r * cap on, and their number into counts[r + 1]."""
    chunk = 64
    rays = origins.shape[0]
    for part in numba.prange((rays + chunk - 1) // chunk):
        ids = np.empty(owners.shape[1], np.int16)
        weights = np.empty(owners.shape[1], np.float32)
        for r in range(part * chunk, min(rays, (part + 1) * chunk)):
            ox, oy, oz = origins[r, 0], origins[r, 1], origins[r, 2]
            dx, dy, dz = directions[r, 0], directions[r, 1], directions[r, 2]
            begin, end = _box_interval(ox, oy, oz, dx, dy, dz, aabb, near, far)
            stretch = np.float32(1.0)
            count = 0
            for attempt in range(MOST_STRETCHES + 1):
                t = begin
                count = 0
                while t < end:
                    dt = min(max(step, growth * t) * stretch, end - t)
                    middle = t + jitter[r] * dt
                    owned, occupied = _owners_at(
                        ox + middle * dx, oy + middle * dy, oz + middle * dz, aabb, table,
                        table_scale, table_dims, centroids, mins, maxs, scales, margin, first,
                        words, offsets, depths, dims, ids, weights,
                    )  # fmt: skip
                    t += max(dt, np.float32(1e-7) * max(t, np.float32(1.0)))
                    if not occupied:
                        continue
                    if count < cap:
                        slot = np.int64(r) * cap + count
                        ts[slot] = middle
                        dts[slot] = dt
                        for n in range(owners.shape[1]):
                            owners[slot, n] = ids[n] if n < owned else -1
                            owner_weights[slot, n] = weights[n] if n < owned else 0
                    elif attempt == MOST_STRETCHES:
                        break
                    count += 1
                if count <= cap:
                    break
                stretch *= np.float32(count) / np.float32(cap) * np.float32(1.02)
            counts[r + 1] = min(count, cap)


@numba.njit(parallel=True, **EXACT)
def _pack(  # type: ignore[no-untyped-def]
    cap, starts, ts, dts, owners, owner_weights, out_rays, out_ts, out_dts, out_owners, out_weights
):
    """Close the gaps between the rays' samples."""
    chunk = 64
    rays = starts.shape[0] - 1
    for part in numba.prange((rays + chunk - 1) // chunk):
        for r in range(part * chunk, min(rays, (part + 1) * chunk)):
            for i in range(starts[r + 1] - starts[r]):
                slot, out = np.int64(r) * cap + i, starts[r] + i
                out_rays[out] = r
                out_ts[out] = ts[slot]
                out_dts[out] = dts[slot]
                for n in range(owners.shape[1]):
                    out_owners[out, n] = owners[slot, n]
                    out_weights[out, n] = owner_weights[slot, n]


def march(
    scene: MarchScene,
    origins: NDArray[np.float32],
    directions: NDArray[np.float32],
    jitter: NDArray[np.float32],
    *,
    near: float,
    far: float,
    step: float,
    growth: float,
    max_samples: int,
) -> Samples:
    """Place samples along rays.

    Args:
        scene: boxes, routing and occupancy.
        origins, directions: f32[R, 3], directions of unit length.
        jitter: f32[R] in [0, 1), position of a sample within its step (0.5 for the middle).
        near, far: ray bounds.
        step, growth: step length and its growth per unit of distance.
        max_samples: most samples a ray; a ray with more occupied steps gets longer steps.

    Returns:
        Packed samples; a ray that misses the box or all matter has none.
    """
    rays = len(origins)
    starts = np.zeros(rays + 1, np.int64)
    sparse = _buffers(rays * max_samples)
    routing, columns = scene.routing, scene.columns
    table_scale = (routing.dims / (scene.aabb[1] - scene.aabb[0])).astype(np.float32)
    scales = (scene.cell_dims / (scene.box_maxs - scene.box_mins)).astype(np.float32)
    _march(
        origins, directions, jitter, scene.aabb, routing.candidates, table_scale, routing.dims,
        scene.centroids, scene.box_mins, scene.box_maxs, scales, np.float32(scene.margin),
        scene.first_axis, columns.words, columns.offsets, columns.depths, scene.cell_dims,
        np.float32(near),
        np.float32(far), np.float32(step), np.float32(growth), max_samples, starts, *sparse,
    )  # fmt: skip
    np.cumsum(starts, out=starts)
    count = int(starts[-1])
    ray_ids = np.empty(count, np.int32)
    packed = _buffers(count)
    _pack(max_samples, starts, *sparse, ray_ids, *packed)
    return Samples(starts, ray_ids, *packed)


def _buffers(count: int):  # type: ignore[no-untyped-def]
    return (
        np.empty(count, np.float32),
        np.empty(count, np.float32),
        np.empty((count, MAX_OWNERS), np.int16),
        np.empty((count, MAX_OWNERS), np.float32),
    )
