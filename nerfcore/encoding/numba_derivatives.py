"""The hash grid's gradient to the points as a compiled CPU kernel.

Levels one after the other, points shared out among the threads: a level's table stays in cache and
every thread owns the points it adds to. Points come as [3, N] and features as [width, N], as in
`nerfcore.encoding.numba_grid`. At a cell's border the derivative is the upper cell's.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from nerfcore.compiled import FAST
from nerfcore.encoding.layout import GridLayout

_Y, _Z = np.uint32(2654435761), np.uint32(805459861)
_CHUNK = 1024


@numba.njit(inline="always")
def _pull(x, y, z, dense, resolution, size, base, table, grad, i, line):  # type: ignore[no-untyped-def]
    """The features of one grid point, contracted with the gradient to the encoding."""
    if dense:
        row = base + (x + y * resolution + z * resolution * resolution) % size
    else:
        row = base + ((x ^ (y * _Y) ^ (z * _Z)) & (size - np.uint32(1)))
    total = np.float32(0.0)
    for f in range(table.shape[1]):
        total += grad[line + f, i] * table[row, f]
    return total


@numba.njit(parallel=True, **FAST)
def _position_gradient(  # type: ignore[no-untyped-def]
    positions, table, grad, scales, resolutions, offsets, dense, out
):
    points = positions.shape[1]
    one = np.uint32(1)
    for level in range(scales.shape[0]):
        scale = scales[level]
        r = np.uint32(resolutions[level])
        base = offsets[level]
        size = np.uint32(offsets[level + 1] - base)
        d = dense[level]
        line = level * table.shape[1]
        for part in numba.prange((points + _CHUNK - 1) // _CHUNK):
            for i in range(part * _CHUNK, min(points, (part + 1) * _CHUNK)):
                px = positions[0, i] * scale + np.float32(0.5)
                py = positions[1, i] * scale + np.float32(0.5)
                pz = positions[2, i] * scale + np.float32(0.5)
                x, y, z = np.uint32(px), np.uint32(py), np.uint32(pz)
                fx, fy, fz = px - np.float32(x), py - np.float32(y), pz - np.float32(z)
                gx, gy, gz = np.float32(1) - fx, np.float32(1) - fy, np.float32(1) - fz
                c0 = _pull(x, y, z, d, r, size, base, table, grad, i, line)
                c1 = _pull(x + one, y, z, d, r, size, base, table, grad, i, line)
                c2 = _pull(x, y + one, z, d, r, size, base, table, grad, i, line)
                c3 = _pull(x + one, y + one, z, d, r, size, base, table, grad, i, line)
                c4 = _pull(x, y, z + one, d, r, size, base, table, grad, i, line)
                c5 = _pull(x + one, y, z + one, d, r, size, base, table, grad, i, line)
                c6 = _pull(x, y + one, z + one, d, r, size, base, table, grad, i, line)
                c7 = _pull(x + one, y + one, z + one, d, r, size, base, table, grad, i, line)
                along_x = (c1 - c0) * gy * gz + (c3 - c2) * fy * gz
                along_x += (c5 - c4) * gy * fz + (c7 - c6) * fy * fz
                along_y = (c2 - c0) * gx * gz + (c3 - c1) * fx * gz
                along_y += (c6 - c4) * gx * fz + (c7 - c5) * fx * fz
                along_z = (c4 - c0) * gx * gy + (c5 - c1) * fx * gy
                along_z += (c6 - c2) * gx * fy + (c7 - c3) * fx * fy
                out[0, i] += scale * along_x
                out[1, i] += scale * along_y
                out[2, i] += scale * along_z


def position_gradient(
    positions: NDArray[np.float32],
    table: NDArray[np.float32],
    d_features: NDArray[np.float32],
    layout: GridLayout,
    out: NDArray[np.float32],
) -> None:
    """Write the gradient to the points into `out`.

    Args:
        positions: f32[3, N] in [0, 1].
        table: f32[rows, features].
        d_features: f32[levels * features, N], gradient of the loss to the encoding.
        layout: the table's layout.
        out: f32[3, N], overwritten.
    """
    out[:] = 0
    _position_gradient(
        positions,
        table,
        d_features,
        layout.scales,
        layout.resolutions,
        layout.offsets,
        layout.dense,
        out,
    )
