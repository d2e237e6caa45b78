"""Owns placing a COLMAP model in the world: ECEF -> ENU, origin, scale, altitude range.

Everything here is float64 metres; the scale is applied last, by `nerfcore.geometry.frames`.
"""

from dataclasses import dataclass
from typing import Final, Literal, assert_never

import numpy as np
from numpy.typing import NDArray

from nerfcore.data.colmap import ColmapModel
from nerfcore.data.records import SceneFrame
from nerfcore.errors import DataError
from nerfcore.geometry.frames import ENU_TO_DRB, camera_centres
from nerfcore.geometry.geodesy import (
    GeoPoint,
    ecef_to_enu,
    ecef_to_enu_rotation,
    ecef_to_geodetic,
    geodetic_to_ecef,
    looks_like_ecef,
)

Float64 = NDArray[np.float64]
ScaleStrategy = Literal["camera_max", "camera_p99", "bbox_diag"]
EnuReference = Literal["first", "mean", "median", "custom"]
MIN_EXTENT_M: Final = 1e-3
MIN_PARALLAX: Final = 1 / 300  # cameras' spread over their distance to the points
MOST_REFERENCE_KM: Final = 100.0


@dataclass(frozen=True, eq=False)
class EnuScene:
    """A COLMAP model in ENU metres.

    Attributes:
        rotations: f64[N, 3, 3], camera (RDF) to ENU.
        centres_m: f64[N, 3].
        points_m: f64[P, 3].
        reference: where ENU is zero, None for a model in local coordinates.
    """

    rotations: Float64
    centres_m: Float64
    points_m: Float64
    reference: GeoPoint | None


def check_coordinates(model: ColmapModel, *, ecef_to_enu: bool) -> None:
    """Check that the model's coordinates are what the user says they are.

    Raises:
        DataError: --ecef_to_enu on local coordinates, or ECEF magnitudes without it.
    """
    centres = camera_centres(model.cam_from_world)
    radius_km = float(np.median(np.linalg.norm(centres, axis=1))) / 1000.0
    is_ecef = looks_like_ecef(centres)
    if ecef_to_enu and not is_ecef:
        raise DataError(
            f"{model.folder}: --ecef_to_enu given, but the cameras are {radius_km:.3f} km from the "
            "coordinates' origin and ECEF needs about 6371 km; leave --ecef_to_enu out"
        )
    if is_ecef and not ecef_to_enu:
        raise DataError(
            f"{model.folder}: the cameras are {radius_km:.0f} km from the coordinates' origin, so "
            "the model is in ECEF; add --ecef_to_enu"
        )


def check_spread(model: ColmapModel) -> None:
    """Check that the cameras are apart enough to see depth; a model without points passes.

    Raises:
        DataError: they are all in one place, seen from the points.
    """
    centres, points = camera_centres(model.cam_from_world), model.points.xyz_m
    if not len(points):
        return
    spread = float(np.linalg.norm(centres - centres.mean(axis=0), axis=1).max())
    away = float(np.median(np.linalg.norm(points - centres.mean(axis=0), axis=1)))
    if spread < MIN_PARALLAX * away:
        raise DataError(
            f"{model.folder}: all {len(centres)} cameras are in one place (within {spread:.3g} m "
            f"of each other, {away:.3g} m from the points; seeing depth needs at least "
            f"{MIN_PARALLAX * away:.3g} m); use a flight that moves"
        )


