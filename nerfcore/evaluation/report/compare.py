"""Owns the report that compares several eval jobs: curves by starting point, seeds as bands.

Jobs of one label (their checkpoint's training algorithm, unless told otherwise) are seeds of one
starting point: their curve is the mean over jobs, its band the lowest and highest.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from nerfcore.errors import DataError
from nerfcore.evaluation.frame import SPLITS, summarise
from nerfcore.evaluation.report.chart import Axis, Curve, line_chart
from nerfcore.evaluation.report.style import SPLIT_WORDS, page, table


def compare_report(frames: Mapping[str, Sequence[pd.DataFrame]], title: str) -> str:
    """One HTML page that compares labels.

    Args:
        frames: by label, the metrics frames of its jobs (see `read_metrics`).
        title: its heading.

    Raises:
        DataError: two jobs of a label were not scored after the same steps on the same images, or
            two labels not on the same images.
    """
    summaries = {label: [summarise(frame) for frame in own] for label, own in frames.items()}
    for label, own in frames.items():
        _require_alike(label, own)
    _require_same_images(frames)
    body = ""
    for split in SPLITS:
        by_steps = [_curve(label, own, split, "tto") for label, own in summaries.items()]
        by_seconds = [
            _curve(label, own, split, "adapt_seconds") for label, own in summaries.items()
        ]
        steps = line_chart(
            [c for c in by_steps if c.x], Axis("adaptation steps", is_log=True), "PSNR, dB",
            f"{SPLIT_WORDS[split]} over steps",
        )  # fmt: skip
        seconds = line_chart(
            [c for c in by_seconds if c.x], Axis("seconds of adaptation"), "PSNR, dB",
            f"{SPLIT_WORDS[split]} over seconds",
        )  # fmt: skip
        if steps:
            body += f'<h2>{SPLIT_WORDS[split].capitalize()}</h2><div class="beside">{steps}'
            body += f"{seconds}</div>{table(_by_tto(summaries, split))}"
    counts = ", ".join(f"{label} ({len(own)})" for label, own in frames.items())
    note = "Lines are means over jobs, bands reach from the lowest to the highest."
    body += f'<p class="note">{note} Jobs: {counts}.</p>'
    return page(title, "Comparison of eval jobs", body)


def comparison_table(frames: Mapping[str, Sequence[pd.DataFrame]], split: str) -> pd.DataFrame:
    """Mean PSNR by tto, one column a label, and its spread (highest minus lowest) over jobs."""
    return _by_tto({k: [summarise(f) for f in own] for k, own in frames.items()}, split)


def _require_alike(label: str, frames: Sequence[pd.DataFrame]) -> None:
    scored = [set(zip(f["tto"], f["split"], f["image"], strict=True)) for f in frames]
    if any(one != scored[0] for one in scored):
        raise DataError(
            f"{label}: its jobs were not scored after the same steps on the same images; compare "
            "jobs of equal tto, batch and max_images, or give them labels of their own"
        )


def _require_same_images(frames: Mapping[str, Sequence[pd.DataFrame]]) -> None:
    """Hold every label's images against the first one's; their steps may differ."""
    scored = {
        label: set(zip(own[0]["split"], own[0]["image"], strict=True))
        for label, own in frames.items()
    }
    (first, wanted), *others = scored.items()
    for label, images in others:
        if images != wanted:
            split, image = min(images ^ wanted)
            holder = first if (split, image) in wanted else label
            raise DataError(
                f"{first} and {label}: scored on different images ({len(wanted)} and "
                f"{len(images)}; only {holder} has {split} {image}); compare jobs of equal data, "
                "batch, protocol and max_images"
            )


def _values(summaries: Sequence[pd.DataFrame], split: str, column: str) -> pd.DataFrame:
    """A column by tto (rows) and job (columns)."""
    parts = [
        own[own["split"] == split].set_index("tto")[column].rename(i)
        for i, own in enumerate(summaries)
    ]
    return pd.concat(parts, axis=1).sort_index()


def _curve(label: str, summaries: Sequence[pd.DataFrame], split: str, x: str) -> Curve:
    psnr = _values(summaries, split, "psnr")
    if psnr.empty:
        return Curve(label, (), ())
    if x == "tto":
        xs = [float(tto) for tto in psnr.index]
    else:
        xs = _values(summaries, split, x).mean(axis=1).tolist()
    if len(summaries) == 1:
        return Curve(label, xs, psnr.mean(axis=1).tolist())
    low, high = psnr.min(axis=1).tolist(), psnr.max(axis=1).tolist()
    return Curve(label, xs, psnr.mean(axis=1).tolist(), low, high)


def _by_tto(summaries: Mapping[str, Sequence[pd.DataFrame]], split: str) -> pd.DataFrame:
    columns: dict[str, pd.Series] = {}
    for label, own in summaries.items():
        psnr = _values(own, split, "psnr")
        columns[label] = psnr.mean(axis=1)
        if len(own) > 1:
            columns[f"{label} spread"] = psnr.max(axis=1) - psnr.min(axis=1)
    return pd.DataFrame(columns).rename_axis("tto").reset_index()
