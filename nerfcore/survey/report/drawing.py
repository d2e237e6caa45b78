"""Owns figures as plain shapes, which `svg` and `raster` both draw.

Figure coordinates: x to the right, y downwards, in figure units; `raster` makes two pixels of each,
a browser as many as fit. Shapes are painted in order, by the class named in `palette.PAINTS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nerfcore.survey.coverage import Extent

Float64 = NDArray[np.float64]
Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True, eq=False)
class Line:
    """A polyline, or an area when closed: places f64[n, 2]."""

    places: Float64
    paint: str
    closed: bool = False


@dataclass(frozen=True, eq=False)
class Disc:
    """A circle; its radius is in screen px, as a stroke's width is."""

    x: float
    y: float
    radius_px: float
    paint: str


@dataclass(frozen=True, eq=False)
class Dart:
    """An arrow head of some screen px, turned clockwise from pointing up."""

    x: float
    y: float
    turn_deg: float
    size_px: float
    paint: str


@dataclass(frozen=True, eq=False)
class Text:
    """One line of text of some screen px; y is its base line."""

    x: float
    y: float
    words: str
    paint: str = "label"
    size_px: float = 13.0
    anchor: Anchor = "start"
    bold: bool = False


@dataclass(frozen=True, eq=False)
class Picture:
    """A raster image u8[h, w, 4] over a rectangle; photographic ones are stored lossily."""

    x: float
    y: float
    width: float
    height: float
    rgba: NDArray[np.uint8]
    photographic: bool = False


@dataclass(frozen=True, eq=False)
class Group:
    """Shapes that belong together.

    Attributes:
        shapes: painted in order.
        name: CSS class (a layer's name).
        image: index of the photograph the group stands for, None for none.
        title: what hovering shows.
        only_chosen: painted only while its photograph is chosen, so never in a PNG.
    """

    shapes: Sequence["Shape"]
    name: str = ""
    image: int | None = None
    title: str = ""
    only_chosen: bool = False


@dataclass(frozen=True, eq=False)
class Pinned:
    """Shapes in screen px around one place of the figure, which is their (0, 0)."""

    x: float
    y: float
    shapes: Sequence["Line | Dart | Text"]


Shape = Line | Disc | Dart | Text | Picture | Group | Pinned


@dataclass(frozen=True, eq=False)
class Figure:
    """A drawing of some size, with a description for those who cannot see it."""

    width: float
    height: float
    shapes: Sequence[Shape]
    description: str


@dataclass(frozen=True)
class MapScale:
    """How a site's extent lies on a figure: north up, one scale."""

    extent: Extent
    width: float

    @property
    def units_per_m(self) -> float:
        """Figure units per metre."""
        return self.width / self.extent.width_m

    @property
    def height(self) -> float:
        """The figure's height."""
        return self.extent.height_m * self.units_per_m

    def places(self, east_north_m: Float64) -> Float64:
        """Return where places f64[..., 2] (East, North) lie on the figure."""
        corner = np.array([self.extent.west_m, self.extent.north_m])
        return (np.asarray(east_north_m) - corner) * self.units_per_m * [1.0, -1.0]


def rectangle(x: float, y: float, width: float, height: float, paint: str) -> Line:
    """Return an upright rectangle."""
    corners = [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]
    return Line(np.array(corners), paint, closed=True)


def segment(x1: float, y1: float, x2: float, y2: float, paint: str) -> Line:
    """Return a straight line."""
    return Line(np.array([[x1, y1], [x2, y2]]), paint)


def round_step(span: float, wanted: int) -> float:
    """Return the step of 1, 2 or 5 times a power of ten that divides `span` into about `wanted`."""
    raw = max(span, 1e-9) / max(wanted, 1)
    power = 10.0 ** np.floor(np.log10(raw))
    return float(next(power * by for by in (1.0, 2.0, 5.0, 10.0) if power * by >= raw * 0.999))
