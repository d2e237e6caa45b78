"""Owns the report's colours and how each class of shape is painted, for SVG and PNG alike.

Colours are sRGB hex, one for light and one for dark pages; PNGs are always light. A paint's name is
the CSS class of the shapes that use it.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

COLOURS: Final[dict[str, tuple[str, str]]] = {
    "page": ("#ffffff", "#10161c"),
    "panel": ("#f4f6f8", "#18212a"),
    "ink": ("#18222c", "#e7ecf1"),
    "muted": ("#56636f", "#9eabb8"),
    "rule": ("#d5dce3", "#2f3b47"),
    "map": ("#e6eaee", "#222c36"),
    "link": ("#0b57c2", "#7db4ff"),
    "serious": ("#b3201b", "#ff8a80"),
    "warning": ("#8f5300", "#f5b74a"),
    "note": ("#56636f", "#9eabb8"),
    "good": ("#17703a", "#5fd093"),
    "first": ("#1769e0", "#4d94ff"),
    "later": ("#e0570b", "#ff9145"),
    "chosen": ("#e6007a", "#ff5cb0"),
    "white": ("#ffffff", "#ffffff"),
    "casing": ("#0d1319", "#0d1319"),
    "compass": ("#18222c", "#e7ecf1"),
}


@dataclass(frozen=True)
class Paint:
    """How a class of shapes is painted.

    Attributes:
        fill, stroke: names in `COLOURS`, None = not painted.
        fill_share, stroke_share: opacity 0..1.
        width_px: of the stroke, in px of the screen whatever the figure's scale.
    """

    fill: str | None = None
    stroke: str | None = None
    fill_share: float = 1.0
    stroke_share: float = 1.0
    width_px: float = 1.0


PAINTS: Final[dict[str, Paint]] = {
    "paper": Paint(fill="map"),
    "plot": Paint(fill="panel"),
    "footprint-first": Paint("first", "first", 0.015, 0.35, 1.0),
    "footprint-later": Paint("later", "later", 0.03, 0.6, 1.0),
    "sight-first": Paint(stroke="first", stroke_share=0.8, width_px=1.2),
    "sight-later": Paint(stroke="later", stroke_share=0.8, width_px=1.2),
    "dart-first": Paint("first", "white"),
    "dart-later": Paint("later", "white"),
    "dart-held": Paint("white", "first", width_px=1.8),
    "dart-later-held": Paint("white", "later", width_px=1.8),
    "footprint-chosen": Paint("chosen", "chosen", 0.18, 1.0, 2.5),
    "ring": Paint(stroke="chosen", width_px=3.0),
    "trouble": Paint(stroke="serious", width_px=2.2),
    "expert-casing": Paint(stroke="casing", stroke_share=0.55, width_px=3.8),
    "expert": Paint(stroke="white", width_px=1.8),
    "expert-margin": Paint(stroke="white", stroke_share=0.75, width_px=1.0),
    "expert-badge": Paint("casing", "white", 0.85, 1.0, 1.2),
    "expert-name": Paint(fill="white"),
    "scale-plate": Paint(fill="page", fill_share=0.82),
    "scale-bar": Paint(fill="compass"),
    "north": Paint(fill="compass"),
    "label": Paint(fill="ink"),
    "quiet": Paint(fill="muted"),
    "axis": Paint(stroke="rule"),
    "limit": Paint(stroke="serious", width_px=1.5),
    "limit-name": Paint(fill="serious"),
    "bar-first": Paint(fill="first", fill_share=0.9),
    "bar-later": Paint(fill="later", fill_share=0.9),
    "spread-first": Paint(stroke="first", stroke_share=0.4, width_px=2.0),
    "spread-later": Paint(stroke="later", stroke_share=0.4, width_px=2.0),
    "band-first": Paint(stroke="first", stroke_share=0.12, width_px=2.0),
    "band-later": Paint(stroke="later", stroke_share=0.12, width_px=2.0),
    "dot-first": Paint("first", "page", width_px=0.8),
    "dot-later": Paint("later", "page", width_px=0.8),
}

# Cameras that see a cell: least count, what the legend says, colour. Fewer than three is orange.
COVERAGE_STEPS: Final[tuple[tuple[int, str, str], ...]] = (
    (1, "1", "#d7301f"),
    (2, "2", "#fdae61"),
    (3, "3 to 4", "#c6dbef"),
    (5, "5 to 9", "#85bcdb"),
    (10, "10 to 19", "#3d8dc4"),
    (20, "20 to 49", "#0b559f"),
    (50, "50 and more", "#08264f"),
)


def rgb_of(name: str) -> tuple[int, int, int]:
    """Return a colour of `COLOURS` for a light page as R, G, B."""
    code = COLOURS[name][0]
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)


def height_colours(shares: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return the colours of heights: dark violet low, yellow high (viridis).

    Args:
        shares: [...], 0 = lowest, 1 = highest; clipped.

    Returns:
        u8[..., 3] RGB.
    """
    steps = np.round(np.clip(shares, 0.0, 1.0) * 255.0).astype(np.uint8).reshape(-1, 1)
    bgr = np.asarray(cv2.applyColorMap(steps, cv2.COLORMAP_VIRIDIS), np.uint8)
    return bgr[:, 0, ::-1].reshape(*np.shape(shares), 3)


def coverage_colours(counts: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return the colours of camera counts [...], u8[..., 4] RGBA; transparent where none looks."""
    codes = ["#00000000", *(colour + "ff" for _, _, colour in COVERAGE_STEPS)]
    table = np.array([[int(code[i : i + 2], 16) for i in (1, 3, 5, 7)] for code in codes], np.uint8)
    return table[np.searchsorted([least for least, _, _ in COVERAGE_STEPS], counts, side="right")]


def stylesheet() -> str:
    """Return the CSS of all colours and paints."""
    light = "".join(f"--{name}:{colours[0]};" for name, colours in COLOURS.items())
    dark = "".join(f"--{name}:{colours[1]};" for name, colours in COLOURS.items())
    rules = [f":root{{{light}}}", f"@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"]
    for name, paint in PAINTS.items():
        fill = "none" if paint.fill is None else f"var(--{paint.fill})"
        stroke = "none" if paint.stroke is None else f"var(--{paint.stroke})"
        rules.append(
            f".{name}{{fill:{fill};fill-opacity:{paint.fill_share};stroke:{stroke};"
            f"stroke-opacity:{paint.stroke_share};stroke-width:{paint.width_px}px}}"
        )
    return "\n".join(rules)
