"""Owns what the demo tells of an eval job: the metrics table, held against what is promised."""

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from nerfcore.evaluation import read_metrics, summarise

LEAST_BEFORE_DB = 22.0
LEAST_RISE_DB = 3.0
SPLIT_NAMES = {
    "adapted": "new, adapted to",
    "new_heldout": "new, held out",
    "old_val": "old, held out",
}


def _psnr(summary: pd.DataFrame, tto: int, split: str) -> float:
    rows = summary[(summary["tto"] == tto) & (summary["split"] == split)]
    return float(rows["psnr"].iloc[0]) if len(rows) else float("nan")


def show_metrics(console: Console, job_folder: Path) -> bool:
    """Print the table of an eval job, the promised figures, and where the pictures are.

    Args:
        console: where to.
        job_folder: the eval job's.

    Returns:
        Whether both promises hold.

    Raises:
        DataError: the metrics cannot be read.
    """
    summary = summarise(read_metrics(job_folder))
    table = Table("steps", "images", "count", "PSNR dB", "gain dB", "SSIM", "seconds",
                  title="Before and after adaptation to the second flight")  # fmt: skip
    for row in summary.to_dict("records"):
        split = str(row["split"])
        table.add_row(
            str(row["tto"]), SPLIT_NAMES.get(split, split), str(row["images"]),
            f"{row['psnr']:.2f}", f"{row['psnr_gain']:+.2f}", f"{row['ssim']:.3f}",
            f"{row['adapt_seconds']:.1f}",
        )  # fmt: skip
    console.print(table)
    first, last = int(summary["tto"].min()), int(summary["tto"].max())
    before = _psnr(summary, first, "old_val")
    rise = _psnr(summary, last, "new_heldout") - _psnr(summary, first, "new_heldout")
    kept = [
        _verdict(console, "held-out views before the event", before, LEAST_BEFORE_DB, ""),
        _verdict(console, "rise on held-out views of the changed area", rise, LEAST_RISE_DB, "+"),
    ]
    for tto in (first, last):
        picture = job_folder / "comparison" / f"{tto}.png"
        if picture.exists():
            console.print(f"truth | prediction | error after {tto} steps: {picture}",
                          highlight=False, soft_wrap=True)  # fmt: skip
    return all(kept)


def _verdict(console: Console, what: str, value: float, least: float, sign: str) -> bool:
    holds = value >= least
    word = "[green]kept[/]" if holds else "[yellow]missed[/]"
    console.print(f"{what}: {value:{sign}.2f} dB (promised {sign}{least:g} or more: {word})",
                  highlight=False)  # fmt: skip
    return holds
