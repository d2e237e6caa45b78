"""Owns reading where a photograph was taken from its EXIF data.

Latitude and longitude are WGS84 degrees. The height is taken as it stands: cameras write metres
above the ellipsoid or above the sea, and EXIF does not say which.
"""

import math
from pathlib import Path
from typing import Any, Final

from PIL import Image, UnidentifiedImageError

from nerfcore.errors import DataError
from nerfcore.geometry.geodesy import GeoPoint

_GPS_FOLDER: Final = 0x8825
_LAT_REF, _LAT, _LON_REF, _LON, _ALT_REF, _ALT = 1, 2, 3, 4, 5, 6
_MAKE, _MODEL = 0x010F, 0x0110
_MEND: Final = "take the photograph out or correct its EXIF data"


def read_gps(path: Path) -> GeoPoint | None:
    """Return where a photograph was taken, None when it does not say.

    Raises:
        DataError: no image, or a GPS field is not a number or out of range.
    """
    gps = _exif(path).get_ifd(_GPS_FOLDER)
    if _LAT not in gps or _LON not in gps or _ALT not in gps:
        return None
    lat = _degrees(path, "GPSLatitude", gps[_LAT], gps.get(_LAT_REF, "N"), "NS", 90.0)
    lon = _degrees(path, "GPSLongitude", gps[_LON], gps.get(_LON_REF, "E"), "EW", 180.0)
    below = gps.get(_ALT_REF, b"\0") in (b"\1", 1)
    alt_m = _number(path, "GPSAltitude", gps[_ALT])
    if lat == 0.0 and lon == 0.0:
        return None  # receivers without a fix write zeros
    return GeoPoint(lat, lon, -alt_m if below else alt_m)


def camera_label(path: Path) -> tuple[str, int, int]:
    """Return make and model, width and height (px): photographs that agree share a camera.

    Raises:
        DataError: no image.
    """
    try:
        with Image.open(path) as picture:
            exif = picture.getexif()
            return f"{exif.get(_MAKE, '')} {exif.get(_MODEL, '')}", *picture.size
    except (OSError, UnidentifiedImageError) as error:
        raise _unreadable(path, error) from error


def _exif(path: Path) -> Image.Exif:
    try:
        with Image.open(path) as picture:
            return picture.getexif()
    except (OSError, UnidentifiedImageError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: unreadable photograph ({error}); restore the file or remove it")


def _number(path: Path, field: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{path}: EXIF {field} is {value!r}, not a number; {_MEND}")
    return number


def _degrees(path: Path, field: str, value: Any, side: Any, sides: str, limit: float) -> float:
    if not isinstance(value, tuple) or len(value) != 3:
        raise DataError(
            f"{path}: EXIF {field} is {value!r}, not degrees, minutes, seconds; {_MEND}"
        )
    degrees, minutes, seconds = (_number(path, field, part) for part in value)
    total = degrees + minutes / 60.0 + seconds / 3600.0
    name = str(side).strip("\0 ")
    if name not in sides or not name or not 0.0 <= total <= limit:
        raise DataError(
            f"{path}: EXIF {field} is {total:g} {side!r}, outside 0..{limit:g} {sides[0]} or "
            f"{sides[1]}; {_MEND}"
        )
    return -total if name == sides[1] else total
