"""Owns the HTML report: one file that needs no network, with every figure inside."""

from html import escape
from importlib.resources import files

import numpy as np

from nerfcore.survey.coverage import ENOUGH_CAMERAS
from nerfcore.survey.report import charts
from nerfcore.survey.report.drawing import Figure
from nerfcore.survey.report.palette import COVERAGE_STEPS, height_colours, stylesheet
from nerfcore.survey.report.photo_data import photo_data
from nerfcore.survey.report.problem_list import problem_list
from nerfcore.survey.report.site_map import coverage_map, height_range_m, site_map
from nerfcore.survey.report.svg import to_svg
from nerfcore.survey.report.texts import about, expert_table, tiles
from nerfcore.survey.summary import summary_line, verdict
from nerfcore.survey.survey import Survey

# The page can load nothing from anywhere, whatever an image's name says.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def html_report(survey: Survey, name: str) -> str:
    """Return the whole report as one HTML page.

    Args:
        survey: a surveyed dataset.
        name: what to call the dataset.
    """
    here = files("nerfcore.survey.report")
    css = (here / "page.css").read_text("utf-8")
    js = (here / "page.js").read_text("utf-8")
    severity, words = verdict(survey.problems)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(name)}: dataset report</title>
<link rel="icon" href="data:,">
<style>{stylesheet()}
{css}</style></head>
<body>
<header><div><p class="kicker">Dataset report</p><h1>{escape(name)}</h1></div>
<p class="verdict is-{severity or "good"}">{escape(words[:1].upper() + words[1:])}</p>
<p class="summary">{escape(summary_line(survey.figures))}</p></header>
{tiles(survey)}
<main><div class="beside"><div class="stay">{_map(survey)}</div><div>{problem_list(survey)}
{expert_table(survey)}</div></div>
{_charts(survey)}</main>
{about(survey)}
<div class="tip" id="tip" hidden></div>
<script type="application/json" id="photos">{photo_data(survey)}</script>
<script>{js}</script>
</body></html>
"""


def _map(survey: Survey) -> str:
    later = len(survey.roster.flight_names) > 1
    backdrop = [("photos", "photographs" if not later else "first flight", True)]
    backdrop += [("later", "later flights", False)] if later else []
    backdrop += [("heights", "heights", False)] if len(survey.tracks.points_m) else []
    backdrop += [("plain", "none", False)]
    layers = [("cameras", "cameras"), ("sights", "view directions"), ("footprints", "footprints")]
    layers += [("experts", "experts")] if survey.experts is not None else []
    radios = "".join(
        f'<label><input type="radio" name="backdrop" id="show-{key}"{" checked" * on}>{words}'
        "</label>" for key, words, on in backdrop
    )  # fmt: skip
    boxes = "".join(
        f'<label><input type="checkbox" id="show-{key}"{" checked" * (key != "footprints")}>'
        f"{words}</label>" for key, words in layers
    )  # fmt: skip
    buttons = "".join(
        f'<button type="button" data-by="{by}" aria-label="{words}" title="{words}">{sign}</button>'
        for by, words, sign in (
            (0.6, "enlarge", "+"),
            (1.667, "reduce", "&minus;"),
            (99, "whole", "⤢"),
        )
    )
    return (
        '<section class="map"><h2>The site from above</h2><div class="tools">'
        f'<div role="radiogroup" aria-label="Backdrop"><span>Backdrop</span>{radios}</div>'
        f'<div role="group" aria-label="Show"><span>Show</span>{boxes}</div></div>'
        f'<div class="stage"><div class="frame">{to_svg(site_map(survey), "site")}'
        f'<div class="zoom">{buttons}</div></div>'
        '<div class="card" id="card" aria-live="polite"></div></div>'
        f"{_map_key(survey)}</section>"
    )


def _map_key(survey: Survey) -> str:
    entries = [
        '<li><i class="dot" style="background:var(--first)"></i>camera of the first flight; the '
        "arrow points to the photograph's upper side</li>"
    ]
    if len(survey.roster.flight_names) > 1:
        entries.append(
            '<li><i class="dot" style="background:var(--later)"></i>camera of a later flight</li>'
        )
    entries += [
        '<li><i class="dot" style="border:2px solid var(--first);background:#fff"></i>not trained '
        "on</li>",
        '<li><i class="dot" style="border:2px solid var(--serious)"></i>has a problem</li>',
        '<li><i class="line" style="background:var(--first)"></i>to where it looks</li>',
    ]
    span = height_range_m(survey)
    if span is not None:
        stops = ",".join(
            f"rgb({r},{g},{b})" for r, g, b in height_colours(np.linspace(0, 1, 9)).tolist()
        )
        entries.append(
            f'<li class="ramp">{span[0]:.0f} m <i class="gradient" style="background:'
            f'linear-gradient(90deg,{stops})"></i> {span[1]:.0f} m, sparse points above the '
            "ground</li>"
        )
    return f'<ul class="key">{"".join(entries)}</ul>'


def _charts(survey: Survey) -> str:
    parts = [
        _chart(
            "Coverage" if flight == 0 else f"Coverage of {name}",
            f"Cameras that see each piece of ground: {coverage.area_ha(1):.1f} ha by any, "
            f"{coverage.area_ha(ENOUGH_CAMERAS):.1f} ha by {ENOUGH_CAMERAS} or more.",
            coverage_map(survey, coverage), f"coverage-{flight}", _coverage_key(),
        )
        for flight, (name, coverage) in enumerate(
            zip(survey.roster.flight_names, survey.coverages, strict=True)
        )
    ]  # fmt: skip
    known = len(survey.tracks.points_m) > 0
    ground = f"Cameras; the ground is {'that of the sparse points' if known else 'guessed'}."
    parts += [
        _chart("Height above the ground", ground,
               charts.height_chart(survey), "heights"),
        _chart("Exposure", "Mean brightness; the line leaves out the darkest and brightest 5%.",
               charts.strip_chart(survey, charts.exposure_strip(survey)), "exposure"),
        _chart("Sharpness", "How little a photograph changes when blurred again.",
               charts.strip_chart(survey, charts.blur_strip(survey)), "blur"),
    ]  # fmt: skip
    if known:
        parts.append(_chart(
            "Sparse points seen", "Matches that each pose rests on.",
            charts.strip_chart(survey, charts.points_strip(survey)), "points",
        ))  # fmt: skip
    return f'<div class="charts">{"".join(parts)}</div>'


def _chart(title: str, words: str, figure: Figure, name: str, key: str = "") -> str:
    return (
        f'<section class="chart"><h2>{escape(title)}</h2><p class="lead">{escape(words)}</p>'
        f"{to_svg(figure, name)}{key}</section>"
    )


def _coverage_key() -> str:
    entries = "".join(
        f'<li><i style="background:{colour}"></i>{words}</li>'
        for _, words, colour in COVERAGE_STEPS
    )
    return f'<ul class="key"><li>Cameras:</li>{entries}</ul>'
