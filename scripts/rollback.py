#!/usr/bin/env python3
"""Make an earlier version of an adapted model count again: see `nerfcore.checkpoint.versions`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from nerfcore.errors import CheckpointError

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def main(
    job: Annotated[Path, typer.Argument(help="The eval job's folder, e.g. logs/site-1-eval.")],
    to: Annotated[
        str | None,
        typer.Option(metavar="STEP", help="The version, e.g. step2262; default: the one before."),
    ] = None,
    list_only: Annotated[
        bool, typer.Option("--list", help="Only list the versions; * marks the one that counts.")
    ] = False,
) -> None:
    """Go back to an earlier version of an adapted model.

    An eval job with save_adapted keeps the adapted model beside the one it came from. Jobs that
    name it in checkpoint_path take the last one (prefix "last"); this command says which that is.
    Nothing is deleted: going forward again is going "back" to the later version with --to.

    Exit codes: 0 done, 1 there is no such version, 2 wrong command line.
    """
    from nerfcore.checkpoint.store import read_index
    from nerfcore.checkpoint.versions import roll_back, versions

    folder = job / "checkpoints"
    try:
        if list_only:
            current = (read_index(folder) or {}).get("last")
            for name in versions(folder):
                print(f"{'*' if name == current else ' '} {name}")
            return
        before, now = roll_back(folder, to)
    except CheckpointError as error:
        print(f"rollback: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    print(f"{job}: {now} counts now (was {before})")


if __name__ == "__main__":
    app()
