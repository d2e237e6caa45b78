"""The hash grid as compiled CPU kernels, level by level, of one table or of many at once.

A thread walks all points of a level before the next one, so the level's part of the table stays in
its cache and the gradient's scatter needs no atomics. Points come as [3, N] and features as
[width, N] (coordinate- and feature-major), so that eight points side by side are read and written
as one vector (see `nerfcore.encoding.lanes`). All work, table after table and level after level, is
one line that is cut into as many pieces as there are threads. The encoding is linear in the table,
so `scatter` is both its gradient and, with `encode`, its double gradient.
"""

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

from nerfcore.compiled import FAST
from nerfcore.encoding.lanes import (
    LANES,
    TILE,
    add_pair,
    floats_at,
    look_up_dense,
    look_up_hashed,
    tile_dense,
    tile_hashed,
)
from nerfcore.encoding.layout import GridLayout

DENSE_COST, HASHED_COST = 1, 2


@numba.njit(**FAST)
def fill_tile(xs, ys, zs, at, scale, resolution, size, dense, short, rows, weights):
    """Rows and weights of the corners of points at .. at + 8; fewer at the end of the arrays.

    Args:
        xs, ys, zs: f32[N]; scale, resolution, size, dense: of the level.
        short: f32[3, 8], scratch.
        rows, weights: [64], written.
    """
    if at + LANES > xs.shape[0]:
        short[:] = np.float32(0.0)
        for lane in range(xs.shape[0] - at):
            short[0, lane], short[1, lane] = xs[at + lane], ys[at + lane]
            short[2, lane] = zs[at + lane]
        xs, ys, zs, at = short[0], short[1], short[2], 0
    if dense:
        tile_dense(xs, ys, zs, at, scale, resolution, size, rows, weights)
    else:
        tile_hashed(xs, ys, zs, at, scale, resolution, size, rows, weights)


@numba.njit(**FAST)
def _encode_level(
    points, begin, end, scale, resolution, size, dense, table, features, out, level, short, rows,
    weights,
):  # fmt: skip
    """Write a level's features of points begin .. end (begin a multiple of eight)."""
    count = points[2]
    xs, ys, zs = line_of(points, 0), line_of(points, 1), line_of(points, 2)
    first = line_of(out, level * features)
    second = line_of(out, level * features + 1) if features > 1 else first
    for at in range(begin, end, LANES):
        if features == 2 and at + LANES <= count:
            if dense:
                look_up_dense(xs, ys, zs, at, scale, resolution, size, table, first, second)
            else:
                look_up_hashed(xs, ys, zs, at, scale, resolution, size, table, first, second)
            continue
        fill_tile(xs, ys, zs, at, scale, resolution, size, dense, short, rows, weights)
        for f in range(features):
            line = line_of(out, level * features + f)
            for lane in range(min(LANES, count - at)):
                total = np.float32(0.0)
                for c in range(8):
                    row = np.int64(rows[c * LANES + lane])
                    total += weights[c * LANES + lane] * table[row * features + f]
                line[at + lane] = total


@numba.njit(**FAST)
def line_of(lines, row):
    """Row of an array f32[rows, N] given as (address, bytes from row to row, N)."""
    return floats_at(lines[0] + row * lines[1], lines[2])


@numba.njit(inline="always")
def _is_dark(first, second, at):
    """Whether points at .. at + 8 have no gradient."""
    total = np.float32(0.0)
    for lane in range(LANES):
        total += abs(first[at + lane]) + abs(second[at + lane])
    return total == 0


@numba.njit(**FAST)
def _add_pairs(points, scale, resolution, size, dense, first, second, table, short, rows, weights):
    """`add_level_gradient` for two features a row."""
    count = points[2]
    xs, ys, zs = line_of(points, 0), line_of(points, 1), line_of(points, 2)
    full = count // LANES * LANES
    for at in range(0, full, LANES):
        if _is_dark(first, second, at):
            continue
        if dense:
            tile_dense(xs, ys, zs, at, scale, resolution, size, rows, weights)
        else:
            tile_hashed(xs, ys, zs, at, scale, resolution, size, rows, weights)
        for lane in range(LANES):
            g, h = first[at + lane], second[at + lane]
            if g != 0 or h != 0:
                add_pair(table, rows, weights, lane, g, h)
    if full < count:
        fill_tile(xs, ys, zs, full, scale, resolution, size, dense, short, rows, weights)
        for lane in range(count - full):
            add_pair(table, rows, weights, lane, first[full + lane], second[full + lane])


@numba.njit(**FAST)
def add_level_gradient(
    points, scale, resolution, size, dense, grad, features, level, table, short, rows, weights
):
    """The transpose of a level's look-up: add all points' gradient to the level's rows."""
    if features == 2:
        first, second = line_of(grad, level * 2), line_of(grad, level * 2 + 1)
        _add_pairs(
            points, scale, resolution, size, dense, first, second, table, short, rows, weights
        )
        return
    count = points[2]
    xs, ys, zs = line_of(points, 0), line_of(points, 1), line_of(points, 2)
    for at in range(0, count, LANES):
        fill_tile(xs, ys, zs, at, scale, resolution, size, dense, short, rows, weights)
        for f in range(features):
            own = line_of(grad, level * features + f)
            for lane in range(min(LANES, count - at)):
                for c in range(8):
                    row = np.int64(rows[c * LANES + lane])
                    table[row * features + f] += weights[c * LANES + lane] * own[at + lane]


