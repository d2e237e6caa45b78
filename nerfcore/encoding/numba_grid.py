"""The hash grid as compiled CPU kernels, level by level.

A thread walks all points of a level before the next one, so the level's part of the table stays in
its cache and the gradient's scatter needs no atomics. Points come as [3, N] and features as
[width, N] (coordinate- and feature-major), so that every inner loop reads and writes straight
lines; a block of points first computes its rows and weights, which vectorises, then looks them up.
The encoding is linear in the table, so `scatter` is both its gradient and, with `encode`, its
double gradient.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from nerfcore.encoding.layout import GridLayout

BLOCK = 256
_PART = 16384
_Y, _Z = np.uint32(2654435761), np.uint32(805459861)


@numba.njit(inline="always")
def level_of(task, levels):
    """Alternate fine and coarse levels, so that contiguous halves cost the same."""
    return task // 2 if task % 2 == 0 else levels - 1 - task // 2


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def corners(positions, begin, end, scale, resolution, size, dense, rows, weights):
    """Rows (within the level) and weights of the eight corners around points begin..end."""
    one, half = np.float32(1.0), np.float32(0.5)
    xs, ys, zs = positions[0], positions[1], positions[2]
    plane = resolution * resolution
    mask = size - np.uint32(1)
    for j in range(end - begin):
        px = xs[begin + j] * scale + half
        py = ys[begin + j] * scale + half
        pz = zs[begin + j] * scale + half
        ix, iy, iz = np.int32(px), np.int32(py), np.int32(pz)
        fx, fy, fz = px - np.float32(ix), py - np.float32(iy), pz - np.float32(iz)
        for c in range(8):
            wx = fx if c & 1 else one - fx
            wy = fy if c & 2 else one - fy
            wz = fz if c & 4 else one - fz
            weights[c, j] = wx * wy * wz
    if dense:
        for j in range(end - begin):
            x = np.uint32(np.int32(xs[begin + j] * scale + half))
            y = np.uint32(np.int32(ys[begin + j] * scale + half))
            z = np.uint32(np.int32(zs[begin + j] * scale + half))
            low = x + y * resolution + z * plane
            for c in range(8):
                shift = np.uint32(c & 1) + np.uint32((c >> 1) & 1) * resolution
                row = low + shift + np.uint32(c >> 2) * plane
                rows[c, j] = row if row < size else row % size
    else:
        for j in range(end - begin):
            x = np.uint32(np.int32(xs[begin + j] * scale + half))
            y = np.uint32(np.int32(ys[begin + j] * scale + half)) * _Y
            z = np.uint32(np.int32(zs[begin + j] * scale + half)) * _Z
            for c in range(8):
                near = (y + _Y if c & 2 else y) ^ (z + _Z if c & 4 else z)
                rows[c, j] = ((x + np.uint32(c & 1)) ^ near) & mask


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _gather(rows, weights, count, values, features, out, line, begin):
    """out[line + f, begin + j] = sum over corners of weight times table value."""
    if features == 2:
        for j in range(count):
            first, second = np.float32(0.0), np.float32(0.0)
            for c in range(8):
                row = np.int64(rows[c, j]) * 2
                first += weights[c, j] * values[row]
                second += weights[c, j] * values[row + 1]
            out[line, begin + j] = first
            out[line + 1, begin + j] = second
        return
    for f in range(features):
        for j in range(count):
            total = np.float32(0.0)
            for c in range(8):
                total += weights[c, j] * values[np.int64(rows[c, j]) * features + f]
            out[line + f, begin + j] = total


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def add_gradient(rows, weights, count, grad, features, values, line, begin):
    """The transpose of the look-up: add weight times grad[line + f, begin + j] to the rows."""
    if features == 2:
        for j in range(count):
            first, second = grad[line, begin + j], grad[line + 1, begin + j]
            if first != 0 or second != 0:
                for c in range(8):
                    row = np.int64(rows[c, j]) * 2
                    values[row] += weights[c, j] * first
                    values[row + 1] += weights[c, j] * second
        return
    for f in range(features):
        for j in range(count):
            g = grad[line + f, begin + j]
            for c in range(8):
                values[np.int64(rows[c, j]) * features + f] += weights[c, j] * g


@numba.njit(parallel=True, cache=True, fastmath=True, error_model="numpy")
def _encode(positions, values, features, scales, resolutions, offsets, dense, out):
    levels = scales.shape[0]
    points = positions.shape[1]
    parts = (points + _PART - 1) // _PART
    for task in numba.prange(levels * parts):
        level = level_of(task // parts, levels)
        size = np.uint32(offsets[level + 1] - offsets[level])
        table = values[offsets[level] * features : offsets[level + 1] * features]
        rows, weights = np.empty((8, BLOCK), np.uint32), np.empty((8, BLOCK), np.float32)
        stop = min(points, (task % parts + 1) * _PART)
        for begin in range(task % parts * _PART, stop, BLOCK):
            end = min(stop, begin + BLOCK)
            corners(
                positions, begin, end, scales[level], np.uint32(resolutions[level]), size,
                dense[level], rows, weights,
            )  # fmt: skip
            _gather(rows, weights, end - begin, table, features, out, level * features, begin)


@numba.njit(parallel=True, cache=True, fastmath=True, error_model="numpy")
def _scatter(positions, grad, features, scales, resolutions, offsets, dense, out):
    levels = scales.shape[0]
    points = positions.shape[1]
    for task in numba.prange(levels):
        level = level_of(task, levels)
        size = np.uint32(offsets[level + 1] - offsets[level])
        table = out[offsets[level] * features : offsets[level + 1] * features]
        rows, weights = np.empty((8, BLOCK), np.uint32), np.empty((8, BLOCK), np.float32)
        for begin in range(0, points, BLOCK):
            end = min(points, begin + BLOCK)
            corners(
                positions, begin, end, scales[level], np.uint32(resolutions[level]), size,
                dense[level], rows, weights,
            )  # fmt: skip
            add_gradient(rows, weights, end - begin, grad, features, table, level * features, begin)


def encode(
    positions: NDArray[np.float32],
    table: NDArray[np.float32],
    layout: GridLayout,
    out: NDArray[np.float32],
) -> None:
    """Write the encoding of every point into `out`.

    Args:
        positions: f32[3, N] in [0, 1].
        table: f32[rows, features], contiguous.
        layout: the table's layout.
        out: f32[levels * features, N], overwritten.
    """
    _encode(
        positions, table.reshape(-1), layout.features, layout.scales, layout.resolutions,
        layout.offsets, layout.dense, out,
    )  # fmt: skip


def scatter(
    positions: NDArray[np.float32],
    grad: NDArray[np.float32],
    layout: GridLayout,
    out: NDArray[np.float32],
) -> None:
    """Add the gradient with respect to the table into `out`.

    Args:
        positions: f32[3, N] in [0, 1].
        grad: f32[levels * features, N], gradient with respect to the encoding.
        layout: the table's layout.
        out: f32[rows, features], contiguous, added to.
    """
    _scatter(
        positions, grad, layout.features, layout.scales, layout.resolutions, layout.offsets,
        layout.dense, out.reshape(-1),
    )  # fmt: skip
