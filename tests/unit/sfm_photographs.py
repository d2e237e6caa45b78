"""Makes photographs of a small town of flat roofs, with GPS, that COLMAP can reconstruct.

Ground and roofs are random textures at known heights, drawn through exact homographies in a
fraction of a second; the parallax between them is what makes the site three-dimensional.
"""

import io
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from data_flights import SITE
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from nerfcore.geometry.geodesy import GeoPoint, ecef_to_geodetic, enu_to_ecef

WIDTH_PX, HEIGHT_PX, FOCAL_PX = 320, 240, 260.0
ALTITUDE_M = 60.0
_PX_PER_M = 6.0
_HALF_M = 90.0


def dms(value: float) -> tuple[IFDRational, ...]:
    """Return degrees, minutes, seconds (to 1e-7) the way cameras write them."""
    exact = Fraction(abs(value)).limit_denominator(10**9)
    degrees, rest = divmod(exact, 1)
    minutes, rest = divmod(rest * 60, 1)
    seconds = Fraction(round(rest * 60 * 10**7), 10**7)
    return tuple(IFDRational(part.numerator, part.denominator)
                 for part in (Fraction(degrees), Fraction(minutes), seconds))  # fmt: skip


def with_gps(content: bytes, place: GeoPoint | None, **changes) -> bytes:
    """Return a JPEG with GPS in its EXIF data; `changes` replace fields by their number."""
    picture = Image.open(io.BytesIO(content))
    exif = picture.getexif()
    exif[0x010F], exif[0x0110] = "Maker", "Drone 1"
    if place is not None:
        fields = {
            1: "N" if place.lat_deg >= 0 else "S",
            2: dms(place.lat_deg),
            3: "E" if place.lon_deg >= 0 else "W",
            4: dms(place.lon_deg),
            5: b"\0" if place.alt_m >= 0 else b"\1",
            6: IFDRational(round(abs(place.alt_m) * 1000), 1000),
        }
        fields |= {int(name.removeprefix("tag")): value for name, value in changes.items()}
        exif.get_ifd(0x8825).update({k: v for k, v in fields.items() if v is not None})
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=95, exif=exif)
    return out.getvalue()


def _texture(rng: np.random.Generator, side_px: int) -> NDArray[np.uint8]:
    """Return blotches of several sizes: what SIFT finds again."""
    total = np.zeros((side_px, side_px, 3), np.float32)
    for cell in (6, 14, 30):
        count = side_px // cell + 2
        coarse = rng.normal(size=(count, count, 3)).astype(np.float32)
        total += cv2.resize(coarse, (side_px, side_px), interpolation=cv2.INTER_CUBIC)
    return np.clip(128.0 + 40.0 * total, 0, 255).astype(np.uint8)


def _layers(rng: np.random.Generator) -> list[tuple[NDArray[np.uint8], NDArray[np.float64], float]]:
    """Return ground and roofs, lowest first: texture, south-west corner (m), height (m)."""
    layers = [(_texture(rng, int(2 * _HALF_M * _PX_PER_M)), np.array([-_HALF_M, -_HALF_M]), 0.0)]
    for height_m in np.sort(rng.uniform(4.0, 18.0, 30)):
        side_m = rng.uniform(8.0, 18.0)
        corner = rng.uniform(-70.0, 70.0, 2)
        layers.append((_texture(rng, int(side_m * _PX_PER_M)), corner, float(height_m)))
    return layers


def camera_positions(count: int) -> NDArray[np.float64]:
    """Return where the photographs are taken, ENU f64[count, 3] m: lines over the town."""
    side = int(np.ceil(np.sqrt(count)))
    rows, columns = np.divmod(np.arange(count), side)
    east_m, north_m = 18.0 * (columns - (side - 1) / 2), 16.0 * (rows - (side - 1) / 2)
    up_m = ALTITUDE_M + 3.0 * np.sin(np.arange(count))
    return np.column_stack([east_m, north_m, up_m])


def _photograph(layers, centre: NDArray[np.float64], tilt: NDArray[np.float64]):
    """Draw the layers as a camera sees them that looks down, its top to the north."""
    rotation = cv2.Rodrigues(tilt)[0] @ np.diag([1.0, -1.0, -1.0])
    intrinsics = np.array([[FOCAL_PX, 0, WIDTH_PX / 2], [0, FOCAL_PX, HEIGHT_PX / 2], [0, 0, 1]])
    picture = np.zeros((HEIGHT_PX, WIDTH_PX, 3), np.uint8)
    for texture, corner, height_m in layers:
        to_site = np.array(
            [[1 / _PX_PER_M, 0, corner[0]], [0, 1 / _PX_PER_M, corner[1]], [0, 0, 1]]
        )
        plane = np.column_stack([rotation[:, 0], rotation[:, 1],
                                 rotation @ (np.array([0, 0, height_m]) - centre)])  # fmt: skip
        homography = intrinsics @ plane @ to_site
        size = (WIDTH_PX, HEIGHT_PX)
        drawn = cv2.warpPerspective(texture, homography, size, flags=cv2.INTER_AREA)
        covered = cv2.warpPerspective(np.full(texture.shape[:2], 255, np.uint8), homography, size)
        picture[covered > 127] = drawn[covered > 127]
    return picture


def make_photographs(
    folder: Path, *, count: int = 9, seed: int = 0, places: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Write photographs 000.jpg ... with GPS; return where they were taken, ENU f64[count, 3] m.

    Args:
        places: what the GPS says instead, ENU f64[count, 3] m.
    """
    rng = np.random.default_rng(seed)
    layers = _layers(rng)
    centres = camera_positions(count)
    folder.mkdir(parents=True)
    for index, centre in enumerate(centres):
        picture = _photograph(layers, centre, rng.uniform(-0.08, 0.08, 3))
        content = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
        said = (centres if places is None else places)[index]
        place = GeoPoint(*(float(value) for value in ecef_to_geodetic(enu_to_ecef(said, SITE))))
        (folder / f"{index:03d}.jpg").write_bytes(with_gps(content, place))
    return centres
