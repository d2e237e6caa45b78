"""Owns the ground's and the surface's height over a site, estimated from sparse points.

Frame: ENU metres. The ground is a low quantile of the points in each square cell, the surface
(roofs, tree tops) their median; cells without points take their nearest neighbour's height. Good to
a metre or two on open ground; under closed canopy and large roofs the ground is too high.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
_POINTS_A_CELL: Final = 12.0
_MOST_CELLS: Final = 200  # along an axis
_GROUND_QUANTILE: Final = 0.15
_BOX_QUANTILES: Final = (0.005, 0.995)


@dataclass(frozen=True, eq=False)
class Terrain:
    """Heights on a grid of square cells, looked up bilinearly and held constant outside.

    Attributes:
        corner_m: f64[2], East and North of the grid's south-western corner.
        cell_m: side of a cell, > 0.
        ground_up_m, surface_up_m: f64[rows, columns]; rows run north, columns east.
    """

    corner_m: Float64
    cell_m: float
    ground_up_m: Float64
    surface_up_m: Float64

    def ground_at(self, east_north_m: Float64) -> Float64:
        """Return the ground's Up at places f64[..., 2], f64[...]."""
        return self._looked_up(self.ground_up_m, east_north_m)

    def surface_at(self, east_north_m: Float64) -> Float64:
        """Return the surface's Up at places f64[..., 2], f64[...]."""
        return self._looked_up(self.surface_up_m, east_north_m)

    def _looked_up(self, heights: Float64, east_north_m: Float64) -> Float64:
        rows, columns = heights.shape
        place = (np.asarray(east_north_m, np.float64) - self.corner_m) / self.cell_m - 0.5
        x = np.clip(place[..., 0], 0.0, columns - 1.0)
        y = np.clip(place[..., 1], 0.0, rows - 1.0)
        left, low = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
        right, high = np.minimum(left + 1, columns - 1), np.minimum(low + 1, rows - 1)
        u, v = x - left, y - low
        south = heights[low, left] * (1.0 - u) + heights[low, right] * u
        north = heights[high, left] * (1.0 - u) + heights[high, right] * u
        return south * (1.0 - v) + north * v


def flat_terrain(up_m: float) -> Terrain:
    """Return level ground at one height, for a dataset without sparse points."""
    level = np.full((1, 1), up_m)
    return Terrain(np.zeros(2), 1.0, level, level)


def fit_terrain(points_m: Float64) -> Terrain:
    """Estimate ground and surface from sparse points.

    Args:
        points_m: f64[P, 3], ENU, P >= 1.
    """
    low, high = np.quantile(points_m[:, :2], _BOX_QUANTILES, axis=0)
    inside = ((points_m[:, :2] >= low) & (points_m[:, :2] <= high)).all(axis=1)
    chosen = points_m[inside] if inside.any() else points_m
    extent = np.maximum(high - low, 1.0)
    cell_m = float(np.sqrt(extent.prod() * _POINTS_A_CELL / len(chosen)))
    cell_m = max(cell_m, float(extent.max()) / _MOST_CELLS)
    columns, rows = np.maximum(np.ceil(extent / cell_m), 1).astype(np.int64)
    across = np.clip(((chosen[:, :2] - low) / cell_m).astype(np.int64), 0, [columns - 1, rows - 1])
    cells = across[:, 1] * columns + across[:, 0]
    grids = [
        _filled(_quantile_by_cell(cells, chosen[:, 2], rows * columns, share).reshape(rows, -1))
        for share in (_GROUND_QUANTILE, 0.5)
    ]
    return Terrain(low, cell_m, *grids)


def _quantile_by_cell(
    cells: NDArray[np.int64], ups_m: Float64, count: int, share: float
) -> Float64:
    """Return the quantile of the heights in each cell, NaN in an empty one, f64[count]."""
    order = np.lexsort((ups_m, cells))
    sizes = np.bincount(cells, minlength=count)
    starts = np.cumsum(sizes) - sizes
    found = np.full(count, np.nan)
    full = sizes > 0
    picked = starts[full] + np.floor(share * (sizes[full] - 1)).astype(np.int64)
    found[full] = ups_m[order][picked]
    return found


def _filled(heights: Float64) -> Float64:
    """Fill empty cells from the nearest full one, and take single odd cells out."""
    empty = np.isnan(heights).astype(np.uint8)
    if empty.any():
        _, labels = cv2.distanceTransformWithLabels(
            empty, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
        )
        labels = np.asarray(labels, np.int64)
        by_label = np.zeros(int(labels.max()) + 1)
        by_label[labels[empty == 0]] = heights[empty == 0]
        heights = by_label[labels]
    if min(heights.shape) < 3:
        return heights
    return cv2.medianBlur(heights.astype(np.float32), 3).astype(np.float64)
