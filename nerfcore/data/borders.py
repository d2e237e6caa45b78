"""Owns finding the thin near-black borders that an earlier undistortion left on a photograph."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

NEAR_BLACK: Final = 16  # sRGB; JPEG noise and resampling lift true black to about 10
BAND_SHARE: Final = 0.04  # of the shorter side: deeper than this, darkness is taken for content
BLEED_PX: Final = 2  # resampling and chroma subsampling darken this many pixels beside a border
_MIN_PIXELS: Final = 8  # a shorter run is a dark speck at the edge, not a border


def border_mask(picture: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
    """Find near-black pixels connected to the image's edge, within a thin band along it.

    Args:
        picture: u8[H, W, 3], sRGB.

    Returns:
        bool[H, W], True where the pixel belongs to a border (grown by `BLEED_PX`), or None when
        there is no border.
    """
    height, width = picture.shape[:2]
    depth = max(3, round(BAND_SHARE * min(height, width)))
    dark = (picture.max(axis=2) <= NEAR_BLACK).astype(np.uint8)
    dark[depth : height - depth, depth : width - depth] = 0
    if not dark.any():
        return None
    count, labels, stats, _ = cv2.connectedComponentsWithStats(dark, connectivity=8)
    at_edge = np.zeros(count, np.bool_)
    for line in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        at_edge[np.unique(line)] = True
    at_edge &= stats[:, cv2.CC_STAT_AREA] >= _MIN_PIXELS
    at_edge[0] = False
    if not at_edge.any():
        return None
    border = at_edge[labels].astype(np.uint8)
    grown = cv2.dilate(border, np.ones((2 * BLEED_PX + 1, 2 * BLEED_PX + 1), np.uint8))
    return grown.astype(np.bool_)
