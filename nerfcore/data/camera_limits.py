"""Owns what a camera may be, and where: bounds that only a slip or damage exceeds.

They keep absurd numbers from allocating the machine's memory or from looping for hours.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

MOST_SIDE_PX: Final = 65_500  # JPEG's own limit
MOST_PIXELS: Final = 2**29
FOCAL_TIMES: Final = 100.0  # of the larger side: a view between 0.6 and 179 degrees
CENTRE_TIMES: Final = 2.0  # of the side, from the photograph's middle
FARTHEST_M: Final = 1e9  # of a camera or point from the model's origin; the Earth's radius is 6.4e6
LARGEST_TERM: Final = 1e4  # of a lens's distortion


def camera_fault(
    size_px: tuple[float, float],
    focal_px: Sequence[float],
    centre_px: tuple[float, float],
    terms: Sequence[float] = (),
) -> str | None:
    """Say what is absurd about a camera: field, value and limit; None when nothing is.

    Args:
        size_px: width and height.
        focal_px: one focal length, or two.
        centre_px: principal point.
        terms: distortion.
    """
    for name, side in zip(("width", "height"), size_px, strict=True):
        if not 1 <= side <= MOST_SIDE_PX:
            return f"{name} of {side:g} px is outside 1..{MOST_SIDE_PX}"
    if size_px[0] * size_px[1] > MOST_PIXELS:
        return f"{size_px[0]:.0f}x{size_px[1]:.0f} px are more than {MOST_PIXELS} pixels"
    larger = max(size_px)
    for focal in focal_px:
        if not larger / FOCAL_TIMES <= focal <= larger * FOCAL_TIMES:
            return (
                f"focal length of {focal:g} px is outside {larger / FOCAL_TIMES:g}.."
                f"{larger * FOCAL_TIMES:g} for {size_px[0]:.0f}x{size_px[1]:.0f} px"
            )
    for axis, centre, side in zip(("x", "y"), centre_px, size_px, strict=True):
        if not abs(centre - side / 2.0) <= side * CENTRE_TIMES:
            return f"principal point at {axis} = {centre:g} px is far outside {side:.0f} px"
    for term in terms:
        if not np.abs(term) <= LARGEST_TERM:
            return f"distortion term {term:g} is outside -{LARGEST_TERM:g}..{LARGEST_TERM:g}"
    return None
