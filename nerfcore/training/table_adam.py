"""Scatter and Adam in one pass over hash-grid tables, level by level.

A level's gradient is gathered in a scratch buffer that stays in the thread's cache, applied, and
zeroed again: no gradient of a whole table is ever stored. Rows without gradient keep their value
and their moments (see `nerfcore.training.adam`). Where the points touch few of a level's rows, the
update walks the points' corners again instead of scanning the level. The levels of all tables are
shared out among the threads at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from nerfcore.compiled import FAST
from nerfcore.encoding.lanes import LANES, TILE, adam_eight, floats_at, prefetch
from nerfcore.encoding.layout import GridLayout
from nerfcore.encoding.numba_grid import (
    DENSE_COST,
    HASHED_COST,
    add_level_gradient,
    addresses_of,
    all_work,
    fill_tile,
    line_of,
    lines_of,
)
from nerfcore.encoding.splats import Splats
from nerfcore.field.workers import worker_count

SCAN_ROWS_A_CORNER = 16
LINE = 2 * LANES
STRETCH = 32 * LINE


@numba.njit(inline="always")
def adam_one(grad, value, first, second, i, rate, correction, numbers):
    """What `lanes.adam_eight` does, on one entry."""
    beta1, beta2, epsilon = numbers
    g = grad[i]
    if g != 0:
        m = beta1 * first[i] + (np.float32(1.0) - beta1) * g
        v = beta2 * second[i] + (np.float32(1.0) - beta2) * g * g
        first[i], second[i] = m, v
        value[i] -= rate * m / np.sqrt(max(v * correction, epsilon * epsilon))
        grad[i] = np.float32(0.0)


@numba.njit(inline="always")
def _seen(grad, at):
    """Whether a line of 16 entries has gradient."""
    total = np.float32(0.0)
    for i in range(LINE):
        total += abs(grad[at + i])
    return total != 0


@numba.njit(inline="always")
def _ask_for(grad, value, first, second, begin, end, lines):
    """List the lines with gradient among begin .. end, and have their memory brought here."""
    count = 0
    for at in range(begin, end, LINE):
        lines[count] = at
        if _seen(grad, at):
            prefetch(value, at)
            prefetch(first, at)
            prefetch(second, at)
            count += 1
    return count


@numba.njit(**FAST)
def scan(grad, value, first, second, rate, correction, numbers):
    """Adam on every entry with gradient; the gradient is zero afterwards.

    What a stretch of lines needs is asked for while the one before is computed: lines without
    gradient are left out, so the CPU cannot guess what comes next.

    Args:
        grad, value, first, second: f32[N], N a multiple of eight.
        rate, correction: learning rate and second moment's factor, bias corrections included.
        numbers: (beta1, beta2, epsilon).
    """
    whole = grad.shape[0] // LINE * LINE
    now, later = np.empty(STRETCH // LINE, np.int64), np.empty(STRETCH // LINE, np.int64)
    count = _ask_for(grad, value, first, second, 0, min(STRETCH, whole), now)
    for begin in range(STRETCH, whole + STRETCH, STRETCH):
        end = min(begin + STRETCH, whole)
        coming = _ask_for(grad, value, first, second, begin, end, later)
        for i in range(count):
            adam_eight(grad, value, first, second, now[i], rate, correction, numbers)
            adam_eight(grad, value, first, second, now[i] + LANES, rate, correction, numbers)
        now, later, count = later, now, coming
    for at in range(whole, grad.shape[0], LANES):
        adam_eight(grad, value, first, second, at, rate, correction, numbers)


@numba.njit(**FAST)
def _walk(rows, lanes, features, grad, value, first, second, rate, correction, numbers):
    """The same for the rows of a tile alone."""
    for c in range(8):
        for lane in range(lanes):
            begin = np.int64(rows[c * LANES + lane]) * features
            for i in range(begin, begin + features):
                adam_one(grad, value, first, second, i, rate, correction, numbers)


@numba.njit(**FAST)
def _descend_level(
    points, grads, features, level, scale, resolution, size, dense, grad, value, first, second,
    rate, correction, numbers, short, rows, weights,
):  # fmt: skip
    """One level of one table."""
    add_level_gradient(
        points, scale, resolution, size, dense, grads, features, level, grad, short, rows, weights
    )
    count = points[2]
    if size <= SCAN_ROWS_A_CORNER * 8 * count:
        scan(grad, value, first, second, rate, correction, numbers)
        return
    xs, ys, zs = line_of(points, 0), line_of(points, 1), line_of(points, 2)
    for at in range(0, count, LANES):
        fill_tile(xs, ys, zs, at, scale, resolution, size, dense, short, rows, weights)
        lanes = min(LANES, count - at)
        _walk(rows, lanes, features, grad, value, first, second, rate, correction, numbers)


@numba.njit(parallel=True, **FAST)
def _descend(
    points, grads, features, scales, resolutions, offsets, dense, values, firsts, seconds, rates,
    corrections, numbers, scratch,
):  # fmt: skip
    levels = scales.shape[0]
    threads = scratch.shape[0]
    total = all_work(points, dense)
    for thread in numba.prange(threads):
        short = np.empty((3, LANES), np.float32)
        rows, weights = np.empty(TILE, np.uint32), np.empty(TILE, np.float32)
        low, high = total * thread // threads, total * (thread + 1) // threads
        done = 0
        for k in range(points.shape[0]):
            for level in range(levels):
                cost = points[k, 2] * (DENSE_COST if dense[level] else HASHED_COST)
                middle = done + cost // 2
                done += cost
                if cost == 0 or middle < low or middle >= high:
                    continue
                size = offsets[level + 1] - offsets[level]
                begin, entries = 4 * offsets[level] * features, size * features
                _descend_level(
                    points[k], grads[k], features, level, scales[level],
                    np.uint32(resolutions[level]), np.uint32(size), dense[level],
                    scratch[thread, :entries], floats_at(values[k] + begin, entries),
                    floats_at(firsts[k] + begin, entries), floats_at(seconds[k] + begin, entries),
                    rates[k], corrections[k], numbers, short, rows, weights,
                )  # fmt: skip


@dataclass(frozen=True)
class TableStep:
    """One table's Adam step.

    Attributes:
        splats: the gradient.
        value, first, second: f32[rows, features], contiguous, updated in place.
        rate: learning rate, divided by the first moment's bias correction.
        correction: reciprocal of the second moment's bias correction.
    """

    splats: Splats
    value: NDArray[np.float32]
    first: NDArray[np.float32]
    second: NDArray[np.float32]
    rate: float
    correction: float


class TableDescent:
    """Takes Adam steps on tables of one layout, reusing one level's scratch a thread."""

    def __init__(self, layout: GridLayout) -> None:
        self.layout = layout
        most = int(np.diff(layout.offsets).max()) * layout.features
        self._scratch = np.zeros((worker_count(), most), np.float32)

    def take(self, steps: Sequence[TableStep], betas: tuple[float, float], epsilon: float) -> None:
        """Take the steps of some tables, all different."""
        layout = self.layout
        numbers = (np.float32(betas[0]), np.float32(betas[1]), np.float32(epsilon))
        _descend(
            lines_of([s.splats.positions for s in steps]),
            lines_of([s.splats.d_features for s in steps]),
            layout.features, layout.scales, layout.resolutions, layout.offsets, layout.dense,
            addresses_of([s.value for s in steps]), addresses_of([s.first for s in steps]),
            addresses_of([s.second for s in steps]),
            np.array([s.rate for s in steps], np.float32),
            np.array([s.correction for s in steps], np.float32), numbers, self._scratch,
        )  # fmt: skip
