"""The hash grid as compiled CPU kernels, one thread a level.

Each thread walks all points of its level, so the level's part of the table stays in cache and the
gradient's scatter needs no atomics. The encoding is linear in the table, so `scatter` is both its
gradient and, with `encode`, its double gradient. Both kernels write out the eight corners: sharing
them through a function costs a fifth of the throughput.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from nerfcore.encoding.layout import GridLayout

_Y, _Z = np.uint32(2654435761), np.uint32(805459861)


@numba.njit(inline="always")
def _level_of(task: int, levels: int) -> int:
    """Alternate fine and coarse levels, so that contiguous halves cost the same."""
    return task // 2 if task % 2 == 0 else levels - 1 - task // 2


@numba.njit(inline="always")
def _row(x, y, z, dense, resolution, size):  # type: ignore[no-untyped-def]
    if dense:
        return (x + y * resolution + z * resolution * resolution) % size
    return (x ^ (y * _Y) ^ (z * _Z)) & (size - np.uint32(1))


@numba.njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
def _encode(positions, table, scales, resolutions, offsets, dense, out):  # type: ignore[no-untyped-def]
    levels = scales.shape[0]
    features = table.shape[1]
    one = np.uint32(1)
    for task in numba.prange(levels):
        level = _level_of(task, levels)
        scale = scales[level]
        resolution = np.uint32(resolutions[level])
        base = offsets[level]
        size = np.uint32(offsets[level + 1] - base)
        is_dense = dense[level]
        column = level * features
        for i in range(positions.shape[0]):
            px = positions[i, 0] * scale + np.float32(0.5)
            py = positions[i, 1] * scale + np.float32(0.5)
            pz = positions[i, 2] * scale + np.float32(0.5)
            x, y, z = np.uint32(px), np.uint32(py), np.uint32(pz)
            fx, fy, fz = px - np.float32(x), py - np.float32(y), pz - np.float32(z)
            gx, gy, gz = np.float32(1) - fx, np.float32(1) - fy, np.float32(1) - fz
            r0 = base + _row(x, y, z, is_dense, resolution, size)
            r1 = base + _row(x + one, y, z, is_dense, resolution, size)
            r2 = base + _row(x, y + one, z, is_dense, resolution, size)
            r3 = base + _row(x + one, y + one, z, is_dense, resolution, size)
            r4 = base + _row(x, y, z + one, is_dense, resolution, size)
            r5 = base + _row(x + one, y, z + one, is_dense, resolution, size)
            r6 = base + _row(x, y + one, z + one, is_dense, resolution, size)
            r7 = base + _row(x + one, y + one, z + one, is_dense, resolution, size)
            w0, w1, w2, w3 = gx * gy * gz, fx * gy * gz, gx * fy * gz, fx * fy * gz
            w4, w5, w6, w7 = gx * gy * fz, fx * gy * fz, gx * fy * fz, fx * fy * fz
            for f in range(features):
                out[i, column + f] = (
                    w0 * table[r0, f]
                    + w1 * table[r1, f]
                    + w2 * table[r2, f]
                    + w3 * table[r3, f]
                    + w4 * table[r4, f]
                    + w5 * table[r5, f]
                    + w6 * table[r6, f]
                    + w7 * table[r7, f]
                )


@numba.njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
def _scatter(positions, grad, scales, resolutions, offsets, dense, out):  # type: ignore[no-untyped-def]
    levels = scales.shape[0]
    features = out.shape[1]
    one = np.uint32(1)
    for task in numba.prange(levels):
        level = _level_of(task, levels)
        scale = scales[level]
        resolution = np.uint32(resolutions[level])
        base = offsets[level]
        size = np.uint32(offsets[level + 1] - base)
        is_dense = dense[level]
        column = level * features
        for i in range(positions.shape[0]):
            px = positions[i, 0] * scale + np.float32(0.5)
            py = positions[i, 1] * scale + np.float32(0.5)
            pz = positions[i, 2] * scale + np.float32(0.5)
            x, y, z = np.uint32(px), np.uint32(py), np.uint32(pz)
            fx, fy, fz = px - np.float32(x), py - np.float32(y), pz - np.float32(z)
            gx, gy, gz = np.float32(1) - fx, np.float32(1) - fy, np.float32(1) - fz
            r0 = base + _row(x, y, z, is_dense, resolution, size)
            r1 = base + _row(x + one, y, z, is_dense, resolution, size)
            r2 = base + _row(x, y + one, z, is_dense, resolution, size)
            r3 = base + _row(x + one, y + one, z, is_dense, resolution, size)
            r4 = base + _row(x, y, z + one, is_dense, resolution, size)
            r5 = base + _row(x + one, y, z + one, is_dense, resolution, size)
            r6 = base + _row(x, y + one, z + one, is_dense, resolution, size)
            r7 = base + _row(x + one, y + one, z + one, is_dense, resolution, size)
            w0, w1, w2, w3 = gx * gy * gz, fx * gy * gz, gx * fy * gz, fx * fy * gz
            w4, w5, w6, w7 = gx * gy * fz, fx * gy * fz, gx * fy * fz, fx * fy * fz
            for f in range(features):
                g = grad[i, column + f]
                out[r0, f] += w0 * g
                out[r1, f] += w1 * g
                out[r2, f] += w2 * g
                out[r3, f] += w3 * g
                out[r4, f] += w4 * g
                out[r5, f] += w5 * g
                out[r6, f] += w6 * g
                out[r7, f] += w7 * g


def encode(
    positions: NDArray[np.float32],
    table: NDArray[np.float32],
    layout: GridLayout,
    out: NDArray[np.float32],
) -> None:
    """Write the encoding of every point into `out`.

    Args:
        positions: f32[N, 3] in [0, 1].
        table: f32[rows, features].
        layout: the table's layout.
        out: f32[N, levels * features], overwritten.
    """
    _encode(
        positions,
        table,
        layout.scales,
        layout.resolutions,
        layout.offsets,
        layout.dense,
        out,
    )


def scatter(
    positions: NDArray[np.float32],
    grad: NDArray[np.float32],
    layout: GridLayout,
    out: NDArray[np.float32],
) -> None:
    """Add the encoding's gradient to the table's gradient.

    Args:
        positions: f32[N, 3] in [0, 1].
        grad: f32[N, levels * features], gradient of the loss to the encoding.
        layout: the table's layout.
        out: f32[rows, features], added to in place.
    """
    _scatter(
        positions,
        grad,
        layout.scales,
        layout.resolutions,
        layout.offsets,
        layout.dense,
        out,
    )
