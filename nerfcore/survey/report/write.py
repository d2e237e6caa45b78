"""Owns putting a report on disk: report.html, PNGs for a mail, and survey.json for scripts.

A new folder appears whole or not at all. In an older report's folder every file is replaced
atomically, report.html (which needs no other file) last; files of the user's are left alone.
"""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from nerfcore import atomic
from nerfcore.errors import DataError
from nerfcore.survey.report import charts
from nerfcore.survey.report.page import html_report
from nerfcore.survey.report.palette import COVERAGE_STEPS, height_colours, rgb_of
from nerfcore.survey.report.raster import LegendEntry, to_png
from nerfcore.survey.report.site_map import coverage_map, height_range_m, site_map
from nerfcore.survey.summary import summary_line, verdict
from nerfcore.survey.survey import Survey

REPORT_FILE: Final = "report.html"
SURVEY_FILE: Final = "survey.json"
FORMAT_VERSION: Final = 1


def check_output(output: Path) -> None:
    """Refuse a place that holds something other than a report.

    Raises:
        DataError: a file, or a folder with files but without a report.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise DataError(f"output: {output} is a file; name a folder")
    if any(output.iterdir()) and not (output / SURVEY_FILE).is_file():
        raise DataError(
            f"output: {output} holds files but no {SURVEY_FILE}, so it is no report to replace; "
            "choose another folder"
        )


def write_report(survey: Survey, output: Path, name: str) -> Path:
    """Write a report and return the path of its page.

    Args:
        survey: a surveyed dataset.
        output: the report's folder.
        name: what to call the dataset.

    Raises:
        DataError: the folder holds something else.
        OSError: the disk is full or not writable.
    """
    check_output(output)
    content = report_files(survey, name)
    if output.exists():
        for file, data in content.items():
            atomic.write_bytes(output / file, data)
    else:
        with atomic.new_folder(output) as folder:
            for file, data in content.items():
                (folder / file).write_bytes(data)
    return output / REPORT_FILE


def report_files(survey: Survey, name: str) -> dict[str, bytes]:
    """Return the report's files and their contents, report.html last."""
    return {
        **_map_pictures(survey, name),
        **_chart_pictures(survey, name),
        SURVEY_FILE: (json.dumps(as_json(survey), indent=1, ensure_ascii=False) + "\n").encode(),
        REPORT_FILE: html_report(survey, name).encode(),
    }


def _map_pictures(survey: Survey, name: str) -> dict[str, bytes]:
    details = summary_line(survey.figures)
    later = len(survey.roster.flight_names) > 1
    cameras: list[LegendEntry] = [
        ("cameras of the first flight (hollow: not trained on)", rgb_of("first"))
    ]
    cameras += [("cameras of later flights", rgb_of("later"))] if later else []
    shown: list[tuple[str, str, tuple[str, ...], list[LegendEntry]]] = [
        ("site", f"{name}: the site from above", ("photos", "experts", "cameras"), cameras)
    ]
    if later:
        layers = ("later", "cameras")
        shown.append(("later", f"{name}: later flights from above", layers, cameras))
    span = height_range_m(survey)
    if span is not None:
        steps = [0.0, 0.25, 0.5, 0.75, 1.0]
        ramp = [
            (
                f"{span[0] + share * (span[1] - span[0]):.0f} m",
                (int(colour[0]), int(colour[1]), int(colour[2])),
            )
            for share, colour in zip(steps, height_colours(np.array(steps)), strict=True)
        ]
        heading = f"{name}: sparse points, metres above the ground"
        shown.append(("heights", heading, ("heights", "cameras"), ramp + cameras))
    shown.append(("footprints", f"{name}: footprints", ("footprints", "cameras"), cameras))
    pictures = {
        f"{file}.png": to_png(site_map(survey, layers), heading, details, legend)
        for file, heading, layers, legend in shown
    }
    steps_legend = [(words, _rgb(code)) for _, words, code in COVERAGE_STEPS]
    for flight, coverage in zip(survey.roster.flight_names, survey.coverages, strict=True):
        file = "coverage.png" if flight == survey.roster.flight_names[0] else (
            f"coverage_{flight}.png")  # fmt: skip
        pictures[file] = to_png(
            coverage_map(survey, coverage), f"{name}: cameras that see each piece of ground",
            f"{flight}: {coverage.area_ha(1):.1f} ha seen, {coverage.area_ha(3):.1f} ha by three "
            "cameras or more", steps_legend,
        )  # fmt: skip
    return pictures


def _chart_pictures(survey: Survey, name: str) -> dict[str, bytes]:
    shown = {
        "altitudes.png": ("heights above the ground", charts.height_chart(survey)),
        "exposure.png": (
            "exposure", charts.strip_chart(survey, charts.exposure_strip(survey))
        ),
        "sharpness.png": ("blur", charts.strip_chart(survey, charts.blur_strip(survey))),
    }  # fmt: skip
    details = summary_line(survey.figures)
    return {
        file: to_png(figure, f"{name}: {words}", details) for file, (words, figure) in shown.items()
    }


def _rgb(code: str) -> tuple[int, int, int]:
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)


def as_json(survey: Survey) -> dict[str, Any]:
    """Return the survey's figures and problems for scripts."""
    severity, words = verdict(survey.problems)
    figures, place = survey.figures, survey.figures.place
    return {
        "format_version": FORMAT_VERSION,
        "dataset": str(survey.dataset.root.resolve()),
        "partition": None if survey.experts is None else survey.experts.partition.name,
        "verdict": str(severity or "good"),
        "verdict_words": words,
        "photographs": dict(figures.photographs),
        "area_ha": round(figures.area_ha, 3),
        "gsd_cm": round(figures.gsd_cm, 3),
        "overlap": None if figures.overlap is None else round(figures.overlap, 4),
        "cameras_a_cell": figures.cameras_a_cell,
        "height_m": round(figures.height_m, 2),
        "points": figures.points,
        "reprojection_px": None if figures.error_px is None else round(figures.error_px, 4),
        "place": None
        if place is None
        else {"lat_deg": place.lat_deg, "lon_deg": place.lon_deg, "alt_m": place.alt_m},
        "problems": [
            {
                "kind": str(one.kind),
                "severity": str(one.severity),
                "subject": one.subject,
                "value": one.value,
                "limit": one.limit,
                "mend": one.mend,
                "photographs": [survey.roster.names[i] for i in one.images],
            }
            for one in survey.problems
        ],
    }
