"""Occupancy as bits, a ground cell's column of cells side by side, for the march.

A ray from above stays in few columns: with a column in one or two words the march's look-ups stay
in cache, where cells in C order (the vertical slowest) would miss it at every step.
"""

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from nerfcore.compiled import EXACT


@dataclass(frozen=True)
class Columns:
    """Bits of all experts' cells.

    Cell (i, j, k) of expert e is bit i % 64 of
    `words[offsets[e] + (j * dims[e, 2] + k) * depths[e] + i // 64]`.

    Attributes:
        words: u64[total]; offsets: i64[K]; depths: i64[K], words a column.
    """

    words: NDArray[np.uint64]
    offsets: NDArray[np.int64]
    depths: NDArray[np.int64]


@numba.njit(parallel=True, **EXACT)
def _pack(cells, cell_offsets, dims, ends, offsets, depths, words):
    """Pack row after row of all experts; `ends` counts the rows up to each expert's last."""
    for row in numba.prange(ends[-1]):
        e = np.searchsorted(ends, row, side="right")
        j = row - (ends[e] - dims[e, 1])
        layers, rows, columns, depth = dims[e, 0], dims[e, 1], dims[e, 2], depths[e]
        out = offsets[e] + j * columns * depth
        for i in range(layers):
            shift = np.uint64(i & 63)
            begin = cell_offsets[e] + (i * rows + j) * columns
            for k in range(columns):
                words[out + k * depth + (i >> 6)] |= np.uint64(cells[begin + k] != 0) << shift


def pack_columns(
    cells: NDArray[np.uint8], cell_offsets: NDArray[np.int64], dims: NDArray[np.int32]
) -> Columns:
    """Pack cells (0 = empty) of experts whose cells begin at `cell_offsets`, in C order."""
    sizes = dims.astype(np.int64)
    depths = -(-sizes[:, 0] // 64)
    words = sizes[:, 1] * sizes[:, 2] * depths
    offsets = np.concatenate([[0], np.cumsum(words)[:-1]]).astype(np.int64)
    out = np.zeros(int(words.sum()), np.uint64)
    ends = np.cumsum(sizes[:, 1])
    _pack(cells, np.asarray(cell_offsets, np.int64), sizes, ends, offsets, depths, out)
    return Columns(out, offsets, depths)
