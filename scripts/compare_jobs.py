#!/usr/bin/env python3
"""One report of several eval jobs: starting points side by side, seeds as bands."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from nerfcore import atomic
from nerfcore.errors import NerfcoreError
from nerfcore.evaluation import SPLITS, read_metrics
from nerfcore.evaluation.report import compare_report
from nerfcore.evaluation.report.compare import comparison_table

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def main(
    jobs: Annotated[
        list[str],
        typer.Argument(
            help="Folders of eval jobs, e.g. logs/joint-0; LABEL=FOLDER groups them by your label.",
            metavar="JOB...",
        ),
    ],
    output: Annotated[
        Path, typer.Option(metavar="FILE", help="The report; replaced if it is there.")
    ] = Path("comparison.html"),
    title: Annotated[str, typer.Option(help="Its heading.")] = "Starting points compared",
) -> None:
    """Compare eval jobs in one self-contained HTML report and print the tables.

    Jobs of one label are seeds of one starting point: lines are their means, bands reach from the
    lowest to the highest. Without a label it is the training algorithm of the job's checkpoint.

    Exit codes: 0 written, 1 a job has no metrics or jobs of one label differ in what was scored,
    2 wrong command line.
    """
    frames: dict[str, list[pd.DataFrame]] = {}
    try:
        for text in jobs:
            label, _, folder = text.rpartition("=")
            path = Path(folder)
            frames.setdefault(label or label_of(path), []).append(read_metrics(path))
        page = compare_report(frames, title)
    except NerfcoreError as error:
        print(f"compare_jobs: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    output.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(output, page)
    for split in SPLITS:
        table = comparison_table(frames, split)
        if len(table):
            print(f"\n{split}: mean PSNR, dB")
            print(table.round(2).to_string(index=False))
    print(f"\nreport: {output}")


def label_of(job: Path) -> str:
    """The algorithm that trained a job's checkpoint; the job's name where that is not known."""
    checkpoint = _read(job / "job.json").get("checkpoint_path")
    source = Path(str(checkpoint))
    source = source if source.is_absolute() else job.parent / source
    spec = _read(source / "job.json")
    return str(spec.get("algo", job.name))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


if __name__ == "__main__":
    app()
