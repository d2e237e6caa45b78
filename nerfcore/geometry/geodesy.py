"""Owns the Earth: ECEF, geodetic (WGS84) and local ENU coordinates, all float64.

Latitudes and longitudes in degrees, heights above the ellipsoid in metres. ECEF magnitudes are
6.4e6 m, so nothing here may pass through float32.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pymap3d
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]
# Distances from the Earth's centre of anything from the Dead Sea at the pole to 30 km of height.
ECEF_RADII_M: Final = (6.35e6, 6.41e6)


@dataclass(frozen=True)
class GeoPoint:
    """A point on the Earth: WGS84 latitude and longitude (deg), ellipsoidal height (m)."""

    lat_deg: float
    lon_deg: float
    alt_m: float


def looks_like_ecef(points_m: ArrayLike) -> bool:
    """Tell whether points [N, 3] lie at the Earth's surface when read as ECEF metres."""
    radius = float(np.median(np.linalg.norm(np.asarray(points_m, np.float64), axis=-1)))
    return ECEF_RADII_M[0] < radius < ECEF_RADII_M[1]


def ecef_to_geodetic(points_ecef_m: ArrayLike) -> tuple[Float64, Float64, Float64]:
    """Return latitude (deg), longitude (deg), height (m) of ECEF points [..., 3]."""
    x, y, z = np.moveaxis(np.asarray(points_ecef_m, np.float64), -1, 0)
    lat, lon, alt = pymap3d.ecef2geodetic(x, y, z)
    return np.asarray(lat, np.float64), np.asarray(lon, np.float64), np.asarray(alt, np.float64)


def geodetic_to_ecef(point: GeoPoint) -> Float64:
    """Return the point's ECEF coordinates, f64[3] in metres."""
    return np.asarray(pymap3d.geodetic2ecef(point.lat_deg, point.lon_deg, point.alt_m), np.float64)


def ecef_to_enu_rotation(reference: GeoPoint) -> Float64:
    """Return f64[3, 3] that turns ECEF direction vectors into East, North, Up at the reference."""
    lat, lon = np.radians(reference.lat_deg), np.radians(reference.lon_deg)
    sin_lat, cos_lat, sin_lon, cos_lon = np.sin(lat), np.cos(lat), np.sin(lon), np.cos(lon)
    return np.array(
        [
            [-sin_lon, cos_lon, 0.0],
            [-sin_lat * cos_lon, -sin_lat * sin_lon, cos_lat],
            [cos_lat * cos_lon, cos_lat * sin_lon, sin_lat],
        ]
    )


def ecef_to_enu(points_ecef_m: ArrayLike, reference: GeoPoint) -> Float64:
    """Return ECEF points [..., 3] as East, North, Up metres around the reference, f64[..., 3]."""
    offsets = np.asarray(points_ecef_m, np.float64) - geodetic_to_ecef(reference)
    return offsets @ ecef_to_enu_rotation(reference).T


def enu_to_ecef(points_enu_m: ArrayLike, reference: GeoPoint) -> Float64:
    """Return ENU metres [..., 3] around the reference as ECEF metres, f64[..., 3]."""
    offsets = np.asarray(points_enu_m, np.float64) @ ecef_to_enu_rotation(reference)
    return offsets + geodetic_to_ecef(reference)


def enu_to_geodetic(
    points_enu_m: ArrayLike, reference: GeoPoint
) -> tuple[Float64, Float64, Float64]:
    """Return latitude (deg), longitude (deg), height (m) of ENU points [..., 3]."""
    return ecef_to_geodetic(enu_to_ecef(points_enu_m, reference))