@numba.njit(**FAST)
def all_work(points, dense):
    """The length of the line of work: points times levels, weighted by what a level costs."""
    total = 0
    for k in range(points.shape[0]):
        for level in range(dense.shape[0]):
            total += points[k, 2] * (DENSE_COST if dense[level] else HASHED_COST)
    return total


@numba.njit(inline="always")
def _piece(work, cost, count):
    """How many of a level's points come first in an amount of work, all or a multiple of eight."""
    if work >= cost * count:
        return count
    return max(work, 0) // cost // LANES * LANES


@numba.njit(parallel=True, **FAST)
def _encode(points, tables, features, scales, resolutions, offsets, dense, outs, threads):
    levels = scales.shape[0]
    total = all_work(points, dense)
    for thread in numba.prange(threads):
        short = np.empty((3, LANES), np.float32)
        rows, weights = np.empty(TILE, np.uint32), np.empty(TILE, np.float32)
        low, high = total * thread // threads, total * (thread + 1) // threads
        done = 0
        for k in range(points.shape[0]):
            count = points[k, 2]
            for level in range(levels):
                cost = DENSE_COST if dense[level] else HASHED_COST
                begin, end = _piece(low - done, cost, count), _piece(high - done, cost, count)
                done += cost * count
                size = offsets[level + 1] - offsets[level]
                table = floats_at(tables[k] + 4 * offsets[level] * features, size * features)
                if begin < end:
                    _encode_level(
                        points[k], begin, end, scales[level], np.uint32(resolutions[level]),
                        np.uint32(size), dense[level], table, features, outs[k], level, short,
                        rows, weights,
                    )  # fmt: skip


@numba.njit(parallel=True, **FAST)
def _scatter(points, grads, features, scales, resolutions, offsets, dense, tables, threads):
    levels = scales.shape[0]
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
                table = floats_at(tables[k] + 4 * offsets[level] * features, size * features)
                add_level_gradient(
                    points[k], scales[level], np.uint32(resolutions[level]), np.uint32(size),
                    dense[level], grads[k], features, level, table, short, rows, weights,
                )  # fmt: skip


def lines_of(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.int64]:
    """Where arrays f32[rows, N] lie: i64[K, 3] of address, bytes from row to row, N.

    Raises:
        TypeError: an array of another dtype, or whose rows are not contiguous.
    """
    for array in arrays:
        if array.dtype != np.float32 or (array.shape[1] > 1 and array.strides[1] != 4):
            raise TypeError(
                f"the compiled grid takes float32 arrays with contiguous rows, got {array.dtype} "
                f"with strides {array.strides}"
            )
    found = [(a.__array_interface__["data"][0], a.strides[0], a.shape[1]) for a in arrays]
    return np.array(found, np.int64).reshape(-1, 3)


def addresses_of(tables: Sequence[NDArray[np.float32]]) -> NDArray[np.int64]:
    """Where tables lie, i64[K].

    Raises:
        TypeError: a table that is not float32 and contiguous.
    """
    for table in tables:
        if table.dtype != np.float32 or not table.flags.c_contiguous:
            raise TypeError("the compiled grid takes contiguous float32 tables")
    return np.array([t.__array_interface__["data"][0] for t in tables], np.int64)


def encode_all(
    positions: Sequence[NDArray[np.float32]],
    tables: Sequence[NDArray[np.float32]],
    layout: GridLayout,
    outs: Sequence[NDArray[np.float32]],
) -> None:
    """Write the encodings of every table's points.

    Args:
        positions: f32[3, N] in [0, 1] of each table, rows contiguous.
        tables: f32[rows, features], contiguous.
        layout: of all tables.
        outs: f32[levels * features, N] of each table, rows contiguous, overwritten.
    """
    _encode(
        lines_of(positions), addresses_of(tables), layout.features, layout.scales,
        layout.resolutions, layout.offsets, layout.dense, lines_of(outs), numba.get_num_threads(),
    )  # fmt: skip


def scatter_all(
    positions: Sequence[NDArray[np.float32]],
    grads: Sequence[NDArray[np.float32]],
    layout: GridLayout,
    outs: Sequence[NDArray[np.float32]],
) -> None:
    """Add the gradients with respect to the tables into `outs`.

    Args:
        positions: f32[3, N] in [0, 1] of each table, rows contiguous.
        grads: f32[levels * features, N], gradients with respect to the encodings.
        layout: of all tables.
        outs: f32[rows, features], contiguous, added to; all different.
    """
    _scatter(
        lines_of(positions), lines_of(grads), layout.features, layout.scales, layout.resolutions,
        layout.offsets, layout.dense, addresses_of(outs), numba.get_num_threads(),
    )  # fmt: skip


def encode(
    positions: NDArray[np.float32],
    table: NDArray[np.float32],
    layout: GridLayout,
    out: NDArray[np.float32],
) -> None:
    """`encode_all` of one table."""
    encode_all([positions], [table], layout, [out])


def scatter(
    positions: NDArray[np.float32],
    grad: NDArray[np.float32],
    layout: GridLayout,
    out: NDArray[np.float32],
) -> None:
    """`scatter_all` of one table."""
    scatter_all([positions], [grad], layout, [out])
