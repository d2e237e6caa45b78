"""Owns telling which source a stored photograph was made from, by content and not by name."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nerfcore.data.records import Dataset, ImageSet
from nerfcore.data.storage import (
    BATCH_FILE,
    DATASET_FILE,
    BatchRecord,
    DatasetRecord,
    SplitRecord,
    read_listing,
)


@dataclass(frozen=True, eq=False)
class Stored:
    """A photograph of a dataset.

    Attributes:
        name: in its source model.
        batch: the batch it belongs to, None = the first flight.
        centre: f32[3], where it was taken, world.
    """

    name: str
    batch: str | None
    centre: NDArray[np.float32]


def source_digest(photograph: Path, mask: Path | None, content: bytes | None = None) -> str:
    """Return what tells a source's content: its file's SHA-256, or that of both with a mask.

    Args:
        photograph: its file.
        mask: which pixels are left out, None = all count.
        content: the photograph's file, where it is at hand.
    """
    digest = hashlib.sha256(photograph.read_bytes() if content is None else content)
    if mask is not None:
        digest = hashlib.sha256(digest.digest() + mask.read_bytes())
    return digest.hexdigest()


def stored_sources(dataset: Dataset) -> dict[str, list[Stored]]:
    """Return the photographs of a dataset and its batches by their source's checksum.

    Those of the reference system are not among them: it records no source.
    """
    found: dict[str, list[Stored]] = {}
    file = dataset.root / DATASET_FILE
    if file.is_file():
        listing = read_listing(file, DatasetRecord)
        _add(found, listing.train, dataset.train, None)
        _add(found, listing.val, dataset.val, None)
    for name, batch in dataset.batches.items():
        file = dataset.root / "continual" / name / BATCH_FILE
        if file.is_file():
            listing = read_listing(file, BatchRecord)
            _add(found, listing.adapt, batch.adapt, name)
            _add(found, listing.heldout, batch.heldout, name)
    return found


def _add(
    found: dict[str, list[Stored]], split: SplitRecord, images: ImageSet, batch: str | None
) -> None:
    for image, pose in zip(split.images, images.c2w, strict=True):
        if image.source_sha256 is not None:
            stored = Stored(image.name, batch, pose[:, 3])
            found.setdefault(image.source_sha256, []).append(stored)
