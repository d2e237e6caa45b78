#!/usr/bin/env python3
"""Divide a prepared dataset into experts: see `nerfcore.data.clusters`."""

import errno
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from configs.exit_codes import ExitCode
from nerfcore.data.clusters import Balance, ClusterSettings, balance, write_partition
from nerfcore.data.dataset import load_dataset
from nerfcore.data.partition import Partition
from nerfcore.errors import DataError


def _option(name: str, text: str) -> typer.models.OptionInfo:
    """Return an option spelt with underscores, as in the reference system, or with dashes."""
    spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
    return typer.Option(*spellings, help=text)


def main(
    data_path: Annotated[Path, _option("data_path", "the prepared dataset's folder")],
    grid_dim: Annotated[
        str,
        _option("grid_dim", "cells along East and South ('2 2'), or Down, East, South ('1 2 2')"),
    ] = "2 2",
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
    resume: Annotated[
        bool, _option("resume", "keep a partition of that name if its settings are the same")
    ] = False,
) -> None:
    """Divide a prepared dataset into experts and print how the work falls on them."""
    try:
        settings = ClusterSettings(
            grid_dim=_parsed_grid(grid_dim),
            cluster_2d=cluster_2d,
            boundary_margin=boundary_margin,
            scene_scale=scene_scale,
            ray_samples=ray_samples,
            center_pixels=center_pixels,
        )
        dataset = load_dataset(data_path)
        partition, kept = write_partition(dataset, settings, output, resume=resume)
        counts = balance(dataset, partition, settings)
    except (DataError, OSError) as error:
        raise _refused(error) from None
    print(f"partition {data_path / 'masks' / partition.name}{' (kept)' if kept else ''}")
    _show(partition, counts)


def _refused(error: Exception) -> typer.Exit:
    """Say in one line what is wrong, and return the exit that goes with it."""
    print(f"error: {error}", file=sys.stderr)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return typer.Exit(ExitCode.DISK_FULL if full else ExitCode.BAD_DATA)


def _parsed_grid(text: str) -> tuple[int, ...]:
    parts = text.replace(",", " ").replace("x", " ").split()
    if not all(part.isdigit() for part in parts):
        raise DataError(f"grid_dim: '{text}' is not 2 or 3 whole numbers, as in --grid_dim 2 2")
    return tuple(int(part) for part in parts)


def _show(partition: Partition, counts: Balance) -> None:
    table = Table("expert", "images", "points", "pixels", "box (world units)", title="Balance")
    for expert in range(len(partition)):
        low, high = partition.box_mins[expert], partition.box_maxs[expert]
        box = "  ".join(f"{a:.2f}..{b:.2f}" for a, b in zip(low, high, strict=True))
        empty = " (empty)" if counts.images[expert] == 0 else ""
        table.add_row(
            f"{expert}{empty}",
            str(counts.images[expert]),
            str(counts.points[expert]),
            f"{counts.pixel_shares[expert]:.1%}",
            box,
        )
    Console().print(table)
    print(
        f"pixels of more than one expert {counts.overlap_share:.1%}, "
        f"outside the scene's box {counts.missed_share:.1%}"
    )


def joined_grid(arguments: list[str]) -> list[str]:
    """Join the numbers after --grid_dim into one value, since an option takes a fixed number."""
    joined: list[str] = []
    collecting = False
    for argument in arguments:
        if collecting and argument.isdigit():
            joined[-1] = f"{joined[-1]} {argument}".strip()
            continue
        collecting = argument in ("--grid_dim", "--grid-dim")
        joined += [argument, ""] if collecting else [argument]
    return joined


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app(args=joined_grid(sys.argv[1:]))
