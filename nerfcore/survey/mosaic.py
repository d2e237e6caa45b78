"""Owns a rough picture of the site from above, pieced together from the photographs.

Frame: ENU metres, first row in the north. Each cell takes its colour from the photograph that looks
at it most steeply, looked up at the height of the sparse points' surface: good for finding one's
way, not for measuring (facades lean, roofs may be torn).
"""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from nerfcore.survey.coverage import Extent
from nerfcore.survey.footprints import Views
from nerfcore.survey.roster import Roster
from nerfcore.survey.terrain import Terrain

Float64 = NDArray[np.float64]
MOSAIC_PX: Final = 1000  # along the longer side
_FLATTEST: Final = 2.0  # ground distance over height, 63 degrees: flatter looks smear over the map
_RIM: Final = 0.025  # of a photograph's size: black borders of an earlier undistortion lie there


class Mosaic:
    """The picture from above of one flight, filled photograph by photograph."""

    def __init__(self, extent: Extent, terrain: Terrain) -> None:
        """Start empty.

        Args:
            extent: the site.
            terrain: heights of the surface.
        """
        self._extent = extent
        self._centres = extent.cell_centres(MOSAIC_PX)
        self._ups = terrain.surface_at(self._centres)
        shape = self._ups.shape
        self._rgb = np.zeros((*shape, 3), np.uint8)
        self._painted = np.zeros(shape, np.bool_)
        self._flattest = np.full(shape, _FLATTEST)

    def add(self, picture: NDArray[np.uint8], roster: Roster, views: Views, image: int) -> None:
        """Paint the cells that this photograph sees more steeply than those before.

        Args:
            picture: u8[h, w, 3], the photograph, possibly reduced.
            roster, views: the photographs and what they see.
            image: this one's index.
        """
        corners = views.corners_m[image]
        if not np.isfinite(corners).all():
            return
        rows, columns = self._window(corners)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return
        places = np.dstack([self._centres[rows, columns], self._ups[rows, columns]])
        pixels, in_front = _pixels_of(places, roster, image, picture.shape)
        size = np.array(picture.shape[1::-1], np.float64)
        within = (pixels > _RIM * size) & (pixels < (1.0 - _RIM) * size - 1.0)
        away = places - roster.positions_m[image]
        flatness = np.hypot(away[..., 0], away[..., 1]) / np.maximum(-away[..., 2], 1e-6)
        flattest = self._flattest[rows, columns]
        better = in_front & within.all(axis=-1) & (flatness < flattest)
        maps = pixels.astype(np.float32)
        colours = cv2.remap(picture, maps[..., 0], maps[..., 1], cv2.INTER_LINEAR)
        self._rgb[rows, columns][better] = colours[better]
        self._painted[rows, columns] |= better
        flattest[better] = flatness[better]

    def _window(self, corners: Float64) -> tuple[slice, slice]:
        """Return the rows and columns around a footprint."""
        rows, columns, side_m = self._extent.grid(MOSAIC_PX)
        west, north = self._extent.west_m, self._extent.north_m
        x = np.clip((corners[:, 0] - west) / side_m, 0, columns)
        y = np.clip((north - corners[:, 1]) / side_m, 0, rows)
        return (
            slice(int(y.min()), int(np.ceil(y.max()))),
            slice(int(x.min()), int(np.ceil(x.max()))),
        )

    @property
    def rgba(self) -> NDArray[np.uint8]:
        """The picture so far, u8[rows, columns, 4]; transparent where no photograph looks."""
        alpha = np.where(self._painted, 255, 0).astype(np.uint8)
        return np.dstack([self._rgb, alpha])


def _pixels_of(
    places_m: Float64, roster: Roster, image: int, shape: tuple[int, ...]
) -> tuple[Float64, NDArray[np.bool_]]:
    """Return where a reduced photograph sees places f64[..., 3], as array indices f64[..., 2]
    (pixel centres at whole numbers), and which lie in front of the camera."""
    images = roster.images
    local = (places_m - roster.positions_m[image]) @ roster.rotations[image]
    depth = -local[..., 2]
    in_front = depth > 1e-6
    safe = np.where(in_front, depth, 1.0)
    fx, fy, cx, cy = images.intrinsics[image].astype(np.float64)
    x = (cx + fx * local[..., 0] / safe) * (shape[1] / float(images.widths_px[image]))
    y = (cy - fy * local[..., 1] / safe) * (shape[0] / float(images.heights_px[image]))
    return np.stack([x, y], axis=-1) - 0.5, in_front
