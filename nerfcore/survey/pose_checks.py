"""Owns finding cameras whose pose cannot be right, and photographs with too few points."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from nerfcore.survey import problems as limits
from nerfcore.survey.footprints import Views, nearest_others
from nerfcore.survey.photo_checks import REMOVE
from nerfcore.survey.problems import Kind, Problem, Severity
from nerfcore.survey.roster import Roster, Tracks

_POSE_MEND = "run the reconstruction again or " + REMOVE
_FLIGHT_MEND = (
    "check that photographs, camera and model belong together, then run the reconstruction again"
)
_FEWEST_CAMERAS = 5  # a smaller flight has no usual distance or height to differ from


def check_poses(roster: Roster, views: Views, tracks: Tracks) -> list[Problem]:
    """Find poses far off, odd heights, views of the sky, and photographs with too few points.

    Args:
        roster, views, tracks: the photographs and what they see.
    """
    found: list[Problem] = []
    for flight in range(len(roster.flight_names)):
        mine = np.flatnonzero(roster.flights == flight)
        if len(mine) == 0:
            continue
        found += _disagreeing(roster, tracks, mine, roster.flight_names[flight])
        found += _odd_heights(roster, views, mine)
        found += _upward(roster, views, mine)
        found += _few_points(roster, tracks, mine)
        if len(mine) >= _FEWEST_CAMERAS:
            found += _far(roster, views, mine)
    return found


def _disagreeing(
    roster: Roster, tracks: Tracks, mine: NDArray[np.int64], flight: str
) -> Iterator[Problem]:
    errors = tracks.errors_px[mine]
    known = errors[~np.isnan(errors)]
    if len(known) == 0:
        return
    usual = float(np.median(known))
    limit = max(limits.ERROR_FLOOR_PX, limits.ERROR_TIMES * usual)
    if usual > limits.ERROR_CEILING_PX:
        yield Problem(
            Kind.POSE_ERROR, Severity.SERIOUS, flight,
            f"reprojection error {usual:.1f} px (median of {len(known)} photographs)",
            f"at most {limits.ERROR_CEILING_PX:.1f} px", _FLIGHT_MEND,
        )  # fmt: skip
    else:
        limit = min(limit, limits.ERROR_CEILING_PX)
    for image in mine[np.nan_to_num(errors, nan=0.0) > limit]:
        error = float(tracks.errors_px[image])
        value = f"reprojection error {error:.1f} px" if np.isfinite(error) else (
            "most of its points lie behind it")  # fmt: skip
        yield Problem(
            Kind.POSE_ERROR, Severity.SERIOUS, roster.names[image], value,
            f"at most {limit:.1f} px (this flight: {usual:.2f} px)", _POSE_MEND, (int(image),),
        )  # fmt: skip


def _far(roster: Roster, views: Views, mine: NDArray[np.int64]) -> Iterator[Problem]:
    places = roster.positions_m[mine]
    nearest = nearest_others(places, 1)[:, 0]
    apart = np.linalg.norm(places - places[nearest], axis=1)
    usual = float(np.median(apart))
    # Where lines cross, cameras come near each other by chance: less than a flight's height apart,
    # photographs still show the same ground.
    limit = max(limits.FAR_TIMES * usual, float(np.median(views.heights_m[mine])), 1.0)
    for image, distance in zip(mine[apart > limit], apart[apart > limit], strict=True):
        yield Problem(
            Kind.POSE_FAR, Severity.SERIOUS, roster.names[image],
            f"{distance:.0f} m to the nearest camera",
            f"at most {limit:.0f} m (this flight: {usual:.0f} m)", _POSE_MEND, (int(image),),
        )  # fmt: skip


def _odd_heights(roster: Roster, views: Views, mine: NDArray[np.int64]) -> Iterator[Problem]:
    heights = views.heights_m[mine]
    usual = float(np.median(heights))
    enough = len(mine) >= _FEWEST_CAMERAS and usual > 0.0
    low, high = (usual / limits.HEIGHT_TIMES, usual * limits.HEIGHT_TIMES) if enough else (0, 1e9)
    for image, height in zip(mine, heights, strict=True):
        if low <= height <= high and height > 0.0:
            continue
        yield Problem(
            Kind.POSE_HEIGHT, Severity.SERIOUS if height <= 0.0 else Severity.WARNING,
            roster.names[image], f"{height:.0f} m above the ground",
            f"{low:.0f} to {high:.0f} m (this flight: {usual:.0f} m)" if enough
            else "above the ground", _POSE_MEND, (int(image),),
        )  # fmt: skip


def _upward(roster: Roster, views: Views, mine: NDArray[np.int64]) -> Iterator[Problem]:
    for image in mine[views.tilts_deg[mine] > limits.UPWARD_DEG]:
        yield Problem(
            Kind.POSE_UPWARD, Severity.WARNING, roster.names[image],
            f"looks {views.tilts_deg[image]:.0f}° away from straight down",
            f"at most {limits.UPWARD_DEG:.0f}°", REMOVE, (int(image),),
        )  # fmt: skip


def _few_points(roster: Roster, tracks: Tracks, mine: NDArray[np.int64]) -> Iterator[Problem]:
    counts = tracks.observations[mine]
    if not (counts > 0).any():
        return
    usual = float(np.median(counts[counts >= 0]))
    limit = max(float(limits.FEWEST_POINTS), limits.POINTS_SHARE * usual)
    for image in mine[(counts >= 0) & (counts < limit)]:
        count = int(tracks.observations[image])
        yield Problem(
            Kind.FEW_POINTS, Severity.SERIOUS if count == 0 else Severity.WARNING,
            roster.names[image], f"{count} points",
            f"at least {limit:.0f} (this flight: {usual:.0f})",
            "check its pose on the map; " + REMOVE + " if it looks wrong", (int(image),),
        )  # fmt: skip
