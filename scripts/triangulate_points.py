#!/usr/bin/env python3
"""Find sparse points for a prepared dataset that has none: see `nerfcore.data.triangulate`."""

import errno
import sys
from pathlib import Path
from typing import Annotated

import typer

from configs.exit_codes import ExitCode
from nerfcore.data.dataset import load_dataset
from nerfcore.data.found_points import save_found_points
from nerfcore.data.progress import progress_bar
from nerfcore.data.records import ImageSet, SceneFrame, SparsePoints
from nerfcore.data.triangulate import triangulate
from nerfcore.errors import DataError


def main(
    data_path: Annotated[
        Path, typer.Option("--data_path", "--data-path", help="the prepared dataset's folder")
    ],
) -> None:
    """Triangulate sparse points from the photographs and their poses, beside the dataset.

    For datasets prepared for the reference system, and transforms.json without points. Training
    then knows where surfaces may be and does not fill the air before the cameras with fog. Written:
    DATA_PATH/sparse, and sparse in each batch. Held-out photographs are not used.
    """
    try:
        dataset = load_dataset(data_path)
        parts = [(data_path, dataset.train, dataset.points)]
        parts += [
            (data_path / "continual" / name, batch.adapt, batch.points)
            for name, batch in sorted(dataset.batches.items())
        ]
        for folder, images, known in parts:
            print(f"{folder}: {_found(folder, images, known, dataset.frame)}")
    except (DataError, OSError) as error:
        raise _refused(error) from None


def _found(folder: Path, images: ImageSet, known: SparsePoints | None, frame: SceneFrame) -> str:
    """Find and store the points of one image set; say in words what came of it."""
    if known is not None:
        return f"{len(known)} sparse points are there already"
    with progress_bar() as on_progress:
        points = triangulate(images, frame, on_progress)
    if points is None:
        return f"no point is seen by three of its {len(images)} photographs; nothing written"
    stored = save_found_points(folder, images, points)
    return (
        f"{len(points)} sparse points, mean reprojection error {points.error_px.mean():.2f} px, "
        f"in {stored}"
    )


def _refused(error: DataError | OSError) -> typer.Exit:
    """Say in one line what is wrong, and return the exit that goes with it."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    mend = "; free space on that disk and run again" if full else ""
    print(f"error: {error}{mend}", file=sys.stderr)
    return typer.Exit(ExitCode.DISK_FULL if full else ExitCode.BAD_DATA)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
