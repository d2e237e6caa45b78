"""Owns adding a later flight to a prepared dataset as a batch, all or nothing.

Images of the new model whose names the dataset does not hold become `continual/batch_%04d`, placed
with the dataset's stored origin, scale and ENU reference. Images it does hold are only used to
check that both models share one frame.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nerfcore import atomic
from nerfcore.data.colmap import ColmapModel, read_model
from nerfcore.data.dataset import load_batch, load_dataset
from nerfcore.data.placing import EnuScene, check_coordinates, near_ground, to_enu
from nerfcore.data.prepare import Progress, evenly_spaced, make_photographs
from nerfcore.data.recentre import recentre
from nerfcore.data.records import Batch, Dataset, SparsePoints
from nerfcore.data.storage import BATCH_FILE, FORMAT_VERSION, BatchRecord, write_listing
from nerfcore.data.writing import (
    Photograph,
    find_photographs,
    save_points,
    sparse_points,
    undistortions,
    write_image_set,
)
from nerfcore.errors import DataError

MAX_DISAGREEMENT: Final = 0.02  # world units between old and new pose of a shared image (median)
MAX_DISTANCE: Final = 10.0  # world units between a new camera and the scene's origin
GROUND_QUANTILE: Final = 0.01
MAX_HEIGHT_M: Final = 200.0


def update_dataset(
    data_path: Path,
    update_path: Path,
    *,
    heldout_split: float = 0.25,
    ecef_to_enu: bool | None = None,
    on_progress: Progress = lambda *_: None,
) -> Batch:
    """Add the new images of a later flight as the dataset's next batch.

    Args:
        data_path: the prepared dataset's folder.
        update_path: folder with model/ and images/; only the new images need to be there.
        heldout_split: share of the batch kept for scoring, 0 <= x < 1, evenly spaced.
        ecef_to_enu: what the user says about the model; None = as the dataset was prepared.
        on_progress: called with (phase, done, total).

    Returns:
        The batch, read back from disk.

    Raises:
        DataError: anything wrong with the input, no new image, or a model in another frame; the
            dataset is as before then.
    """
    if not 0.0 <= heldout_split < 1.0:
        raise DataError(f"heldout_split: {heldout_split} is outside 0 <= heldout_split < 1")
    dataset = load_dataset(data_path)
    model = read_model(update_path)
    _check_coordinates(dataset, model, ecef_to_enu)
    lenses = undistortions(model.cameras)
    model, recentring = recentre(model)
    scene = to_enu(model, dataset.frame.enu_ref)
    new = _new_images(dataset, model, update_path)
    _check_frame(dataset, model, scene, new)
    heldout = np.zeros_like(new)
    heldout[np.flatnonzero(new)[evenly_spaced(int(new.sum()), heldout_split)]] = True
    found = iter(
        find_photographs(update_path / "images", [model.names[i] for i in np.flatnonzero(new)])
    )
    paths = [next(found) if is_new else Path() for is_new in new]
    photographs = make_photographs(model, scene, dataset.frame, lenses, paths)
    kept = _points_seen(model, scene, new & ~heldout)
    points = sparse_points(model, scene.points_m, dataset.frame, lenses, kept, new & ~heldout)
    settings = {
        "heldout_split": heldout_split,
        "recentring": None if recentring is None else asdict(recentring),
    }
    target = data_path / "continual" / _next_name(dataset)
    atomic.remove_leftovers(target.parent)
    chosen = {
        "adapt": [photographs[i] for i in np.flatnonzero(new & ~heldout)],
        "heldout": [photographs[i] for i in np.flatnonzero(heldout)],
    }
    _write_batch(target, chosen, points, settings, on_progress)
    return load_batch(target)


def _write_batch(
    target: Path,
    chosen: dict[str, list[Photograph]],
    points: SparsePoints | None,
    settings: dict[str, object],
    on_progress: Progress,
) -> None:
    with atomic.new_folder(target) as root:
        splits = {
            name: write_image_set(
                root,
                name,
                photographs,
                lambda done, total, name=name: on_progress(f"{name} photographs", done, total),
            )
            for name, photographs in chosen.items()
        }
        listing = BatchRecord(
            format_version=FORMAT_VERSION,
            points=save_points(root, points),
            settings=settings,
            adapt=splits["adapt"],
            heldout=splits["heldout"],
        )
        write_listing(root / BATCH_FILE, listing)


def _check_coordinates(dataset: Dataset, model: ColmapModel, ecef_to_enu: bool | None) -> None:
    reference = dataset.frame.enu_ref
    if ecef_to_enu is not None and ecef_to_enu != (reference is not None):
        made = "local coordinates" if reference is None else "ECEF"
        mend = "leave it out" if reference is None else "add it"
        raise DataError(f"ecef_to_enu: the dataset was prepared from {made}; {mend}")
    check_coordinates(model, ecef_to_enu=reference is not None)


def _new_images(dataset: Dataset, model: ColmapModel, update_path: Path) -> NDArray[np.bool_]:
    known = {*dataset.train.names, *dataset.val.names}
    for batch in dataset.batches.values():
        known |= {*batch.adapt.names, *batch.heldout.names}
    new = np.array([name not in known for name in model.names])
    if not new.any():
        raise DataError(
            f"{update_path}: 0 of {len(new)} images are new, the dataset holds them all; nothing "
            "to add (was this batch added before?)"
        )
    return new


def _check_frame(
    dataset: Dataset, model: ColmapModel, scene: EnuScene, new: NDArray[np.bool_]
) -> None:
    centres = dataset.frame.enu_m_to_world(scene.centres_m)
    scale_m = dataset.frame.pose_scale_factor_m
    stored = {
        name: position
        for images in (dataset.train, dataset.val)
        for name, position in zip(images.names, images.c2w[:, :, 3], strict=True)
    }
    shared = [i for i, name in enumerate(model.names) if name in stored]
    if shared:
        old = np.array([stored[model.names[i]] for i in shared])
        apart = float(np.median(np.linalg.norm(centres[shared] - old, axis=1)))
        if apart > MAX_DISAGREEMENT:
            raise DataError(
                f"{model.folder}: {len(shared)} images shared with the dataset lie "
                f"{apart * scale_m:.2f} m off (median; at most {MAX_DISAGREEMENT * scale_m:.2f} "
                "m); align the new model to the old one, for example with COLMAP's model_aligner"
            )
    far = float(np.linalg.norm(centres[new], axis=1).max())
    if far > MAX_DISTANCE:
        raise DataError(
            f"{model.folder}: a new camera lies {far * scale_m:.0f} m from the scene's middle (at "
            f"most {MAX_DISTANCE * scale_m:.0f} m); is it another place or another frame?"
        )


def _next_name(dataset: Dataset) -> str:
    numbers = [
        int(name.removeprefix("batch_"))
        for name in dataset.batches
        if name.removeprefix("batch_").isdigit()
    ]
    return f"batch_{max(numbers, default=0) + 1:04d}"


def _points_seen(
    model: ColmapModel, scene: EnuScene, images: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Tell which points, outliers aside, at least one of these images sees."""
    seen = np.zeros(len(scene.points_m), np.bool_)
    seen[model.points.point_ids[images[model.points.image_ids]]] = True
    return seen & near_ground(scene.points_m, GROUND_QUANTILE, MAX_HEIGHT_M)
