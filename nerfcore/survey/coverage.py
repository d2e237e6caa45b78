"""Owns the site's extent on the map, and how many cameras see each ground cell.

Frame: ENU metres; grids have their first row in the north, as a map has.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from nerfcore.survey.footprints import Views
from nerfcore.survey.roster import Roster, Tracks

Float64 = NDArray[np.float64]
ENOUGH_CAMERAS: Final = 3  # fewer leave a point's depth to chance
_CELLS: Final = 400  # along the longer side
_POINT_QUANTILES: Final = (0.01, 0.99)
_CORNER_QUANTILES: Final = (0.02, 0.98)
_STRAY: Final = 3.0  # a camera beyond this many 90th-percentile distances does not widen the map
_MARGIN: Final = 0.04


@dataclass(frozen=True)
class Extent:
    """A rectangle on the map: west, south, east, north in metres."""

    west_m: float
    south_m: float
    east_m: float
    north_m: float

    @property
    def width_m(self) -> float:
        """East minus west."""
        return self.east_m - self.west_m

    @property
    def height_m(self) -> float:
        """North minus south."""
        return self.north_m - self.south_m

    def contains(self, east_north_m: Float64) -> NDArray[np.bool_]:
        """Tell which places f64[..., 2] lie inside, bool[...]."""
        east, north = east_north_m[..., 0], east_north_m[..., 1]
        inside = (east >= self.west_m) & (east <= self.east_m)
        return inside & (north >= self.south_m) & (north <= self.north_m)

    def grid(self, cells: int) -> tuple[int, int, float]:
        """Return rows, columns and the side in metres of square cells, `cells` along the longer
        side."""
        side_m = max(self.width_m, self.height_m) / cells
        rows, columns = round(self.height_m / side_m), round(self.width_m / side_m)
        return max(1, rows), max(1, columns), side_m

    def cell_centres(self, cells: int) -> Float64:
        """Return the places of a grid's cell centres, f64[rows, columns, 2]."""
        rows, columns, side_m = self.grid(cells)
        east = self.west_m + (np.arange(columns) + 0.5) * side_m
        north = self.north_m - (np.arange(rows) + 0.5) * side_m
        return np.stack(np.meshgrid(east, north), axis=-1).astype(np.float64)


def site_extent(roster: Roster, views: Views, tracks: Tracks) -> Extent:
    """Return the map's extent: points, footprints and cameras, strays aside.

    Args:
        roster, views, tracks: the photographs and what they see.
    """
    cameras = roster.positions_m[:, :2]
    middle = np.median(cameras, axis=0)
    apart = np.linalg.norm(cameras - middle, axis=1)
    near = apart <= max(_STRAY * float(np.quantile(apart, 0.9)), 1.0)
    parts = [cameras[near]]
    corners = views.corners_m[near].reshape(-1, 2)
    corners = corners[np.isfinite(corners).all(axis=1)]
    if len(corners):
        parts.append(np.quantile(corners, _CORNER_QUANTILES, axis=0))
    if len(tracks.points_m):
        parts.append(np.quantile(tracks.points_m[:, :2], _POINT_QUANTILES, axis=0))
    low, high = np.concatenate(parts).min(axis=0), np.concatenate(parts).max(axis=0)
    margin = max(_MARGIN * float((high - low).max()), 1.0)
    (west, south), (east, north) = low - margin, high + margin
    return Extent(float(west), float(south), float(east), float(north))


@dataclass(frozen=True, eq=False)
class Coverage:
    """How many cameras of one flight see each ground cell.

    Attributes:
        extent: the site.
        counts: i32[rows, columns], first row in the north.
        cell_m: side of a cell.
    """

    extent: Extent
    counts: NDArray[np.int32]
    cell_m: float

    def area_ha(self, cameras: int) -> float:
        """Return the area seen by at least this many cameras, hectares."""
        return float((self.counts >= cameras).sum()) * self.cell_m**2 / 1e4

    def median_count(self) -> float:
        """Return how many cameras see the median cell among those seen at all, 0 without any."""
        seen = self.counts[self.counts > 0]
        return float(np.median(seen)) if len(seen) else 0.0


def count_cameras(extent: Extent, corners_m: Float64) -> Coverage:
    """Count the footprints over each cell.

    Args:
        extent: the site.
        corners_m: f64[N, 4, 2]; NaN rows are skipped.
    """
    rows, columns, cell_m = extent.grid(_CELLS)
    counts = np.zeros((rows, columns), np.int32)
    corner = np.array([extent.west_m, extent.north_m])
    for corners in corners_m[np.isfinite(corners_m).all(axis=(1, 2))]:
        cells = (corners - corner) / cell_m * [1.0, -1.0] - 0.5
        hull = cv2.convexHull(np.clip(cells, -1e5, 1e5).astype(np.float32))
        mask = np.zeros((rows, columns), np.uint8)
        cv2.fillConvexPoly(mask, np.round(hull).astype(np.int32), 1)
        counts += mask
    return Coverage(extent, counts, cell_m)
