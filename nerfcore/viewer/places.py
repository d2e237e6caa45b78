"""Owns how places are written and read: the camera's, a point's, and what a person types.

Positions are world points (see `nerfcore.data.records`); texts show WGS84 degrees with 6 decimals
(0.1 m) and heights above the ellipsoid in m, or East, North, Up in m where the scene has no place
on the Earth. Headings count from north over east, degrees; pitches from the horizon upwards.
"""

import math
import re
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nerfcore.data.records import SceneFrame
from nerfcore.errors import NerfcoreError
from nerfcore.geometry.camera import Camera
from nerfcore.geometry.geodesy import GeoPoint, ecef_to_enu, geodetic_to_ecef

POINTS: Final = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")
_NUMBER: Final = r"[-+]?\d+(?:\.\d+)?"
_PART: Final = r"(?:(\d+(?:\.\d+)?)\s*{}\s*)?"
_MINUTES: Final = _PART.format("[\u2032']")
_SECONDS: Final = _PART.format("(?:\u2033|\"|'')")
_DEGREES: Final = re.compile(rf"({_NUMBER})\s*°?\s*{_MINUTES}{_SECONDS}([NSEW])?", re.IGNORECASE)


class BadPlaceError(NerfcoreError):
    """A text that is no place of this scene."""


@dataclass(frozen=True)
class Heading:
    """Where a camera looks: heading from north over east, pitch from the horizon up, degrees."""

    heading_deg: float
    pitch_deg: float

    def __str__(self) -> str:
        point = POINTS[round(self.heading_deg / 45.0) % len(POINTS)]
        side = "up" if self.pitch_deg > 0 else "down"
        return f"{round(self.heading_deg) % 360}° ({point}), {abs(self.pitch_deg):.0f}° {side}"


def heading_of(camera: Camera, frame: SceneFrame) -> Heading:
    """Return where a camera looks."""
    eye = camera.c2w[:, 3].astype(np.float64)
    ahead = eye - camera.c2w[:, 2].astype(np.float64)
    east, north, up = frame.world_to_enu_m(ahead) - frame.world_to_enu_m(eye)
    heading = math.degrees(math.atan2(east, north)) % 360.0
    return Heading(heading, math.degrees(math.atan2(up, math.hypot(east, north))))


def place_text(point: ArrayLike, frame: SceneFrame) -> str:
    """Return a world point [3] as one line."""
    if frame.enu_ref is None:
        east, north, up = frame.world_to_enu_m(point)
        return f"{east:.1f} m E, {north:.1f} m N, {up:.1f} m up"
    lat, lon, alt = (float(value) for value in frame.world_to_geo(point))
    return f"{_degrees(lat, 'NS')}, {_degrees(lon, 'EW')}, {alt:.1f} m"


def place_record(point: ArrayLike, frame: SceneFrame) -> dict[str, object]:
    """Return a world point [3] as JSON values: metres, and degrees where the scene has them."""
    record: dict[str, object] = {"enu_m": [round(float(v), 4) for v in frame.world_to_enu_m(point)]}
    if frame.enu_ref is not None:
        lat, lon, alt = (float(value) for value in frame.world_to_geo(point))
        record["geo"] = {"lat_deg": lat, "lon_deg": lon, "alt_m": alt}
    return record


def parse_place(text: str, frame: SceneFrame, ground_up_m: float) -> NDArray[np.float64]:
    """Return the world point f64[3] that a person's text names.

    Args:
        text: latitude and longitude (decimal degrees with or without N/S/E/W, or degrees, minutes
            and seconds), and perhaps a height in m; metres East, North[, Up] where the scene has no
            place on the Earth.
        frame: the scene's frame.
        ground_up_m: Up of the ground, m, where the text names no height.

    Raises:
        BadPlaceError: not a place; says what would be one.
    """
    numbers = [_degrees_of(part) for part in _parts(text)]
    is_geo = frame.enu_ref is not None
    if len(numbers) not in (2, 3) or None in numbers:
        wanted = "47.12345, 8.54321" if is_geo else "east, north in metres, such as 12.5, -40"
        raise BadPlaceError(f"{text.strip()[:60]!r} is no place; write {wanted}")
    values = [value for value in numbers if value is not None]
    if frame.enu_ref is None:
        return frame.enu_m_to_world([*values[:2], values[2] if len(values) == 3 else ground_up_m])
    lat, lon = values[:2]
    if not (abs(lat) <= 90.0 and abs(lon) <= 180.0):
        raise BadPlaceError(f"{text.strip()[:60]!r}: latitude -90 to 90, longitude -180 to 180")
    alt_m = frame.enu_ref.alt_m + ground_up_m if len(values) == 2 else values[2]
    return frame.enu_m_to_world(
        ecef_to_enu(geodetic_to_ecef(GeoPoint(lat, lon, alt_m)), frame.enu_ref)
    )


def _parts(text: str) -> list[str]:
    """Cut a text into its coordinates."""
    separated = re.split(r"[,;]", text)
    if len(separated) == 1:
        separated = re.findall(rf"(?:{_NUMBER}[^-+\s\dNSEW]*\s*)+?[NSEW]", text, re.IGNORECASE)
    return [part.strip() for part in (separated or text.split()) if part.strip()]


def _degrees_of(text: str) -> float | None:
    """Read one coordinate; None when it is none."""
    found = _DEGREES.fullmatch(text.removesuffix("m").strip())
    if found is None:
        return None
    degrees, minutes, seconds, side = found.groups()
    value = abs(float(degrees)) + float(minutes or 0) / 60.0 + float(seconds or 0) / 3600.0
    is_negative = degrees.startswith("-") != ((side or "").upper() in ("S", "W"))
    return -value if is_negative else value


def _degrees(value: float, sides: str) -> str:
    return f"{abs(value):.6f}° {sides[0] if value >= 0 else sides[1]}"
