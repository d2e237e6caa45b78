#!/usr/bin/env python3
"""Divide a prepared dataset into experts: see `nerfcore.data.clusters`."""

import errno
import re
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from configs.exit_codes import ExitCode
from nerfcore.data.balance import (
    BALANCE_FILE,
    Balance,
    balance,
    describe_balance,
    save_balance,
)
from nerfcore.data.clusters import ClusterSettings, write_partition
from nerfcore.data.dataset import load_dataset
from nerfcore.data.grid_choice import DEFAULT_IMAGES_PER_EXPERT, choose_grid
from nerfcore.data.partition import Partition
from nerfcore.data.pixel_masks import COMPACT_STRIDE, MaskSettings, write_pixel_masks
from nerfcore.data.progress import progress_bar
from nerfcore.data.records import Dataset
from nerfcore.errors import DataError

MaskKind = Literal["none", "compact", "full"]
DEFAULT_GRID = "2 2"


def _option(name: str, text: str) -> typer.models.OptionInfo:
    """Return an option spelt with underscores, as in the reference system, or with dashes."""
    spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
    return typer.Option(*spellings, help=text)


def main(
    data_path: Annotated[Path, _option("data_path", "the prepared dataset's folder")],
    grid_dim: Annotated[
        str | None,
        _option("grid_dim", "cells along East and South (2 2), or Down, East, South (1 2 2)"),
    ] = None,
    kmeans: Annotated[
        int | None, _option("kmeans", "so many groups of cameras (k-means) instead of a grid")
    ] = None,
    auto: Annotated[
        bool, _option("auto", "choose the grid from the points and the number of images")
    ] = False,
    images_per_expert: Annotated[
        int, _option("images_per_expert", "training images an expert should have, for --auto")
    ] = DEFAULT_IMAGES_PER_EXPERT,
    cluster_2d: Annotated[
        bool, _option("cluster_2d", "measure distances to centroids horizontally only")
    ] = False,
    boundary_margin: Annotated[
        float, _option("boundary_margin", "overlap: an expert owns up to this times the nearest")
    ] = 1.05,
    ray_samples: Annotated[
        int, _option("ray_samples", "samples per ray when pixels are assigned to experts")
    ] = 256,
    center_pixels: Annotated[
        bool, _option("center_pixels", "rays pass through pixel centres (else through corners)")
    ] = False,
    scene_scale: Annotated[
        float, _option("scene_scale", "factor by which the points' horizontal extent is enlarged")
    ] = 1.1,
    output: Annotated[
        str | None, _option("output", "name below masks/; default as g22_grid_bm105_ss11")
    ] = None,
    masks: Annotated[
        MaskKind,
        _option(
            "masks",
            "also store which expert owns which pixel, for other tools: every 8th, or every pixel",
        ),
    ] = "none",
    resume: Annotated[
        bool, _option("resume", "keep a partition of that name if its settings are the same")
    ] = False,
) -> None:
    """Divide a prepared dataset into experts and print how the work falls on them."""
    try:
        dataset = load_dataset(data_path)
        grid, reason = _chosen_grid(dataset, grid_dim, kmeans, auto, images_per_expert, scene_scale)
        settings = ClusterSettings(
            grid_dim=grid,
            cluster_2d=cluster_2d,
            boundary_margin=boundary_margin,
            scene_scale=scene_scale,
            ray_samples=ray_samples,
            center_pixels=center_pixels,
            kmeans=kmeans,
        )
        partition, kept = write_partition(dataset, settings, output, resume=resume, reason=reason)
        folder = data_path / "masks" / partition.name
        counts = balance(dataset, partition, settings)
        images = len(dataset.train) + len(dataset.val)
        save_balance(folder, describe_balance(partition, counts, images))
        if masks != "none":
            _write_masks(folder, dataset, partition, settings, masks)
    except (DataError, OSError) as error:
        raise _refused(data_path / "masks", error) from None
    print(f"partition {folder}{' (kept)' if kept else ''}")
    if reason is not None:
        print(f"grid      {' x '.join(map(str, grid))}: {reason}")
    _show(partition, counts)
    print(f"balance   {folder / BALANCE_FILE}")


