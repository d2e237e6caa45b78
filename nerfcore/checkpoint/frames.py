"""Owns how two scenes' frames differ, in words: reference point, scale, origin."""

import numpy as np

from nerfcore.data.records import SceneFrame
from nerfcore.geometry.geodesy import GeoPoint, geodetic_to_ecef

SAME_M = 1e-3
SAME_SCALE = 1e-6


def frame_differences(stored: SceneFrame, wanted: SceneFrame) -> list[str]:
    """Say what tells a checkpoint's frame from a dataset's, one text each; empty if nothing does.

    Distances are in metres. References count as equal within a millimetre, as do origins; scales
    within a millionth.
    """
    found = []
    if not _same_reference(stored.enu_ref, wanted.enu_ref):
        found.append(
            f"reference {_words(stored.enu_ref)} instead of {_words(wanted.enu_ref)}"
            f"{_apart(stored.enu_ref, wanted.enu_ref)}"
        )
    scales = stored.pose_scale_factor_m, wanted.pose_scale_factor_m
    if not np.isclose(*scales, rtol=SAME_SCALE, atol=0.0):
        found.append(f"scale {scales[0]:.6g} m instead of {scales[1]:.6g} m a unit")
    distance_m = float(np.linalg.norm(stored.origin_drb_m - wanted.origin_drb_m))
    if not distance_m <= SAME_M:
        origins = [frame.origin_drb_m.round(3).tolist() for frame in (stored, wanted)]
        found.append(
            f"origin (down, right, back) {origins[0]} instead of {origins[1]} m, "
            f"{distance_m:.3f} m apart"
        )
    return found


def _distance_m(one: GeoPoint, other: GeoPoint) -> float:
    return float(np.linalg.norm(geodetic_to_ecef(one) - geodetic_to_ecef(other)))


def _same_reference(one: GeoPoint | None, other: GeoPoint | None) -> bool:
    if one is None or other is None:
        return one is other
    return _distance_m(one, other) <= SAME_M


def _apart(one: GeoPoint | None, other: GeoPoint | None) -> str:
    if one is None or other is None:
        return ""
    return f", {_distance_m(one, other):.3f} m apart"


def _words(point: GeoPoint | None) -> str:
    if point is None:
        return "none"
    return f"{point.lat_deg:.8f} {point.lon_deg:.8f} {point.alt_m:.3f} m"
