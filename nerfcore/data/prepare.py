"""Owns turning a COLMAP flight into a prepared dataset, complete or not at all.

A model in local coordinates is taken to be ENU metres. Sparse points are all kept, with errors and
tracks, except outliers further than `maximum_allowed_height_m` above or below the ground, which is
the low quantile of the points' Up.
"""

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nerfcore import atomic
from nerfcore.data.colmap import ColmapModel, read_model
from nerfcore.data.dataset import load_dataset
from nerfcore.data.placing import (
    EnuReference,
    EnuScene,
    ScaleStrategy,
    check_coordinates,
    choose_reference,
    fit_frame,
    near_ground,
    to_enu,
)
from nerfcore.data.recentre import Recentring, recentre
from nerfcore.data.records import Dataset, SceneFrame
from nerfcore.data.storage import (
    DATASET_FILE,
    FORMAT_VERSION,
    DatasetRecord,
    FrameRecord,
    write_listing,
)
from nerfcore.data.undistort import Undistortion
from nerfcore.data.writing import (
    Photograph,
    find_photographs,
    save_points,
    sparse_points,
    undistortions,
    write_image_set,
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
        ecef_to_enu: the model is in ECEF.
        enu_ref: which point becomes ENU's zero.
        enu_ref_point: the point for enu_ref "custom".
        points_low_alt_percentile: share of points below ground level, 0..1 (0.01 = 1 %).
        maximum_allowed_height_m: points further above or below the ground are outliers, > 0.
        overwrite: replace an existing dataset (its partitions and batches go with it).
    """

    val_split: float = 0.0
    scale_strategy: ScaleStrategy = "camera_max"
    ecef_to_enu: bool = False
    enu_ref: EnuReference = "first"
    enu_ref_point: GeoPoint | None = None
    points_low_alt_percentile: float = 0.01
    maximum_allowed_height_m: float = 200.0
    overwrite: bool = False

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
        if self.enu_ref == "custom" and not self.ecef_to_enu:
            raise DataError("enu_ref: custom has no effect on local coordinates; add --ecef_to_enu")
        point = self.enu_ref_point
        if point is not None and not (abs(point.lat_deg) <= 90.0 and abs(point.lon_deg) <= 180.0):
            raise DataError(
                f"enu_ref_lat, enu_ref_lon: {point.lat_deg}, {point.lon_deg} are outside "
                "-90..90 and -180..180 degrees"
            )


def evenly_spaced(count: int, share: float) -> NDArray[np.bool_]:
    """Choose round(count * share) of `count` items, evenly spaced, never all of them.

    Returns:
        bool[count].
    """
    chosen = np.zeros(count, np.bool_)
    wanted = min(int(count * share + 0.5), count - 1)
    if wanted > 0:
        # Middles of equal intervals: the first and last photographs, which see the site's rim,
        # stay in training.
        chosen[((np.arange(wanted) + 0.5) * count / wanted).astype(np.int64)] = True
    return chosen


def prepare_dataset(
    data_path: Path,
    output_path: Path,
    settings: PrepareSettings,
    on_progress: Progress = lambda *_: None,
) -> Dataset:
    """Prepare a flight (COLMAP model and photographs) as a dataset.

    Args:
        data_path: folder with model/ and images/.
        output_path: the dataset's folder, made here.
        settings: see `PrepareSettings`.
        on_progress: called with (phase, done, total).

    Returns:
        The dataset, read back from disk.

    Raises:
        DataError: anything wrong with the input; nothing is left at output_path then.
        OSError: the disk is full or not writable; likewise.
    """
    _check_output(data_path, output_path, overwrite=settings.overwrite)
    on_progress("reading the model", 0, 1)
    model = read_model(data_path)
    on_progress("reading the model", 1, 1)
    check_coordinates(model, ecef_to_enu=settings.ecef_to_enu)
    lenses = undistortions(model.cameras)
    paths = find_photographs(data_path / "images", model.names)
    model, recentring = recentre(model)
    scene, frame, kept = _place(model, settings)
    photographs = make_photographs(model, scene, frame, lenses, paths)
    held_out = evenly_spaced(len(photographs), settings.val_split)
    _remove_leftovers(output_path)
    with _replacing(output_path, overwrite=settings.overwrite) as root:
        splits = {
            name: write_image_set(
                root,
                name,
                [photographs[i] for i in np.flatnonzero(chosen)],
                lambda done, total, name=name: on_progress(f"{name} photographs", done, total),
            )
            for name, chosen in (("train", ~held_out), ("val", held_out))
        }
        points = sparse_points(model, scene.points_m, frame, lenses, kept, np.ones_like(held_out))
        listing = DatasetRecord(
            format_version=FORMAT_VERSION,
            frame=FrameRecord.from_frame(frame),
            points=save_points(root, points),
            settings=_noted(settings, model, recentring, kept),
            train=splits["train"],
            val=splits["val"],
        )
        write_listing(root / DATASET_FILE, listing)
    return load_dataset(output_path)


def make_photographs(
    model: ColmapModel,
    scene: EnuScene,
    frame: SceneFrame,
    lenses: list[Undistortion],
    paths: list[Path],
) -> list[Photograph]:
    """Join names, paths, lenses and world poses, one `Photograph` per image of the model."""
    c2w = colmap_to_c2w(
        scene.rotations, scene.centres_m, frame.origin_drb_m, frame.pose_scale_factor_m
    )
    return [Photograph(*parts) for parts in zip(model.names, paths, lenses, c2w, strict=True)]


def _place(
    model: ColmapModel, settings: PrepareSettings
) -> tuple[EnuScene, SceneFrame, NDArray[np.bool_]]:
    """Return the model in ENU, the world frame, and which points are no outliers."""
    reference = None
    if settings.ecef_to_enu:
        reference = choose_reference(model, settings.enu_ref, settings.enu_ref_point)
    scene = to_enu(model, reference)
    low, height_m = settings.points_low_alt_percentile, settings.maximum_allowed_height_m
    kept = near_ground(scene.points_m, low, height_m)
    inliers = replace(scene, points_m=scene.points_m[kept])
    return scene, fit_frame(inliers, settings.scale_strategy, low, height_m), kept


def _noted(
    settings: PrepareSettings,
    model: ColmapModel,
    recentring: Recentring | None,
    kept: NDArray[np.bool_],
) -> dict[str, object]:
    """Return what the listing tells about how it was made."""
    noted = asdict(settings)
    del noted["overwrite"]
    return noted | {
        "images_without_pose": model.unposed,
        "points_dropped": int((~kept).sum()),
        "recentring": None if recentring is None else asdict(recentring),
        "undistorted_from": sorted({camera.model_name for camera in model.cameras}),
    }


def _check_output(data_path: Path, output_path: Path, *, overwrite: bool) -> None:
    source, target = data_path.resolve(), output_path.resolve()
    if target == source or target in source.parents:
        raise DataError(
            f"output_path: {output_path} holds the input {data_path}; choose a folder of its own"
        )
    if not output_path.exists():
        return
    if not overwrite:
        raise DataError(f"output_path: {output_path} exists; add --overwrite or choose another")
    if not (output_path / DATASET_FILE).is_file():
        raise DataError(
            f"output_path: {output_path} exists and is no prepared dataset ({DATASET_FILE} is "
            "missing), so --overwrite leaves it alone; choose another"
        )


def _remove_leftovers(target: Path) -> None:
    """Remove what a killed preparation of the same output left beside it."""
    if target.parent.is_dir():
        for path in target.parent.iterdir():
            if path.name.startswith(f"{atomic.TEMPORARY_PREFIX}{target.name}-"):
                shutil.rmtree(path)


@contextmanager
def _replacing(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a temporary folder that becomes `target` at the end, in place of an older dataset."""
    if not (overwrite and target.exists()):
        with atomic.new_folder(target) as folder:
            yield folder
        return
    suffix = uuid.uuid4().hex[:8]
    fresh = target.parent / f"{atomic.TEMPORARY_PREFIX}{target.name}-new-{suffix}"
    retired = target.parent / f"{atomic.TEMPORARY_PREFIX}{target.name}-old-{suffix}"
    with atomic.new_folder(fresh) as folder:
        yield folder
    target.rename(retired)
    fresh.rename(target)
    atomic.fsync_folder(target.parent)
    shutil.rmtree(retired)