def _chosen_grid(
    dataset: Dataset,
    grid_dim: str | None,
    kmeans: int | None,
    auto: bool,
    images_per_expert: int,
    scene_scale: float,
) -> tuple[tuple[int, ...], str | None]:
    """Return the grid, and why when it was chosen here."""
    if (grid_dim is not None) + (kmeans is not None) + auto > 1:
        raise DataError("grid_dim, kmeans, auto: each says how many experts; give only one of them")
    if auto:
        choice = choose_grid(dataset, images_per_expert, scene_scale)
        return choice.grid_dim, choice.reason
    return _parsed_grid(DEFAULT_GRID if grid_dim is None else grid_dim), None


def _write_masks(
    folder: Path,
    dataset: Dataset,
    partition: Partition,
    settings: ClusterSettings,
    masks: MaskKind,
) -> None:
    stride = 1 if masks == "full" else COMPACT_STRIDE
    how = MaskSettings(settings.ray_samples, stride, settings.center_pixels)
    with progress_bar() as on_progress:
        write_pixel_masks(folder, partition, (dataset.train, dataset.val), how, on_progress)


def _refused(masks: Path, error: DataError | OSError) -> typer.Exit:
    """Say in one line what is wrong, and return the exit that goes with it."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    text = f"{masks}: the disk is full; free space there and run again"
    print(f"error: {text if full else error}", file=sys.stderr)
    return typer.Exit(ExitCode.DISK_FULL if full else ExitCode.BAD_DATA)


def _parsed_grid(text: str) -> tuple[int, ...]:
    parts = text.replace(",", " ").replace("x", " ").split()
    if not parts or not all(part.isdecimal() for part in parts):
        raise DataError(f"grid_dim: '{text}' is not 2 or 3 whole numbers, as in --grid_dim 2 2")
    return tuple(int(part) for part in parts)


def _show(partition: Partition, counts: Balance) -> None:
    table = Table(
        "expert", "images", "points", "pixels", "share", "box (world units)", title="Balance"
    )
    for expert in range(len(partition)):
        low, high = partition.box_mins[expert], partition.box_maxs[expert]
        box = "  ".join(f"{a:.2f}..{b:.2f}" for a, b in zip(low, high, strict=True))
        empty = " (empty)" if counts.images[expert] == 0 else ""
        table.add_row(
            f"{expert}{empty}",
            str(counts.images[expert]),
            str(counts.points[expert]),
            f"{counts.pixels[expert] / 1e6:.1f} M",
            f"{counts.pixel_shares[expert]:.1%}",
            box,
        )
    Console().print(table)
    if counts.empty:
        print(
            f"empty experts {', '.join(map(str, counts.empty))}: no pixel's ray meets them; they "
            "are kept under their numbers, and cost memory"
        )
    print(
        f"pixels of more than one expert {counts.overlap_share:.1%}, "
        f"outside the scene's box {counts.missed_share:.1%}"
    )


def joined_grid(arguments: list[str]) -> list[str]:
    """Join what follows --grid_dim into one value, since an option takes a fixed number of them.

    `--grid_dim 2 2`, `--grid_dim "2 2"` and `--grid_dim=2x2` come out alike.
    """
    joined: list[str] = []
    collected: list[str] | None = None
    for argument in arguments:
        if collected is not None and not re.match(r"-+[A-Za-z]", argument):
            collected.append(argument)
            joined[-1] = " ".join(collected)
            continue
        collected = None
        joined.append(argument)
        if argument in ("--grid_dim", "--grid-dim"):
            collected = []
            joined.append("")
    return joined


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app(args=joined_grid(sys.argv[1:]))
