"""Owns loading a prepared dataset: ours, or one prepared for the reference system.

See `nerfcore.data.records` for the records and their frames, and `nerfcore.data.storage` for the
files. `scripts/prepare_dataset.py` writes datasets, `scripts/update_dataset.py` adds batches.
"""

from dataclasses import replace
from pathlib import Path

from nerfcore.atomic import TEMPORARY_PREFIX
from nerfcore.data.found_points import load_found_points
from nerfcore.data.records import Batch, Dataset, ImageSet, SceneFrame, SparsePoints
from nerfcore.data.reference import (
    is_reference_batch,
    is_reference_dataset,
    load_reference_batch,
    load_reference_dataset,
)
from nerfcore.data.storage import (
    BATCH_FILE,
    DATASET_FILE,
    BatchRecord,
    DatasetRecord,
    read_image_set,
    read_listing,
    read_points,
)
from nerfcore.errors import DataError

__all__ = [
    "Batch",
    "Dataset",
    "ImageSet",
    "SceneFrame",
    "SparsePoints",
    "load_batch",
    "load_dataset",
]


def load_dataset(root: Path, *, checksum: bool = False) -> Dataset:
    """Load a prepared dataset without decoding its photographs.

    Args:
        root: folder that holds dataset.json (or the reference system's coordinates.pt).
        checksum: also compare every photograph with its checksum (reads all of them).

    Raises:
        DataError: the folder, a listed file, the format version, a checksum or a shape is wrong.
    """
    batches = _load_batches(root / "continual", checksum=checksum)
    if (root / DATASET_FILE).is_file():
        dataset = _load_ours(root, batches, checksum=checksum)
    elif is_reference_dataset(root):
        dataset = load_reference_dataset(root, batches)
    else:
        raise DataError(
            f"{root}: not a prepared dataset ({DATASET_FILE} is missing); make it with "
            "scripts/prepare_dataset.py"
        )
    if dataset.points is not None:
        return dataset
    return replace(dataset, points=load_found_points(root, dataset.train))


def _load_ours(root: Path, batches: dict[str, Batch], *, checksum: bool) -> Dataset:
    listing = read_listing(root / DATASET_FILE, DatasetRecord)
    train = read_image_set(root, listing.train, checksum=checksum)
    if len(train) == 0:
        raise DataError(f"{root / DATASET_FILE}: train.images is empty; at least 1 is needed")
    return Dataset(
        root,
        listing.frame.to_frame(),
        train,
        read_image_set(root, listing.val, checksum=checksum),
        batches,
        read_points(root, listing.points),
    )


def load_batch(folder: Path, *, checksum: bool = False) -> Batch:
    """Load one later batch from its folder (the folder's name is the batch's).

    Raises:
        DataError: as `load_dataset`.
    """
    if not (folder / BATCH_FILE).is_file() and is_reference_batch(folder):
        batch = load_reference_batch(folder)
    else:
        listing = read_listing(folder / BATCH_FILE, BatchRecord)
        batch = Batch(
            folder.name,
            read_image_set(folder, listing.adapt, checksum=checksum),
            read_image_set(folder, listing.heldout, checksum=checksum),
            read_points(folder, listing.points),
        )
    if batch.points is not None:
        return batch
    return replace(batch, points=load_found_points(folder, batch.adapt))


def _load_batches(folder: Path, *, checksum: bool) -> dict[str, Batch]:
    if not folder.is_dir():
        return {}
    names = sorted(
        path.name
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(TEMPORARY_PREFIX)
    )
    return {name: load_batch(folder / name, checksum=checksum) for name in names}
