"""Owns how a render becomes the picture on the page, and the legend of its depth colours.

Depth is metres along the ray on one fixed scale a visit (turbo, 0 m to `depth_max_m`), so that
colours of two views can be compared. Pixels without depth (opacity below one half) are dark grey.
"""

import math
from enum import StrEnum
from typing import Final, assert_never

import cv2
import numpy as np
from numpy.typing import NDArray

from nerfcore.geometry.camera import Rendered

ROUND_FACTORS: Final = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
NO_DEPTH_RGB: Final = (40, 40, 40)
TURBO: Final[NDArray[np.uint8]] = np.array(
    cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1],
    np.uint8,
)
TURBO.setflags(write=False)


class Show(StrEnum):
    """What the page shows of a render."""

    RGB = "RGB"
    DEPTH = "Depth"
    OPACITY = "Opacity"


def paint(rendered: Rendered, show: Show, depth_max_m: float) -> NDArray[np.uint8]:
    """Return the shown picture, u8[H, W, 3] RGB.

    Args:
        rendered: colour, depth (m) and opacity.
        show: which of them.
        depth_max_m: end of the depth scale, m; farther depths get its last colour.
    """
    match show:
        case Show.RGB:
            return _to_bytes(rendered.rgb)
        case Show.DEPTH:
            return _depth_colours(rendered.depth_m, depth_max_m)
        case Show.OPACITY:
            return np.repeat(_to_bytes(rendered.opacity)[..., None], 3, axis=2)
        case _:
            assert_never(show)


def nice_ceiling(value: float) -> float:
    """Return the smallest round number (see `ROUND_FACTORS`) not below a positive value."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in ROUND_FACTORS if factor * power >= value)


def legend_html(depth_max_m: float) -> str:
    """Return the depth scale with five marks in metres, as HTML."""
    stops = ", ".join(
        f"rgb({r},{g},{b}) {100 * index / 255:.0f}%"
        for index, (r, g, b) in ((i, TURBO[i].tolist()) for i in range(0, 256, 15))
    )
    marks = "".join(f"<span>{depth_max_m * part / 4:g} m</span>" for part in range(5))
    swatch = "rgb({},{},{})".format(*NO_DEPTH_RGB)
    return (
        '<div style="padding:0.2em 0.8em 0.6em;font-size:0.8em">'
        f'<div style="height:1.1em;border-radius:3px;background:linear-gradient(to right,{stops})">'
        f'</div><div style="display:flex;justify-content:space-between">{marks}</div>'
        '<div><span style="display:inline-block;width:0.8em;height:0.8em;border:1px solid #888;'
        f'background:{swatch}">'
        "</span> nothing hit</div></div>"
    )


def _to_bytes(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    finite = np.nan_to_num(values, nan=0.0, posinf=1.0, neginf=0.0)
    return (np.clip(finite, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _depth_colours(depth_m: NDArray[np.float32], depth_max_m: float) -> NDArray[np.uint8]:
    is_known = np.isfinite(depth_m)
    picture = TURBO[_to_bytes(np.where(is_known, depth_m, 0.0) / np.float32(depth_max_m))]
    picture[~is_known] = NO_DEPTH_RGB
    return picture
