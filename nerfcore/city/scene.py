"""Owns the packed scene a ray caster reads: solids, their grid, the ground's rasters, the light."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from nerfcore.city.ground import Canvas, pyramid
from nerfcore.city.plan import GROUND_SLOPE
from nerfcore.city.solids import Shape, Solid

CELL_M = 3.0
DRY = -1e9
SKY_MAP_TEXEL_M = 1.0


class Scene(NamedTuple):
    """Everything a ray can meet, as arrays (a NamedTuple, because numba reads those).

    Attributes:
        shape i32[P], centre f64[P, 3], axes f64[P, 3, 3] (columns), half f64[P, 3],
        inset f64[P, 2]: the solids.
        skins i32[P, 3]: wall, top, seed; colours f64[P, 3, 3]: wall, top, accent; storey f64[P].
        building i32[P]: number of the building, -1 for none.
        cell_start i64[C + 1], cell_items i32[...]: solids over each ground cell, row-major.
        cell_top f64[rows, columns]: highest point over each cell, m.
        grid_origin f64[2], highest: corner of the grid, highest point of all, m.
        slope: rise of the ground along y; water: height of the water plane, m.
        near_*, far_*: pyramids of the ground's albedo (see `patterns.sample_pyramid`).
        sky_map f32[S, S], sky_half: share of the sky the ground sees.
        sun f64[3]: unit vector towards the sun.
    """

    shape: NDArray[np.int32]
    centre: NDArray[np.float64]
    axes: NDArray[np.float64]
    half: NDArray[np.float64]
    inset: NDArray[np.float64]
    skins: NDArray[np.int32]
    colours: NDArray[np.float64]
    storey: NDArray[np.float64]
    building: NDArray[np.int32]
    cell_start: NDArray[np.int64]
    cell_items: NDArray[np.int32]
    cell_top: NDArray[np.float64]
    grid_origin: NDArray[np.float64]
    highest: float
    slope: float
    water: float
    near_data: NDArray[np.float32]
    near_offsets: NDArray[np.int64]
    near_sizes: NDArray[np.int64]
    near_half: float
    far_data: NDArray[np.float32]
    far_offsets: NDArray[np.int64]
    far_sizes: NDArray[np.int64]
    far_half: float
    sky_map: NDArray[np.float32]
    sky_half: float
    sun: NDArray[np.float64]


def _grid(
    lows: NDArray[np.float64], highs: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]:
    """Sort solids into ground cells: starts, items, tops, and the grid's corner."""
    origin = lows[:, :2].min(axis=0) - 0.5
    columns, rows = (int(n) for n in np.ceil((highs[:, :2].max(axis=0) + 0.5 - origin) / CELL_M))
    top = np.full((rows, columns), -1e9)
    first = np.floor((lows[:, :2] - origin) / CELL_M).astype(int)
    last = np.floor((highs[:, :2] - origin) / CELL_M).astype(int)
    cells, items = [], []
    for item, ((c0, r0), (c1, r1)) in enumerate(zip(first, last, strict=True)):
        region = top[r0 : r1 + 1, c0 : c1 + 1]
        np.maximum(region, highs[item, 2], out=region)
        covered = (np.arange(r0, r1 + 1)[:, None] * columns + np.arange(c0, c1 + 1)).ravel()
        cells.append(covered)
        items.append(np.full(covered.size, item))
    flat = np.concatenate(cells)
    order = np.argsort(flat, kind="stable")
    start = np.zeros(rows * columns + 1, np.int64)
    np.cumsum(np.bincount(flat, minlength=rows * columns), out=start[1:])
    return start, np.concatenate(items)[order].astype(np.int32), top, origin


def _flatten(
    canvas: Canvas,
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64], float]:
    levels = pyramid(canvas.pixels)
    sizes = np.array([level.shape[0] for level in levels], np.int64)
    offsets = np.concatenate([[0], np.cumsum(3 * sizes**2)[:-1]]).astype(np.int64)
    data = np.concatenate([level.ravel() for level in levels]).astype(np.float32)
    return data, offsets, sizes, canvas.half


def _sky_map(
    lows: NDArray[np.float64], highs: NDArray[np.float64], half: float
) -> NDArray[np.float32]:
    """Return how open the sky is above each ground point: low beside and between tall solids."""
    size = round(2 * half / SKY_MAP_TEXEL_M)
    height = np.zeros((size, size), np.float32)
    for low, high in zip(lows, highs, strict=True):
        c0, r0 = np.clip(np.floor((low[:2] + half) / SKY_MAP_TEXEL_M).astype(int), 0, size)
        c1, r1 = np.clip(np.ceil((high[:2] + half) / SKY_MAP_TEXEL_M).astype(int), 0, size)
        region = height[r0:r1, c0:c1]
        np.maximum(region, high[2] - low[2], out=region)
    near = cv2.GaussianBlur(height, (0, 0), 2.5)
    wide = cv2.GaussianBlur(height, (0, 0), 7.0)
    return np.clip(1.0 - near / 45.0 - wide / 40.0, 0.3, 1.0).astype(np.float32)


def pack(solids: list[Solid], near: Canvas, far: Canvas, water_m: float | None) -> Scene:
    """Pack solids and ground for the ray caster.

    Args:
        solids: every solid, in the order that numbers them.
        near, far: the town's ground and the country's.
        water_m: height of a flood, m, or None.
    """
    bounds = [solid.bounds() for solid in solids]
    lows, highs = np.array([b[0] for b in bounds]), np.array([b[1] for b in bounds])
    start, items, top, origin = _grid(lows, highs)
    sun = np.array([-0.52, -0.38, 0.95])
    is_round = [solid.shape is Shape.ELLIPSOID for solid in solids]
    shade_low = lows.copy()
    shade_low[is_round, 2] = highs[is_round, 2] - 4.0  # leaves let light through
    return Scene(
        np.array([s.shape for s in solids], np.int32),
        np.array([s.centre_m for s in solids]),
        np.array([s.rotation() for s in solids]),
        np.array([s.half_m for s in solids]),
        np.array([s.inset_m for s in solids]),
        np.array([(s.wall, s.top, s.seed) for s in solids], np.int32),
        np.array([(s.wall_rgb, s.top_rgb, s.accent_rgb) for s in solids]),
        np.array([s.storey_m for s in solids]),
        np.array([s.building for s in solids], np.int32),
        start, items, top, origin, float(highs[:, 2].max()),
        GROUND_SLOPE, DRY if water_m is None else water_m,
        *_flatten(near), *_flatten(far),
        _sky_map(shade_low, highs, near.half), near.half, sun / np.linalg.norm(sun),
    )  # fmt: skip
