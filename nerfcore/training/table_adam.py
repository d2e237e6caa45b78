"""Scatter and Adam in one pass over a hash-grid table, level by level.

A level's gradient is gathered in a scratch buffer that stays in the thread's cache, applied, and
zeroed again: no gradient of a whole table is ever stored. Rows without gradient keep their value
and their moments (see `nerfcore.training.adam`). Where the points touch few of a level's rows, the
update walks the points' corners again instead of scanning the level.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from nerfcore.encoding.layout import GridLayout
from nerfcore.encoding.numba_grid import BLOCK, add_gradient, corners
from nerfcore.encoding.splats import Splats
from nerfcore.field.workers import worker_count

SCAN_ROWS_A_CORNER = 16


@numba.njit(inline="always")
def _moved(i, g, value, first, second, rate, correction, beta1, beta2, epsilon):
    m = beta1 * first[i] + (np.float32(1.0) - beta1) * g
    v = beta2 * second[i] + (np.float32(1.0) - beta2) * g * g
    first[i] = m
    second[i] = v
    value[i] -= rate * m / (np.sqrt(v * correction) + epsilon)


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _scan(grad, value, first, second, rate, correction, beta1, beta2, epsilon):
    """Adam on every entry with gradient; the gradient is zero afterwards."""
    for i in range(grad.shape[0]):
        g = grad[i]
        if g != 0:
            _moved(i, g, value, first, second, rate, correction, beta1, beta2, epsilon)
            grad[i] = np.float32(0.0)


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _walk(
    rows, count, features, grad, value, first, second, rate, correction, beta1, beta2, epsilon
):
    """The same for the rows of a block of points alone."""
    for j in range(count):
        for c in range(8):
            begin = np.int64(rows[c, j]) * features
            for i in range(begin, begin + features):
                g = grad[i]
                if g != 0:
                    _moved(i, g, value, first, second, rate, correction, beta1, beta2, epsilon)
                    grad[i] = np.float32(0.0)


@numba.njit(parallel=True, cache=True, fastmath=True, error_model="numpy")
def _descend(
    positions, d_features, features, scales, resolutions, offsets, dense, value, first, second,
    scratch, rate, correction, beta1, beta2, epsilon,
):  # fmt: skip
    levels = scales.shape[0]
    points = positions.shape[1]
    threads = scratch.shape[0]
    for thread in numba.prange(threads):
        rows, weights = np.empty((8, BLOCK), np.uint32), np.empty((8, BLOCK), np.float32)
        for level in range(thread, levels, threads):
            scale, resolution = scales[level], np.uint32(resolutions[level])
            low, high = offsets[level] * features, offsets[level + 1] * features
            size = np.uint32(offsets[level + 1] - offsets[level])
            grad = scratch[thread, : high - low]
            for begin in range(0, points, BLOCK):
                end = min(points, begin + BLOCK)
                corners(positions, begin, end, scale, resolution, size, dense[level], rows, weights)
                add_gradient(
                    rows, weights, end - begin, d_features, features, grad, level * features, begin
                )
            if size <= SCAN_ROWS_A_CORNER * 8 * points:
                _scan(
                    grad, value[low:high], first[low:high], second[low:high],
                    rate, correction, beta1, beta2, epsilon,
                )  # fmt: skip
                continue
            for begin in range(0, points, BLOCK):
                end = min(points, begin + BLOCK)
                corners(positions, begin, end, scale, resolution, size, dense[level], rows, weights)
                _walk(
                    rows, end - begin, features, grad, value[low:high], first[low:high],
                    second[low:high], rate, correction, beta1, beta2, epsilon,
                )  # fmt: skip


class TableDescent:
    """Takes Adam steps on tables of one layout, reusing one level's scratch a thread."""

    def __init__(self, layout: GridLayout) -> None:
        self.layout = layout
        most = int(np.diff(layout.offsets).max()) * layout.features
        self._scratch = np.zeros((min(worker_count(), layout.levels), most), np.float32)

    def step(
        self,
        splats: Splats,
        value: NDArray[np.float32],
        first: NDArray[np.float32],
        second: NDArray[np.float32],
        rate: float,
        correction: float,
        betas: tuple[float, float],
        epsilon: float,
    ) -> None:
        """Update a table and its moments in place.

        Args:
            splats: the gradient.
            value, first, second: f32[rows, features], contiguous.
            rate: learning rate, divided by the first moment's bias correction.
            correction: reciprocal of the second moment's bias correction.
        """
        layout = self.layout
        _descend(
            splats.positions, splats.d_features, layout.features, layout.scales,
            layout.resolutions, layout.offsets, layout.dense, value.reshape(-1),
            first.reshape(-1), second.reshape(-1), self._scratch, np.float32(rate),
            np.float32(correction), np.float32(betas[0]), np.float32(betas[1]),
            np.float32(epsilon),
        )  # fmt: skip
