#!/usr/bin/env python3
"""Add a later flight to a prepared dataset as a batch: see `nerfcore.data.update`."""

import errno
import sys
from pathlib import Path
from typing import Annotated

import typer

from configs.exit_codes import ExitCode
from nerfcore.data.progress import progress_bar
from nerfcore.data.update import add_flight
from nerfcore.errors import DataError


def _option(name: str, text: str) -> typer.models.OptionInfo:
    """Return an option spelt with underscores, as in the reference system, or with dashes."""
    spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
    return typer.Option(*spellings, help=text)


def main(
    data_path: Annotated[Path, _option("data_path", "the prepared dataset's folder")],
    update_path: Annotated[
        Path, _option("update_path", "folder with model/ (old and new images) and images/ (new)")
    ],
    heldout_split: Annotated[
        float, _option("heldout_split", "share of the new images kept for scoring, 0..1")
    ] = 0.25,
    ecef_to_enu: Annotated[
        bool,
        _option("ecef_to_enu", "the model is in ECEF (not needed: the dataset remembers)"),
    ] = False,
    resume: Annotated[
        bool, _option("resume", "go on from a killed run; keep a batch that is there already")
    ] = False,
) -> None:
    """Add the new images of a later flight as continual/batch_%04d."""
    try:
        with progress_bar() as on_progress:
            done = add_flight(
                data_path,
                update_path,
                heldout_split=heldout_split,
                ecef_to_enu=True if ecef_to_enu else None,
                resume=resume,
                on_progress=on_progress,
            )
    except (DataError, OSError) as error:
        raise _refused(error) from None
    batch, kept = done.batch, " (kept)" if done.kept else ""
    print(f"batch             {data_path / 'continual' / batch.name}{kept}")
    print(f"images            {len(batch.adapt)} to adapt to, {len(batch.heldout)} held out")
    print(f"sparse points     {0 if batch.points is None else len(batch.points)}")


def _refused(error: DataError | OSError) -> typer.Exit:
    """Say in one line what is wrong, and return the exit that goes with it."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    text = error.strerror if isinstance(error, OSError) and full else str(error)
    print(f"error: {text}", file=sys.stderr)
    return typer.Exit(ExitCode.DISK_FULL if full else ExitCode.BAD_DATA)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
