"""Owns turning a flight into a prepared dataset, complete or not at all.

A model in local coordinates is taken to be ENU metres. Sparse points are all kept, with errors and
tracks, except outliers further than `maximum_allowed_height_m` above or below the ground, which is
the low quantile of the points' Up.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerfcore.data.colmap import ColmapModel
from nerfcore.data.dataset import load_dataset
from nerfcore.data.facing import drop_behind
from nerfcore.data.flight import Flight, Source, find_source, read_flight, require_photographs
from nerfcore.data.placing import (
    EnuReference,
    EnuScene,
    ScaleStrategy,
    check_coordinates,
    check_spread,
    choose_reference,
    fit_frame,
    near_ground,
    to_enu,
)
from nerfcore.data.recentre import Recentring, recentre
from nerfcore.data.records import Dataset, SceneFrame
from nerfcore.data.refresh import remake_changed
from nerfcore.data.splitting import evenly_spaced
from nerfcore.data.staging import Stage, restore_retired, staged
from nerfcore.data.storage import (
    DATASET_FILE,
    FORMAT_VERSION,
    DatasetRecord,
    FrameRecord,
    read_listing,
    write_listing,
)
from nerfcore.data.undistort import Undistortion
from nerfcore.data.writing import (
    Photograph,
    save_points,
    sparse_points,
    undistortions,
    write_image_sets,
)
from nerfcore.errors import DataError
from nerfcore.geometry.frames import colmap_to_c2w
from nerfcore.geometry.geodesy import GeoPoint

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class PrepareSettings:
    """How to prepare a flight.

    Attributes:
        val_split: share of the images kept for validation, 0 <= x < 1.
        scale_strategy: what one world unit is, see `placing.fit_frame`.
        ecef_to_enu: the model is in ECEF (of photographs reconstructed here it always is).
        enu_ref: which point becomes ENU's zero.
        enu_ref_point: the point for enu_ref "custom".
        points_low_alt_percentile: share of points below ground level, 0..1 (0.01 = 1 %).
        maximum_allowed_height_m: points further above or below the ground are outliers, > 0.
        overwrite: replace an existing dataset (its partitions and batches go with it).
        sfm: reconstruct a folder of photographs and place it by their GPS.
        resume: go on from a run that was killed; a dataset made from the same input with the same
            settings is kept, but for photographs that have changed since.
    """

    val_split: float = 0.0
    scale_strategy: ScaleStrategy = "camera_max"
    ecef_to_enu: bool = False
    enu_ref: EnuReference = "first"
    enu_ref_point: GeoPoint | None = None
    points_low_alt_percentile: float = 0.01
    maximum_allowed_height_m: float = 200.0
    overwrite: bool = False
    sfm: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.val_split < 1.0:
            raise DataError(f"val_split: {self.val_split} is outside 0 <= val_split < 1")
        if not 0.0 <= self.points_low_alt_percentile <= 1.0:
            raise DataError(
                f"points_low_alt_percentile: {self.points_low_alt_percentile} is outside 0..1 "
                "(a share: 0.01 = 1 %)"
            )
        if not self.maximum_allowed_height_m > 0.0:
            raise DataError(
                f"maximum_allowed_height: {self.maximum_allowed_height_m} m must be positive"
            )
        self._check_reference()

    def _check_reference(self) -> None:
        if (self.enu_ref == "custom") != (self.enu_ref_point is not None):
            raise DataError(
                f"enu_ref: {self.enu_ref}; 'custom' needs --enu_ref_lat, --enu_ref_lon and "
                "--enu_ref_alt, and only 'custom' takes them"
            )
        if self.enu_ref == "custom" and not (self.ecef_to_enu or self.sfm):
            raise DataError("enu_ref: custom has no effect on local coordinates; add --ecef_to_enu")
        point = self.enu_ref_point
        if point is not None and not (abs(point.lat_deg) <= 90.0 and abs(point.lon_deg) <= 180.0):
            raise DataError(
                f"enu_ref_lat, enu_ref_lon: {point.lat_deg}, {point.lon_deg} are outside "
                "-90..90 and -180..180 degrees"
            )


def prepare_dataset(
    data_path: Path,
    output_path: Path,
    settings: PrepareSettings,
    on_progress: Progress = lambda *_: None,
) -> Dataset:
    """Prepare a flight as a dataset.

    Args:
        data_path: folder with model/ and images/, with transforms.json, or (`settings.sfm`) with
            photographs; or a JSON file like transforms.json.
        output_path: the dataset's folder, made here.
        settings: see `PrepareSettings`.
        on_progress: called with (phase, done, total).

    Returns:
        The dataset, read back from disk.

    Raises:
        DataError: anything wrong with the input; nothing is left at output_path then.
        OSError: the disk is full or not writable; likewise.
    """
    restore_retired(output_path)
    source = find_source(data_path, sfm=settings.sfm)
    _check_output(source, output_path, settings)
    plan = _plan(source, settings)
    if output_path.exists() and not settings.overwrite:
        return _kept(output_path, source, plan, on_progress)
    with staged(output_path, plan, resume=settings.resume, overwrite=settings.overwrite) as stage:
        flight = read_flight(source, stage.work / "sfm", on_progress)
        _write(stage, flight, settings, plan, on_progress)
    return load_dataset(output_path)


def _plan(source: Source, settings: PrepareSettings) -> dict[str, Any]:
    """Return what decides the dataset: settings and describing files."""
    noted = asdict(settings)
    del noted["overwrite"], noted["resume"]
    return noted | {"source": source.kind, "source_sha256": source.digest()}


def _kept(
    output_path: Path, source: Source, plan: dict[str, Any], on_progress: Progress
) -> Dataset:
    """Return the dataset that is there already, if the same command made it.

    Photographs that have changed since are made anew. (The checksum of a folder of plain
    photographs covers them: other ones are another input.)

    Raises:
        DataError: something else made it.
    """
    noted = read_listing(output_path / DATASET_FILE, DatasetRecord).settings
    if any(noted.get(name) != value for name, value in plan.items()):
        raise DataError(
            f"output_path: {output_path} was made with other settings or from other input; add "
            "--overwrite or choose another"
        )
    if source.kind != "photographs":
        remake_changed(output_path, read_flight(source, Path(), on_progress), on_progress)
    return load_dataset(output_path)


def _write(
    stage: Stage,
    flight: Flight,
    settings: PrepareSettings,
    plan: dict[str, Any],
    on_progress: Progress,
) -> None:
    """Fill the stage."""
    ecef = settings.ecef_to_enu or flight.alignment is not None
    check_coordinates(flight.model, ecef_to_enu=ecef)
    check_spread(flight.model)
    require_photographs(flight.folder, flight.model.names, flight.paths)
    masks = [mask for mask in flight.masks if mask is not None]
    require_photographs(flight.folder, [str(mask) for mask in masks], masks)
    lenses = undistortions(flight.model.cameras)
    model, behind = drop_behind(flight.model)
    model, recentring = recentre(model)
    scene, frame, kept = _placed(model, settings, ecef=ecef)
    photographs = make_photographs(flight, scene, frame, lenses)
    held_out = evenly_spaced(len(photographs), settings.val_split)
    chosen = {"train": ~held_out, "val": held_out}
    splits = write_image_sets(
        stage,
        {name: [photographs[i] for i in np.flatnonzero(of)] for name, of in chosen.items()},
        on_progress,
    )
    points = sparse_points(model, scene.points_m, frame, lenses, kept, np.ones_like(held_out))
    listing = DatasetRecord(
        format_version=FORMAT_VERSION,
        frame=FrameRecord.from_frame(frame),
        points=save_points(stage.root, points),
        settings=plan
        | _findings(model, recentring, kept)
        | {
            "alignment": None if flight.alignment is None else asdict(flight.alignment),
            "observations_behind": behind,
        },
        train=splits["train"],
        val=splits["val"],
    )
    write_listing(stage.root / DATASET_FILE, listing)


def make_photographs(
    flight: Flight, scene: EnuScene, frame: SceneFrame, lenses: list[Undistortion]
) -> list[Photograph]:
    """Join names, files, lenses and world poses, one `Photograph` per image of the flight."""
    c2w = colmap_to_c2w(
        scene.rotations, scene.centres_m, frame.origin_drb_m, frame.pose_scale_factor_m
    )
    parts = zip(flight.model.names, flight.paths, flight.masks, lenses, c2w, strict=True)
    return [Photograph(*one) for one in parts]


def _placed(
    model: ColmapModel, settings: PrepareSettings, *, ecef: bool
) -> tuple[EnuScene, SceneFrame, NDArray[np.bool_]]:
    """Return the model in ENU, the world frame, and which points are no outliers."""
    reference = None
    if ecef:
        reference = choose_reference(model, settings.enu_ref, settings.enu_ref_point)
    scene = to_enu(model, reference)
    low, height_m = settings.points_low_alt_percentile, settings.maximum_allowed_height_m
    kept = near_ground(scene.points_m, low, height_m)
    inliers = replace(scene, points_m=scene.points_m[kept])
    try:
        frame = fit_frame(inliers, settings.scale_strategy, low, height_m)
    except DataError as error:
        raise DataError(f"{model.folder}: {error}") from None
    return scene, frame, kept


def _findings(
    model: ColmapModel, recentring: Recentring | None, kept: NDArray[np.bool_]
) -> dict[str, Any]:
    """Return what the listing tells about what was found."""
    return {
        "images_without_pose": model.unposed,
        "points_dropped": int((~kept).sum()),
        "recentring": None if recentring is None else asdict(recentring),
        "undistorted_from": sorted({camera.model_name for camera in model.cameras}),
    }


def _check_output(source: Source, output_path: Path, settings: PrepareSettings) -> None:
    folder, target = source.folder.resolve(), output_path.resolve()
    if target == folder or target in folder.parents:
        raise DataError(
            f"output_path: {output_path} holds the input {folder}; choose a folder of its own"
        )
    if folder / "images" in (target, *target.parents):
        raise DataError(
            f"output_path: {output_path} lies among the photographs of the input; choose a folder "
            "of its own"
        )
    if not output_path.exists():
        return
    if not (settings.overwrite or settings.resume):
        raise DataError(
            f"output_path: {output_path} exists; add --resume, --overwrite, or choose another"
        )
    if not (output_path / DATASET_FILE).is_file():
        raise DataError(
            f"output_path: {output_path} exists and is no prepared dataset ({DATASET_FILE} is "
            "missing), so it is left alone; choose another"
        )
