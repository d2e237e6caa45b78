#!/usr/bin/env python3
"""Look a prepared dataset over before training: see `nerfcore.survey`."""

import errno
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from configs.exit_codes import ExitCode
from nerfcore.data.dataset import load_dataset
from nerfcore.data.progress import progress_bar
from nerfcore.errors import DataError
from nerfcore.survey import Survey, survey_dataset
from nerfcore.survey.problems import TITLES, Severity
from nerfcore.survey.report import check_output, write_report
from nerfcore.survey.summary import summary_line, verdict

SERIOUS_PROBLEM = 3  # the exit code of --strict; 1 would look like a crash

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def main(
    dataset: Annotated[
        Path, typer.Argument(help="The prepared dataset's folder (it holds dataset.json).")
    ],
    clusters: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Partition below masks/ to show; default: the newest."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The report's folder; default: DATASET/report."),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Exit with 3 when a serious problem is found (for scripts)."),
    ] = False,
) -> None:
    """Look a prepared dataset over before training on it, and write a report.

    DIR/report.html is one file without links to the network, to open in a browser or to mail: the
    site from above with cameras, view directions, footprints, sparse points and experts; coverage;
    heights, exposure and sharpness; and every problem found, with its value, its limit and what to
    do about it. DIR/*.png are the same figures as pictures, DIR/survey.json the same numbers for
    scripts. A report that is there already is replaced; the dataset itself is never changed.

    Problems looked for: unreadable, blurred, dark, over-exposed and duplicate photographs; poses
    that disagree with the points, lie far off, below the ground or look at the sky; photographs
    with too few points; empty and unbalanced experts; little overlap.

    Exit codes: 0 report written (with or without problems), 2 wrong command line, 3 a serious
    problem with --strict, 11 the dataset or the partition is missing or wrong, 17 the disk is full.
    """
    target = dataset / "report" if output is None else output
    try:
        loaded = load_dataset(dataset)
        check_output(target)
        with progress_bar() as on_progress:
            survey = survey_dataset(loaded, clusters, on_progress)
            on_progress("report", 0, 1)
            page = write_report(survey, target, display_name(dataset))
            on_progress("report", 1, 1)
    except (DataError, OSError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        text = f"{target}: the disk is full; free space, or give --output on another disk"
        print(f"error: {text if full else error}", file=sys.stderr)
        raise typer.Exit(ExitCode.DISK_FULL if full else ExitCode.BAD_DATA) from None
    _describe(survey, page)
    if strict and any(one.severity is Severity.SERIOUS for one in survey.problems):
        raise typer.Exit(SERIOUS_PROBLEM)


def display_name(dataset: Path) -> str:
    """Return what to call a dataset: data/drz/out/prepared is "drz"."""
    parts = [part for part in dataset.resolve().parts if part not in ("out", "prepared", "/")]
    return parts[-1] if parts else "dataset"


def _describe(survey: Survey, page: Path) -> None:
    print(summary_line(survey.figures))
    print(f"verdict: {verdict(survey.problems)[1]}")
    for kind, number in Counter(one.kind for one in survey.problems).items():
        worst = next(one.severity for one in survey.problems if one.kind is kind)
        print(f"  {worst:8} {number:4}  {TITLES[kind][0].lower()}")
    print(f"report:  {page}")


if __name__ == "__main__":
    app()
