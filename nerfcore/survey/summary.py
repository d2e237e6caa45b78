"""Owns the report's first lines: key figures, the verdict, and problems of the whole dataset."""

from dataclasses import dataclass

import numpy as np

from nerfcore.data.records import SceneFrame
from nerfcore.geometry.geodesy import GeoPoint
from nerfcore.survey import problems as limits
from nerfcore.survey.coverage import ENOUGH_CAMERAS, Coverage, Extent
from nerfcore.survey.footprints import Views
from nerfcore.survey.problems import Kind, Problem, Severity
from nerfcore.survey.roster import Roster, Tracks

_WHOLE = "the dataset"


@dataclass(frozen=True)
class KeyFigures:
    """The first flight in a few numbers, and the place.

    Attributes:
        photographs: per split, in order: name and number.
        area_ha: ground seen by at least three photographs.
        gsd_cm: median ground covered by one stored pixel, cm.
        overlap: median share of a footprint that another photograph sees too, 0..1, or None for a
            single photograph.
        cameras_a_cell: photographs that see the median piece of ground.
        height_m: median height above the ground.
        points: sparse points of all flights.
        error_px: median reprojection error of the photographs, None without points.
        place: the middle of the site on the Earth, None without a geodetic reference.
    """

    photographs: tuple[tuple[str, int], ...]
    area_ha: float
    gsd_cm: float
    overlap: float | None
    cameras_a_cell: float
    height_m: float
    points: int
    error_px: float | None
    place: GeoPoint | None


def key_figures(
    roster: Roster,
    views: Views,
    tracks: Tracks,
    coverage: Coverage,
    frame: SceneFrame,
    ground_up_m: float,
) -> KeyFigures:
    """Work out the key figures.

    Args:
        roster, views, tracks: the photographs and what they see.
        coverage: of the first flight.
        frame: how the world lies on the Earth.
        ground_up_m: Up of the ground in the middle of the site.
    """
    first = roster.flights == 0
    splits = tuple((name, roster.splits.count(name)) for name in dict.fromkeys(roster.splits))
    overlaps = views.overlaps[first]
    errors = tracks.errors_px[first & np.isfinite(tracks.errors_px)]
    return KeyFigures(
        splits,
        coverage.area_ha(ENOUGH_CAMERAS),
        float(np.nanmedian(views.gsd_cm[first])) if np.isfinite(views.gsd_cm[first]).any() else 0.0,
        float(np.nanmedian(overlaps)) if np.isfinite(overlaps).any() else None,
        coverage.median_count(),
        float(np.median(views.heights_m[first])),
        len(tracks.points_m),
        float(np.median(errors)) if len(errors) else None,
        _place(coverage.extent, frame, ground_up_m),
    )


def _place(extent: Extent, frame: SceneFrame, ground_up_m: float) -> GeoPoint | None:
    if frame.enu_ref is None:
        return None
    middle = [
        (extent.west_m + extent.east_m) / 2.0,
        (extent.south_m + extent.north_m) / 2.0,
        ground_up_m,
    ]
    lat, lon, alt = frame.world_to_geo(frame.enu_m_to_world(middle))
    return GeoPoint(float(lat), float(lon), float(alt))


def check_whole(figures: KeyFigures) -> list[Problem]:
    """Find what is wrong with the dataset as a whole."""
    count, _ = counted_flights(figures)
    found = []
    if count < limits.LEAST_PHOTOGRAPHS:
        found.append(_whole(
            Kind.FEW_PHOTOGRAPHS, Severity.WARNING, f"{count} photographs",
            f"at least {limits.LEAST_PHOTOGRAPHS}", "fly again and take more",
        ))  # fmt: skip
    overlap = figures.overlap
    if overlap is not None and overlap < limits.LEAST_OVERLAP:
        found.append(_whole(
            Kind.LOW_OVERLAP, Severity.WARNING, f"{overlap:.0%} (median)",
            f"at least {limits.LEAST_OVERLAP:.0%}", "fly denser lines, or release more often",
        ))  # fmt: skip
    elif figures.cameras_a_cell < limits.LEAST_CAMERAS:
        found.append(_whole(
            Kind.LOW_OVERLAP, Severity.WARNING,
            f"{figures.cameras_a_cell:.0f} photographs of the median piece of ground",
            f"at least {limits.LEAST_CAMERAS:.0f}", "fly denser lines, or release more often",
        ))  # fmt: skip
    if figures.points == 0:
        found.append(_whole(
            Kind.NO_POINTS, Severity.WARNING, "0 points", "at least 1",
            "run scripts/triangulate_points.py, which finds them in the photographs",
        ))  # fmt: skip
    if figures.place is None:
        found.append(_whole(
            Kind.NO_PLACE, Severity.NOTE, "local coordinates", "ECEF, for results on a map",
            "align the model to GPS (COLMAP's model_aligner) and prepare with --ecef_to_enu",
        ))  # fmt: skip
    return found


def _whole(kind: Kind, severity: Severity, value: str, limit: str, mend: str) -> Problem:
    return Problem(kind, severity, _WHOLE, value, limit, mend)


def counted_flights(figures: KeyFigures) -> tuple[int, int]:
    """Return the numbers of photographs of the first flight and of all later ones."""
    total = sum(number for _, number in figures.photographs)
    splits = dict(figures.photographs)
    first = splits.get("train", 0) + splits.get("validation", 0)
    return first, total - first


def summary_line(figures: KeyFigures) -> str:
    """Return the flight in one line: photographs, area, pixel size, overlap."""
    first, later = counted_flights(figures)
    parts = [
        f"{first:,} + {later:,} photographs" if later else f"{first:,} photographs",
        f"{figures.area_ha:.1f} ha",
        f"{figures.gsd_cm:.1f} cm/px",
    ]
    if figures.overlap is not None:
        parts.append(f"{figures.overlap:.0%} overlap")
    return " · ".join(parts)


def verdict(problems: tuple[Problem, ...]) -> tuple[Severity | None, str]:
    """Judge the dataset: how grave its worst problem is (None: none but notes), and in words."""
    serious = sum(one.severity is Severity.SERIOUS for one in problems)
    warnings = sum(one.severity is Severity.WARNING for one in problems)
    if serious:
        return Severity.SERIOUS, f"{_counted(serious, 'serious problem')} to mend before training"
    if warnings:
        return Severity.WARNING, f"usable, {_counted(warnings, 'warning')} worth a look"
    if any(one.kind is Kind.NO_EXPERTS for one in problems):
        return None, "ready for training once divided into experts"
    return None, "ready for training"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
