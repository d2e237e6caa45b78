"""Owns the report of one eval job: curves, before and after, the site from above, the table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from nerfcore import atomic
from nerfcore.evaluation.change_map import AREAS_FILE, PICTURE_FILE
from nerfcore.evaluation.frame import SPLITS, read_metrics, summarise, summarise_by_tto
from nerfcore.evaluation.pictures import (
    DEPTH_FOLDER,
    ERROR_FOLDER,
    GT_FOLDER,
    PREDICTION_FOLDER,
    picture_name,
)
from nerfcore.evaluation.report.chart import Axis, Curve, line_chart
from nerfcore.evaluation.report.style import figure, page, picture, table, tiles
from nerfcore.evaluation.retention import FULL_SCALE_DB, RETENTION_FILE

REPORT_FILE = "report.html"
SPLIT_WORDS = {
    "adapted": "images adapted to",
    "new_heldout": "new images held out",
    "old_val": "old validation views",
}
CROPS_A_SPLIT = 2
CROP_WIDTH_PX = 320


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
            _crops(folder, frame),
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


def _crops(folder: Path, frame: pd.DataFrame) -> str:
    """Truth, before and after for the images that changed most."""
    first, last = int(frame["tto"].min()), int(frame["tto"].max())
    out = ""
    for split in ("new_heldout", "old_val", "adapted"):
        own = frame[frame["split"] == split].pivot(index="image", columns="tto", values="psnr")
        if own.empty:
            continue
        order = (own[last] - own[first]).abs().sort_values(ascending=False, kind="stable")
        for image in order.index[:CROPS_A_SPLIT]:
            out += _strip(folder, split, str(image), (first, last), own.loc[image])
    return f"<h2>Truth, prediction, error</h2>{out}" if out else ""


def _strip(
    folder: Path, split: str, image: str, ttos: tuple[int, int], psnr: "pd.Series[float]"
) -> str:
    name = picture_name(split, image)  # pyright: ignore[reportArgumentType]
    parts = [_small(folder / GT_FOLDER / name, "truth")]
    for tto in dict.fromkeys(ttos):
        words = f"after {tto} steps" if tto else "before"
        parts.append(
            _small(folder / PREDICTION_FOLDER / str(tto) / name, f"{words}: {psnr[tto]:.2f} dB")
        )
        parts.append(_small(folder / ERROR_FOLDER / str(tto) / name, f"error {words}"))
    parts.append(_depth(folder / DEPTH_FOLDER / str(ttos[1]) / name))
    title = f"{image} ({SPLIT_WORDS[split]})"
    grid = "".join(part for part in parts if part)
    return f'<p class="note">{_escaped(title)}</p><div class="beside">{grid}</div>'


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _small(path: Path, caption: str) -> str:
    found = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if found is None:
        return ""
    height = max(1, round(found.shape[0] * CROP_WIDTH_PX / found.shape[1]))
    size = (CROP_WIDTH_PX, height)
    small = cv2.resize(found, size, interpolation=cv2.INTER_AREA)
    return figure(np.asarray(small, np.uint8), caption)


def _depth(path: Path) -> str:
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if found is None or not found.any():
        return ""
    depth_m = found.astype(np.float32) / 100.0
    known = depth_m[depth_m > 0]
    low, high = np.quantile(known, (0.02, 0.98))
    levels = np.clip((depth_m - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    coloured = cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)
    coloured[depth_m == 0] = 96
    height = max(1, round(coloured.shape[0] * CROP_WIDTH_PX / coloured.shape[1]))
    small = cv2.resize(coloured, (CROP_WIDTH_PX, height), interpolation=cv2.INTER_AREA)
    return figure(np.asarray(small, np.uint8), f"depth, {low:.0f} m to {high:.0f} m")


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
            out += f"<h2>Changed areas</h2>{table(listed.head(20), 6)}"
    columns = ["tto", "split", "image", "psnr", "ssim", "lpips", "psnr_linear", "render_seconds"]
    out += f"<h2>Every image</h2>{table(frame[columns], 3)}"
    if frame["lpips"].isna().any():
        out += f'<p class="note">LPIPS: {_escaped(str(frame["lpips_note"].iloc[0]))}</p>'
    named = pd.DataFrame([(k.replace("_", " "), str(v)) for k, v in facts.items()])
    named.columns = ["of this job", ""]
    return out + f"<h2>About</h2>{table(named)}"
