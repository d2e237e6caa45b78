"""Owns the report of one eval job: curves, before and after, the site from above, the table."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from nerfcore import atomic
from nerfcore.evaluation.change_map import AREAS_FILE, PICTURE_FILE
from nerfcore.evaluation.frame import SPLITS, read_metrics, summarise, summarise_by_tto
from nerfcore.evaluation.report.chart import Axis, Curve, line_chart
from nerfcore.evaluation.report.strips import comparison_strips
from nerfcore.evaluation.report.style import SPLIT_WORDS, page, picture, table, tiles
from nerfcore.evaluation.retention import FULL_SCALE_DB, RETENTION_FILE

REPORT_FILE = "report.html"
AREA_DECIMALS = {"latitude_deg": 6, "longitude_deg": 6}


def write_report(folder: Path, facts: Mapping[str, Any]) -> Path:
    """Write `report.html` of an eval job from what its folder holds.

    Args:
        folder: the job's; holds metrics.csv and the pictures.
        facts: what else to say of the job, by name.

    Raises:
        DataError: the metrics cannot be read.
    """
    frame = read_metrics(folder)
    body = "".join(
        (
            _headline(frame, facts),
            _curves(frame),
            comparison_strips(folder, frame),
            _maps(folder),
            _tables(folder, frame, facts),
        )
    )
    target = folder / REPORT_FILE
    atomic.write_text(target, page(str(facts.get("job", folder.name)), "Evaluation report", body))
    return target


def _headline(frame: pd.DataFrame, facts: Mapping[str, Any]) -> str:
    summary = summarise(frame)
    last = summary[summary["tto"] == summary["tto"].max()]
    entries = [
        (f"{SPLIT_WORDS[row['split']]}, PSNR after {row['tto']} steps",
         f"{row['psnr']:.2f} dB ({row['psnr_gain']:+.2f})")
        for row in last.to_dict("records")
    ]  # fmt: skip
    if "seconds_to_adapted" in facts:
        seconds = facts["seconds_to_adapted"]
        entries.append(
            ("from start to adapted model, scoring before it included", f"{seconds:.0f} s")
        )
    if "adapt_seconds" in facts:
        entries.append(("adaptation alone", f"{facts['adapt_seconds']:.1f} s"))
    if "changed_areas" in facts:
        entries.append(("changed areas", f"{facts['changed_areas']}"))
        entries.append(("changed", f"{facts['changed_m2']:.0f} m²"))
    return tiles(entries)


def split_curves(frame: pd.DataFrame, x: str) -> list[Curve]:
    """Mean PSNR of each split over a column of the summary."""
    summary = summarise(frame)
    curves = []
    for split in SPLITS:
        own = summary[summary["split"] == split]
        if len(own):
            xs = own[x].astype(float).tolist()
            curves.append(Curve(SPLIT_WORDS[split], xs, own["psnr"].tolist()))
    return curves


def _curves(frame: pd.DataFrame) -> str:
    steps = line_chart(
        split_curves(frame, "tto"), Axis("adaptation steps", is_log=True), "PSNR, dB",
        "PSNR over adaptation steps",
    )  # fmt: skip
    seconds = line_chart(
        split_curves(frame, "adapt_seconds"), Axis("seconds of adaptation"), "PSNR, dB",
        "PSNR over seconds of adaptation",
    )  # fmt: skip
    note = (
        "Seconds include looking the new images over and making rays. "
        "Before the first step nothing is adapted, exposure included."
    )
    return (
        f'<h2>Adaptation</h2><div class="beside">{steps}{seconds}</div><p class="note">{note}</p>'
    )


def _maps(folder: Path) -> str:
    change = picture(
        folder / PICTURE_FILE,
        "Where the new images disagree with the model before adaptation: yellow a little, red "
        "much; changed areas are outlined. North is up.",
        lossless=True,
    )
    retention = picture(
        folder / RETENTION_FILE,
        f"Old validation views by ground cell: red {FULL_SCALE_DB:g} dB worse or more, white "
        "unchanged, blue better, grey not seen. North is up.",
        lossless=True,
    )
    if not change and not retention:
        return ""
    return f'<h2>The site from above</h2><div class="beside">{change}{retention}</div>'


def _tables(folder: Path, frame: pd.DataFrame, facts: Mapping[str, Any]) -> str:
    out = f"<h2>By number of steps</h2>{table(summarise_by_tto(frame))}"
    areas = folder / AREAS_FILE
    if areas.is_file():
        listed = pd.read_csv(areas)
        if len(listed):
            out += f"<h2>Changed areas</h2>{table(listed.head(20), 1, AREA_DECIMALS)}"
    columns = ["tto", "split", "image", "psnr", "ssim", "lpips", "psnr_linear", "render_seconds"]
    out += f"<h2>Every image</h2>{table(frame[columns], 3)}"
    if frame["lpips"].isna().any():
        out += f'<p class="note">LPIPS: {escape(str(frame["lpips_note"].iloc[0]))}</p>'
    named = pd.DataFrame([(k.replace("_", " "), _said(v)) for k, v in facts.items()])
    named.columns = ["of this job", ""]
    return out + f"<h2>About</h2>{table(named)}"


def _said(value: Any) -> str:
    """A fact in words: numbers short, lists and objects without brackets."""
    if isinstance(value, Mapping):
        return ", ".join(f"{str(k).replace('_', ' ')} {_said(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_said(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
