"""Owns the convex solids a city is made of: their shapes, surfaces and bounds.

A solid has a centre, a rotation (yaw about the vertical, then a tilt) and half sizes in its own
axes. A `FRUSTUM` is a box whose sides may lean inwards: its top is smaller than its base by `inset`
on each side, so that boxes, gables (inset y = half y), hip roofs and pyramids are one shape.
"""

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Rgb = tuple[float, float, float]


class Shape(IntEnum):
    """Which test a ray makes against a solid."""

    FRUSTUM = 0
    ELLIPSOID = 1


class Skin(IntEnum):
    """Which pattern a surface carries."""

    PLAIN = 0
    PLASTER = 1
    BRICK = 2
    RIBBON = 3
    GLASS = 4
    CLADDING = 5
    GRAVEL = 6
    TILES = 7
    SEAM = 8
    FOLIAGE = 9
    RUBBLE = 10
    SCORCHED = 11
    SMOKE = 12
    LAWN = 13
    SKYLIGHTS = 14


@dataclass(frozen=True)
class Solid:
    """One convex solid in the city frame.

    Attributes:
        centre_m, half_m: centre, and half sizes along its own axes.
        yaw_rad: turn about the vertical; `tilt_rad`: then about its own x and y.
        inset_m: how much smaller the top is than the base, on each side, in x and in y.
        wall, top: patterns of the sides and of the upward face.
        wall_rgb, top_rgb, accent_rgb: linear albedos.
        storey_m: height of a storey for the window patterns.
        building: number of the building it belongs to, -1 for none.
    """

    shape: Shape
    centre_m: tuple[float, float, float]
    half_m: tuple[float, float, float]
    yaw_rad: float = 0.0
    tilt_rad: tuple[float, float] = (0.0, 0.0)
    inset_m: tuple[float, float] = (0.0, 0.0)
    wall: Skin = Skin.PLAIN
    top: Skin = Skin.PLAIN
    wall_rgb: Rgb = (0.5, 0.5, 0.5)
    top_rgb: Rgb = (0.4, 0.4, 0.4)
    accent_rgb: Rgb = (0.1, 0.1, 0.1)
    storey_m: float = 3.2
    seed: int = 0
    building: int = -1

    def rotation(self) -> NDArray[np.float64]:
        """Return f64[3, 3] whose columns are the solid's axes in the city frame."""
        cz, sz = np.cos(self.yaw_rad), np.sin(self.yaw_rad)
        (cx, cy), (sx, sy) = np.cos(self.tilt_rad), np.sin(self.tilt_rad)
        about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
        about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
        about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        return about_z @ about_x @ about_y

    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the lowest and highest corner, each f64[3], of the box around the solid."""
        turned = np.abs(self.rotation())
        half = np.asarray(self.half_m)
        reach = np.sqrt(turned**2 @ half**2) if self.shape is Shape.ELLIPSOID else turned @ half
        centre = np.asarray(self.centre_m)
        return centre - reach, centre + reach

    def owned_by(self, building: int) -> "Solid":
        """Return the same solid as a part of a building."""
        return replace(self, building=building)


def box(
    base: tuple[float, float, float],
    size: tuple[float, float, float],
    *,
    yaw_rad: float = 0.0,
    inset_m: tuple[float, float] = (0.0, 0.0),
    wall: Skin = Skin.PLAIN,
    top: Skin = Skin.PLAIN,
    wall_rgb: Rgb = (0.5, 0.5, 0.5),
    top_rgb: Rgb | None = None,
    accent_rgb: Rgb = (0.1, 0.1, 0.1),
    storey_m: float = 3.2,
    seed: int = 0,
) -> Solid:
    """Return an upright frustum given by the middle of its base and its full sizes."""
    half = (size[0] / 2, size[1] / 2, size[2] / 2)
    return Solid(
        Shape.FRUSTUM, (base[0], base[1], base[2] + half[2]), half, yaw_rad, (0.0, 0.0), inset_m,
        wall, top, wall_rgb, wall_rgb if top_rgb is None else top_rgb, accent_rgb, storey_m, seed,
    )  # fmt: skip


def rgb(code: str, gain: float = 0.85) -> Rgb:
    """Return the linear albedo that looks like a `#rrggbb` colour in full sun."""
    values = np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)]) / 255.0
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4) * gain
    return float(linear[0]), float(linear[1]), float(linear[2])
