"""Owns what each photograph sees of the ground: footprint, ground sampling distance, overlap.

Frame: ENU metres. A footprint is the quadrilateral where the photograph's corner rays meet the
ground; rays that would meet it beyond `REACH` heights away, or never, are cut off there. Occlusion
by buildings is ignored.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from nerfcore.survey.roster import Roster
from nerfcore.survey.terrain import Terrain

Float64 = NDArray[np.float64]
REACH: Final = 2.5  # farthest ground distance counted as seen, in heights above the ground
_ROUNDS: Final = 3  # of intersecting with level ground at the height found before
_NEIGHBOURS: Final = 12


@dataclass(frozen=True, eq=False)
class Views:
    """How the photographs look at the ground.

    Attributes:
        heights_m: f64[N], camera above the ground below it.
        tilts_deg: f64[N], optical axis away from straight down, 0..180.
        corners_m: f64[N, 4, 2], footprint (East, North) in image order: top left, top right, bottom
            right, bottom left; NaN for a camera below the ground.
        centres_m: f64[N, 2], where the optical axis meets the ground (cut off like the corners).
        gsd_cm: f64[N], ground covered by one pixel at the centre, cm.
        overlaps: f64[N], share 0..1 of the footprint that the photograph of the same flight
            sharing most of it sees too; NaN without a footprint or another photograph.
    """

    heights_m: Float64
    tilts_deg: Float64
    corners_m: Float64
    centres_m: Float64
    gsd_cm: Float64
    overlaps: Float64


def look_down(roster: Roster, terrain: Terrain) -> Views:
    """Work out footprints and what follows from them.

    Args:
        roster: the photographs.
        terrain: the ground they look at.
    """
    positions = roster.positions_m
    heights = positions[:, 2] - terrain.ground_at(positions[:, :2])
    axes = -roster.rotations[:, :, 2]
    tilts = np.degrees(np.arccos(np.clip(-axes[:, 2], -1.0, 1.0)))
    rays = np.concatenate([_corner_rays(roster), axes[:, None]], axis=1)
    hits = _ground_hits(positions, rays, heights, terrain)
    ranges = np.linalg.norm(hits[:, 4] - positions, axis=1)
    gsd_cm = 100.0 * ranges / roster.images.intrinsics[:, 0].astype(np.float64)
    corners = hits[:, :4, :2]
    overlaps = np.full(len(roster), np.nan)
    for flight in range(len(roster.flight_names)):
        mine = np.flatnonzero((roster.flights == flight) & (heights > 0.0))
        overlaps[mine] = _best_overlaps(corners[mine])
    return Views(heights, tilts, corners, hits[:, 4, :2], gsd_cm, overlaps)


def _corner_rays(roster: Roster) -> Float64:
    """Return unit directions of the corners, f64[N, 4, 3], ENU."""
    images = roster.images
    fx, fy, cx, cy = images.intrinsics.astype(np.float64).T
    width, height = images.widths_px.astype(np.float64), images.heights_px.astype(np.float64)
    zero = np.zeros_like(width)
    u = np.stack([zero, width, width, zero], axis=1)
    v = np.stack([zero, zero, height, height], axis=1)
    local = np.stack(
        [(u - cx[:, None]) / fx[:, None], -(v - cy[:, None]) / fy[:, None], -np.ones_like(u)],
        axis=-1,
    )
    rays = np.einsum("nij,nkj->nki", roster.rotations, local)
    return rays / np.linalg.norm(rays, axis=-1, keepdims=True)


def _ground_hits(positions: Float64, rays: Float64, heights: Float64, terrain: Terrain) -> Float64:
    """Return where rays f64[N, R, 3] meet the ground, f64[N, R, 3]; NaN from below the ground."""
    level = np.hypot(rays[..., 0], rays[..., 1])
    steepness = np.maximum(-rays[..., 2], level / REACH)
    slopes = level / np.maximum(steepness, 1e-9)
    headings = rays[..., :2] / np.maximum(level, 1e-9)[..., None]
    drops = np.broadcast_to(heights[:, None], slopes.shape).copy()
    drops[heights <= 0.0] = np.nan
    reach = REACH * drops
    places = np.empty((*slopes.shape, 2))
    for _ in range(_ROUNDS):
        away = np.minimum(slopes * np.maximum(drops, 0.0), reach)
        places = positions[:, None, :2] + headings * away[..., None]
        drops = positions[:, None, 2] - terrain.ground_at(np.nan_to_num(places))
    ups = terrain.ground_at(np.nan_to_num(places))
    return np.concatenate([places, ups[..., None]], axis=-1)


def _best_overlaps(corners_m: Float64) -> Float64:
    """Return each footprint's largest shared share among its nearest neighbours, f64[n]."""
    best = np.full(len(corners_m), np.nan)
    if len(corners_m) < 2:
        return best
    middles = corners_m.mean(axis=1)
    hulls = [cv2.convexHull((one - middles[0]).astype(np.float32)) for one in corners_m]
    areas = [float(cv2.contourArea(hull)) for hull in hulls]
    nearest = nearest_others(middles, _NEIGHBOURS)
    for image, others in enumerate(nearest):
        shared = [cv2.intersectConvexConvex(hulls[image], hulls[other])[0] for other in others]
        best[image] = min(1.0, max(shared) / max(areas[image], 1e-9))
    return best


def nearest_others(places: Float64, count: int) -> NDArray[np.int64]:
    """Return the indices of the nearest other places, nearest first.

    Args:
        places: f64[n, D], n >= 2.
        count: how many; fewer places give n - 1.

    Returns:
        i64[n, min(count, n - 1)].
    """
    count = min(count, len(places) - 1)
    found = np.empty((len(places), count), np.int64)
    for row, place in enumerate(places):
        squared = ((places - place) ** 2).sum(axis=1)
        squared[row] = np.inf
        some = np.argpartition(squared, count - 1)[:count]
        found[row] = some[np.argsort(squared[some], kind="stable")]
    return found