def choose_reference(
    model: ColmapModel, mode: EnuReference, custom: GeoPoint | None = None
) -> GeoPoint:
    """Choose where ENU is zero, from cameras in ECEF.

    Args:
        model: a model in ECEF.
        mode: the first camera by name, the mean or median of all, or the custom point.
        custom: the point for mode "custom".
    """
    centres = camera_centres(model.cam_from_world)
    match mode:
        case "custom":
            if custom is None:
                raise DataError(
                    "enu_ref: custom needs --enu_ref_lat, --enu_ref_lon and --enu_ref_alt"
                )
            away_km = float(np.linalg.norm(geodetic_to_ecef(custom) - centres[0])) / 1000.0
            if not away_km <= MOST_REFERENCE_KM:
                raise DataError(
                    f"enu_ref_lat, enu_ref_lon, enu_ref_alt: {custom.lat_deg:g}, "
                    f"{custom.lon_deg:g}, {custom.alt_m:g} is {away_km:.0f} km from the cameras "
                    f"(at most {MOST_REFERENCE_KM:g} km); name a point at the site"
                )
            return custom
        case "first":
            lat, lon, alt = ecef_to_geodetic(centres[0])
        # Averaged in ECEF, so that the 180th meridian is no special case; the height is averaged
        # by itself, since the mean of points on a sphere lies below it.
        case "mean":
            lat, lon, _ = ecef_to_geodetic(centres.mean(axis=0))
            alt = ecef_to_geodetic(centres)[2].mean()
        case "median":
            lat, lon, _ = ecef_to_geodetic(np.median(centres, axis=0))
            alt = np.median(ecef_to_geodetic(centres)[2])
        case _:
            assert_never(mode)
    return GeoPoint(float(lat), float(lon), float(alt))


def to_enu(model: ColmapModel, reference: GeoPoint | None) -> EnuScene:
    """Express a model in ENU metres; a model in local coordinates (None) is taken to be ENU."""
    rotations = np.swapaxes(model.cam_from_world[:, :, :3], 1, 2)
    centres = camera_centres(model.cam_from_world)
    if reference is None:
        return EnuScene(rotations, centres, model.points.xyz_m, None)
    return EnuScene(
        ecef_to_enu_rotation(reference) @ rotations,
        ecef_to_enu(centres, reference),
        ecef_to_enu(model.points.xyz_m, reference),
        reference,
    )


def near_ground(
    points_m: Float64, low_quantile: float, maximum_height_m: float
) -> NDArray[np.bool_]:
    """Tell which points lie no further than `maximum_height_m` above or below the ground.

    Args:
        points_m: f64[P, 3], ENU.
        low_quantile: the share of points below the ground level, 0..1.
        maximum_height_m: > 0.
    """
    if len(points_m) == 0:
        return np.zeros(0, np.bool_)
    ground = np.quantile(points_m[:, 2], low_quantile)
    return np.abs(points_m[:, 2] - ground) <= maximum_height_m


def fit_frame(
    scene: EnuScene, strategy: ScaleStrategy, low_quantile: float, maximum_height_m: float
) -> SceneFrame:
    """Choose origin, scale and altitude range.

    The origin is the middle of the camera bounding box. The altitude range runs from the low
    quantile of the points' Up (without points: `maximum_height_m` below the highest camera) to the
    highest camera.

    Args:
        scene: cameras and points (outliers removed) in ENU.
        strategy: one unit is the largest camera distance from the origin (camera_max), its 99th
            percentile (camera_p99), or half the diagonal of the camera box (bbox_diag).
        low_quantile: 0..1.
        maximum_height_m: > 0.

    Raises:
        DataError: all cameras are in one place.
    """
    centres_drb = scene.centres_m @ ENU_TO_DRB.T
    low, high = centres_drb.min(axis=0), centres_drb.max(axis=0)
    origin = (low + high) / 2.0
    distances = np.linalg.norm(centres_drb - origin, axis=1)
    match strategy:
        case "camera_max":
            scale_m = float(distances.max())
        case "camera_p99":
            scale_m = float(np.percentile(distances, 99))
        case "bbox_diag":
            scale_m = float(np.linalg.norm(high - low) / 2.0)
        case _:
            assert_never(strategy)
    if scale_m < MIN_EXTENT_M:
        raise DataError(
            f"all {len(centres_drb)} cameras are in one place (extent {scale_m:g} m, at least "
            f"{MIN_EXTENT_M:g} m is needed); use a flight that moves"
        )
    top = float(scene.centres_m[:, 2].max())
    bottom = top - maximum_height_m
    if len(scene.points_m):
        bottom = float(np.quantile(scene.points_m[:, 2], low_quantile))
    return SceneFrame(scale_m, origin, scene.reference, (min(bottom, top), top))
