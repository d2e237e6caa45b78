"""Groups samples by the experts that own them, and gives each expert its own coordinates."""

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from nerfcore.compiled import EXACT, FAST
from nerfcore.sampling.march import Samples

_BLOCK = 8192


@dataclass(frozen=True)
class Entries:
    """Entries (sample, expert) grouped by expert.

    Attributes:
        starts: i64[K + 1], entries of expert k are starts[k] .. starts[k + 1].
        sample_ids: i64[E]; weights: f32[E].
    """

    starts: NDArray[np.int64]
    sample_ids: NDArray[np.int64]
    weights: NDArray[np.float32]


@numba.njit(**EXACT)
def _group(owners, owner_weights, keep, starts, sample_ids, weights):  # type: ignore[no-untyped-def]
    cursor = starts[:-1].copy()
    for s in range(owners.shape[0]):
        if not keep[s]:
            continue
        for n in range(owners.shape[1]):
            k = owners[s, n]
            if k < 0:
                break
            sample_ids[cursor[k]] = s
            weights[cursor[k]] = owner_weights[s, n]
            cursor[k] += 1


@numba.njit(**EXACT)
def _count(owners, keep, counts):  # type: ignore[no-untyped-def]
    for s in range(owners.shape[0]):
        if keep[s]:
            for n in range(owners.shape[1]):
                if owners[s, n] < 0:
                    break
                counts[owners[s, n] + 1] += 1


def group_by_expert(samples: Samples, experts: int, keep: NDArray[np.bool_] | None) -> Entries:
    """Group the entries of the kept samples (all, if `keep` is None) by expert."""
    kept = np.ones(samples.count, np.bool_) if keep is None else keep
    starts = np.zeros(experts + 1, np.int64)
    _count(samples.owners, kept, starts)
    np.cumsum(starts, out=starts)
    sample_ids = np.empty(int(starts[-1]), np.int64)
    weights = np.empty(int(starts[-1]), np.float32)
    _group(samples.owners, samples.owner_weights, kept, starts, sample_ids, weights)
    return Entries(starts, sample_ids, weights)


@numba.njit(parallel=True, **FAST)
def _local(starts, sample_ids, ray_ids, ts, origins, directions, lows, scales, out):  # type: ignore[no-untyped-def]
    count = sample_ids.shape[0]
    for block in numba.prange((count + _BLOCK - 1) // _BLOCK):
        k = 0
        for e in range(block * _BLOCK, min(count, (block + 1) * _BLOCK)):
            while e >= starts[k + 1]:
                k += 1
            s = sample_ids[e]
            r = ray_ids[s]
            for axis in range(3):
                x = origins[r, axis] + ts[s] * directions[r, axis] - lows[k, axis]
                out[axis, e] = min(max(x * scales[k], np.float32(0.0)), np.float32(1.0))


def entry_positions(
    samples: Samples,
    entries: Entries,
    origins: NDArray[np.float32],
    directions: NDArray[np.float32],
    lows: NDArray[np.float32],
    highs: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return all entries' points f32[3, E], each in its expert's unit cube.

    A box is scaled by its longest edge, so grid cells are cubes.

    Args:
        lows, highs: f32[K, 3], the experts' boxes.
    """
    out = np.empty((3, len(entries.sample_ids)), np.float32)
    scales = (1.0 / (highs - lows).max(axis=1)).astype(np.float32)
    _local(
        entries.starts, entries.sample_ids, samples.ray_ids, samples.ts, origins, directions, lows,
        scales, out,
    )  # fmt: skip
    return out


def local_positions(
    samples: Samples,
    sample_ids: NDArray[np.int64],
    origins: NDArray[np.float32],
    directions: NDArray[np.float32],
    box_min: NDArray[np.float32],
    box_max: NDArray[np.float32],
) -> NDArray[np.float32]:
    """`entry_positions` of one expert's samples."""
    starts = np.array([0, len(sample_ids)], np.int64)
    entries = Entries(starts, sample_ids, np.ones(len(sample_ids), np.float32))
    return entry_positions(samples, entries, origins, directions, box_min[None], box_max[None])
