#!/usr/bin/env python3
"""Prepare a flight as a dataset: see `nerfcore.data.prepare`."""

import errno
import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from configs.exit_codes import ExitCode
from nerfcore.data.placing import EnuReference, ScaleStrategy
from nerfcore.data.prepare import PrepareSettings, prepare_dataset
from nerfcore.data.progress import progress_bar
from nerfcore.data.records import Dataset
from nerfcore.data.storage import DATASET_FILE, DatasetRecord, read_listing
from nerfcore.errors import DataError
from nerfcore.geometry.geodesy import GeoPoint


def _option(name: str, text: str) -> typer.models.OptionInfo:
    """Return an option spelt with underscores, as in the reference system, or with dashes."""
    spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
    return typer.Option(*spellings, help=text)


def main(
    data_path: Annotated[
        Path,
        _option(
            "data_path", "folder with model/ and images/, or with transforms.json, or a JSON file"
        ),
    ],
    output_path: Annotated[Path, _option("output_path", "the dataset's folder, made here")],
    val_split: Annotated[
        float, _option("val_split", "share of images kept for validation, evenly spaced, 0..1")
    ] = 0.0,
    scale_strategy: Annotated[
        ScaleStrategy,
        _option("scale_strategy", "one unit: farthest camera, 99th percentile, half the box"),
    ] = "camera_max",
    ecef_to_enu: Annotated[
        bool, _option("ecef_to_enu", "the model is in ECEF; convert it to local East-North-Up")
    ] = False,
    enu_ref: Annotated[
        EnuReference,
        _option("enu_ref", "where ENU is zero: first, mean or median camera, or custom"),
    ] = "first",
    enu_ref_lat: Annotated[
        float | None, _option("enu_ref_lat", "latitude for --enu_ref custom, degrees")
    ] = None,
    enu_ref_lon: Annotated[
        float | None, _option("enu_ref_lon", "longitude for --enu_ref custom, degrees")
    ] = None,
    enu_ref_alt: Annotated[
        float | None, _option("enu_ref_alt", "ellipsoidal height for --enu_ref custom, metres")
    ] = None,
    points_low_alt_percentile: Annotated[
        float, _option("points_low_alt_percentile", "share of points below ground (0.01 = 1 %)")
    ] = 0.01,
    maximum_allowed_height: Annotated[
        float, _option("maximum_allowed_height", "metres above or below ground that points may be")
    ] = 200.0,
    sfm: Annotated[
        bool, _option("sfm", "the folder holds photographs with GPS only: reconstruct and place")
    ] = False,
    overwrite: Annotated[
        bool, _option("overwrite", "replace a dataset, its partitions and batches included")
    ] = False,
    resume: Annotated[
        bool, _option("resume", "go on from a killed run; keep a dataset made by the same command")
    ] = False,
) -> None:
    """Prepare a flight for training: COLMAP model, transforms.json, or photographs with GPS."""
    try:
        settings = PrepareSettings(
            val_split=val_split,
            scale_strategy=scale_strategy,
            ecef_to_enu=ecef_to_enu,
            enu_ref=enu_ref,
            enu_ref_point=_custom_point(enu_ref_lat, enu_ref_lon, enu_ref_alt),
            points_low_alt_percentile=points_low_alt_percentile,
            maximum_allowed_height_m=maximum_allowed_height,
            overwrite=overwrite,
            sfm=sfm,
            resume=resume,
        )
        with progress_bar() as on_progress:
            dataset = prepare_dataset(data_path, output_path, settings, on_progress)
    except (DataError, OSError) as error:
        raise _refused(error) from None
    _describe(dataset)


def _refused(error: DataError | OSError) -> typer.Exit:
    """Say in one line what is wrong, and return the exit that goes with it."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    text = error.strerror if isinstance(error, OSError) and full else str(error)
    print(f"error: {text}", file=sys.stderr)
    return typer.Exit(ExitCode.DISK_FULL if full else ExitCode.BAD_DATA)


def _custom_point(lat: float | None, lon: float | None, alt: float | None) -> GeoPoint | None:
    if lat is None and lon is None and alt is None:
        return None
    if lat is None or lon is None or alt is None:
        raise DataError("enu_ref_lat, enu_ref_lon, enu_ref_alt: give all three or none")
    for name, value in (("lat", lat), ("lon", lon), ("alt", alt)):
        if not math.isfinite(value):
            raise DataError(f"enu_ref_{name}: {value} is not finite; give degrees, or metres")
    return GeoPoint(lat, lon, alt)


def _describe(dataset: Dataset) -> None:
    frame, reference = dataset.frame, dataset.frame.enu_ref
    low_m, high_m = frame.altitude_range_enu_m
    place = "local coordinates, no place on the Earth"
    if reference is not None:
        place = f"{reference.lat_deg:.7f}, {reference.lon_deg:.7f}, {reference.alt_m:.2f} m"
    masked = sum(
        path is not None for one in (dataset.train, dataset.val) for path in one.valid_paths
    )
    print(f"dataset           {dataset.root}")
    print(f"images            {len(dataset.train)} train, {len(dataset.val)} validation")
    print(f"with border masks {masked}")
    print(f"sparse points     {0 if dataset.points is None else len(dataset.points)}")
    print(f"one world unit    {frame.pose_scale_factor_m:.3f} m")
    print(f"ENU reference     {place}")
    print(f"altitude (Up)     ground {low_m:.1f} m, highest camera {high_m:.1f} m")
    _describe_findings(read_listing(dataset.root / DATASET_FILE, DatasetRecord).settings)


def _describe_findings(found: dict[str, Any]) -> None:
    moved, alignment = found.get("recentring"), found.get("alignment")
    print(f"source            {found.get('source', 'colmap')}")
    if found.get("images_without_pose"):
        print(f"without pose      {found['images_without_pose']} images, left out")
    if found.get("points_dropped"):
        print(f"outliers          {found['points_dropped']} points too high or too low, left out")
    if found.get("observations_behind"):
        print(f"behind cameras    {found['observations_behind']} observations, left out")
    if moved is not None:
        print(
            f"camera centres    {moved['moved']} moved by at most {moved['largest_move_m']:.2f} m: "
            "the model had lost precision in ECEF"
        )
        print(
            f"reprojection      {moved['before_px']:.3f} px as read, "
            f"{moved['after_px']:.3f} px now, {moved['listed_px']:.3f} px listed"
        )
    if alignment is not None:
        print(
            f"reconstruction    {alignment['reconstructed']} of {alignment['photographs']} "
            f"photographs; GPS off by {alignment['median_m']:.2f} m (median), at most "
            f"{alignment['largest_m']:.2f} m"
        )


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
