"""Occupancy as bits, a ground cell's column of cells side by side, for the march.

A ray from above stays in few columns: with a column in one or two words the march's look-ups stay
in cache, where cells in C order (the vertical slowest) would miss it at every step.
"""

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray


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


@numba.njit(parallel=True, cache=True, error_model="numpy")
def _pack(cells, dims, depth, words):
    layers, rows, columns = dims[0], dims[1], dims[2]
    for j in numba.prange(rows):
        for i in range(layers):
            shift = np.uint64(i & 63)
            begin = (np.int64(i) * rows + j) * columns
            out = np.int64(j) * columns * depth + (i >> 6)
            for k in range(columns):
                words[out + k * depth] |= np.uint64(cells[begin + k] != 0) << shift


def pack_columns(
    cells: NDArray[np.uint8], cell_offsets: NDArray[np.int64], dims: NDArray[np.int32]
) -> Columns:
    """Pack cells (0 = empty) of experts whose cells begin at `cell_offsets`, in C order."""
    depths = -(-dims[:, 0].astype(np.int64) // 64)
    sizes = dims[:, 1].astype(np.int64) * dims[:, 2] * depths
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    words = np.zeros(int(sizes.sum()), np.uint64)
    for k, begin in enumerate(cell_offsets):
        end = int(begin) + int(np.prod(dims[k], dtype=np.int64))
        own = words[offsets[k] : offsets[k] + sizes[k]]
        _pack(cells[begin:end], dims[k].astype(np.int64), int(depths[k]), own)
    return Columns(words, offsets, depths)
