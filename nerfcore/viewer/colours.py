"""Owns how a render becomes the picture on the page, and the legends of its colours.

Depth is metres along the ray on one fixed scale a visit (0 m to `depth_max_m`), so that colours of
two views can be compared. Pixels without depth (opacity below one half) are dark grey.
"""

import math
from enum import StrEnum
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from nerfcore.geometry.camera import Rendered

ROUND_FACTORS: Final = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
NO_DEPTH_RGB: Final = (40, 40, 40)
LARGEST_CHANGE: Final = 0.5
_LEVELS: Final = np.arange(256, dtype=np.uint8)[:, None]


def _table_of(colour_map: int) -> NDArray[np.uint8]:
    return np.array(cv2.applyColorMap(_LEVELS, colour_map)[:, 0, ::-1], np.uint8)


class DepthMap(StrEnum):
    """Colours of depth; near to far."""

    TURBO = "Turbo"
    VIRIDIS = "Viridis"
    MAGMA = "Magma"
    GREY = "Grey"


TURBO: Final[NDArray[np.uint8]] = _table_of(cv2.COLORMAP_TURBO)
DEPTH_TABLES: Final[dict[DepthMap, NDArray[np.uint8]]] = {
    DepthMap.TURBO: TURBO,
    DepthMap.VIRIDIS: _table_of(cv2.COLORMAP_VIRIDIS),
    DepthMap.MAGMA: _table_of(cv2.COLORMAP_MAGMA),
    DepthMap.GREY: np.repeat(255 - _LEVELS, 3, axis=1),
}
# Tableau's ten, in an order in which neighbours differ most.
EXPERT_RGBS: Final[NDArray[np.uint8]] = np.array(
    [[78, 121, 167], [242, 142, 43], [89, 161, 79], [225, 87, 89], [176, 122, 161], [237, 201, 72],
     [118, 183, 178], [255, 157, 167], [156, 117, 95], [186, 176, 172]], np.uint8
)  # fmt: skip
for _table in (*DEPTH_TABLES.values(), EXPERT_RGBS):
    _table.setflags(write=False)


class Show(StrEnum):
    """What the page shows of a render."""

    RGB = "RGB"
    DEPTH = "Depth"
    OPACITY = "Opacity"
    EXPERTS = "Experts"
    CHANGE = "Change"


def tone(rgb: NDArray[np.floating], exposure_stops: float, gamma: float) -> NDArray[np.uint8]:
    """Return colours [..., 3] in [0, 1] as bytes, brighter or darker and with another gamma.

    Args:
        rgb: sRGB.
        exposure_stops: each stop doubles the light (approximated in sRGB by a power of 2.2).
        gamma: above 1 brightens the shadows; 1 = as it is.
    """
    if exposure_stops == 0.0 and gamma == 1.0:
        return to_bytes(rgb)
    brighter = np.clip(rgb * np.float32(2.0 ** (exposure_stops / 2.2)), 0.0, 1.0)
    return to_bytes(brighter ** np.float32(1.0 / gamma))


def depth_colours(
    depth_m: NDArray[np.float32], depth_max_m: float, colour_map: DepthMap = DepthMap.TURBO
) -> NDArray[np.uint8]:
    """Return depths [H, W] in m as colours; farther ones than the scale's end get its last."""
    is_known = np.isfinite(depth_m)
    table = DEPTH_TABLES[colour_map]
    picture = table[to_bytes(np.where(is_known, depth_m, 0.0) / np.float32(depth_max_m))]
    picture[~is_known] = NO_DEPTH_RGB
    return picture


def opacity_greys(opacity: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return opacities [H, W] as grey levels."""
    return np.repeat(to_bytes(opacity)[..., None], 3, axis=2)


def expert_colours(rendered: Rendered, owners: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return the render tinted by who owns each surface.

    Args:
        rendered: gives the brightness.
        owners: i[H, W], expert of each pixel's surface; negative = none.
    """
    grey = np.nan_to_num(rendered.rgb).mean(axis=2, keepdims=True)
    tint = EXPERT_RGBS[np.maximum(owners, 0) % len(EXPERT_RGBS)].astype(np.float32) / 255.0
    picture = to_bytes(tint * (0.35 + 0.65 * grey))
    picture[owners < 0] = NO_DEPTH_RGB
    return picture


def change_colours(rendered: Rendered, change: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the render in grey with changes on it, from yellow (a little) to red (much).

    Args:
        rendered: gives the grey picture.
        change: f32[H, W], 0 to 1; NaN where no photograph sees the surface (darker).
    """
    grey = np.repeat(np.nan_to_num(rendered.rgb).mean(axis=2, keepdims=True), 3, axis=2)
    is_seen = np.isfinite(change)
    strength = np.clip(np.nan_to_num(change) / LARGEST_CHANGE, 0.0, 1.0)[..., None]
    heat = np.concatenate(
        [np.ones_like(strength), 0.85 - 0.8 * strength, np.full_like(strength, 0.05)], axis=2
    )
    alpha = np.clip(2.0 * (strength - 0.15), 0.0, 0.9)
    mixed = (0.75 * grey) * (1.0 - alpha) + heat * alpha
    return to_bytes(np.where(is_seen[..., None], mixed, 0.3 * grey))


def nice_ceiling(value: float) -> float:
    """Return the smallest round number (see `ROUND_FACTORS`) not below a positive value."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in ROUND_FACTORS if factor * power >= value)


def to_bytes(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return values in [0, 1] as 0 to 255; what is not finite becomes 0 or 255."""
    finite = np.nan_to_num(values, nan=0.0, posinf=1.0, neginf=0.0)
    return (np.clip(finite, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
