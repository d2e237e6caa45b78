"""Owns making anew those photographs of a finished dataset whose sources have changed since.

The poses are the same (the plan holds the model's checksum), so only pictures and masks change. New
files are written under new names, then dataset.json is replaced, then the old files go: a kill in
between leaves a whole dataset, old or new.
"""

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from nerfcore import atomic
from nerfcore.data.flight import Flight, require_photographs
from nerfcore.data.storage import (
    DATASET_FILE,
    DatasetRecord,
    ImageRecord,
    SplitRecord,
    read_listing,
    serialised,
)
from nerfcore.data.writing import Photograph, undistortions, write_photograph
from nerfcore.errors import DataError
from nerfcore.machine import usable_cores

Progress = Callable[[str, int, int], None]
_SPLITS = ("train", "val")


def remake_changed(root: Path, flight: Flight, on_progress: Progress) -> tuple[str, ...]:
    """Make the photographs anew whose source is another file now than was recorded.

    Args:
        root: a dataset made from this flight.
        flight: its source.
        on_progress: called with (phase, done, total).

    Returns:
        The names of those made anew.

    Raises:
        DataError: a source is missing or unreadable, or the dataset recorded none; the dataset is
            as before then.
    """
    require_photographs(flight.folder, flight.model.names, flight.paths)
    listing = read_listing(root / DATASET_FILE, DatasetRecord)
    sources = _sources(flight)
    changed = _changed(root, listing, sources, on_progress)
    if not changed:
        return ()
    written: list[Path] = []
    try:
        splits = {
            name: _remade(root, name, getattr(listing, name), changed, written) for name in _SPLITS
        }
        fresh = listing.model_copy(update=splits)
        for file in written:
            atomic.fsync_file(file)
        atomic.write_text(root / DATASET_FILE, serialised(fresh))
    except BaseException:
        for file in written:
            file.unlink(missing_ok=True)
        raise
    finally:
        for name in _SPLITS:
            with contextlib.suppress(OSError):  # stays unless it is empty
                (root / name / "valid").rmdir()
    for file in _files(listing) - _files(fresh):
        (root / file).unlink(missing_ok=True)
    return tuple(sorted(changed))


def _sources(flight: Flight) -> dict[str, Photograph]:
    """Return the source of each photograph by name; where it was taken plays no part here."""
    lenses, nowhere = undistortions(flight.model.cameras), np.eye(3, 4)
    parts = zip(flight.model.names, flight.paths, flight.masks, lenses, strict=True)
    return {name: Photograph(name, path, mask, lens, nowhere) for name, path, mask, lens in parts}


def _changed(
    root: Path, listing: DatasetRecord, sources: dict[str, Photograph], on_progress: Progress
) -> dict[str, tuple[Photograph, str]]:
    """Return the photographs whose source differs from its record, with its checksum now."""
    images = [*listing.train.images, *listing.val.images]
    unknown = [image.name for image in images if image.source_sha256 is None]
    if unknown:
        raise DataError(
            f"{root / DATASET_FILE}: records no source_sha256 for '{unknown[0]}' ({len(unknown)} "
            "such photographs), so changed ones cannot be told; add --overwrite"
        )
    changed = {}
    with ThreadPoolExecutor(usable_cores()) as pool:
        digests = pool.map(lambda image: sources[image.name].digest(), images)
        for done, (image, digest) in enumerate(zip(images, digests, strict=True), start=1):
            if digest != image.source_sha256:
                changed[image.name] = sources[image.name], digest
            on_progress("comparing photographs", done, len(images))
    return changed


def _remade(
    root: Path,
    folder: str,
    split: SplitRecord,
    changed: dict[str, tuple[Photograph, str]],
    written: list[Path],
) -> SplitRecord:
    """Write the changed photographs of a split under new names; note their files."""
    images: list[ImageRecord] = []
    for index, image in enumerate(split.images):
        if image.name not in changed:
            images.append(image)
            continue
        photograph, digest = changed[image.name]
        (root / folder / "valid").mkdir(exist_ok=True)
        pattern = f"{folder}/%s/{index:06d}-{digest[:8]}"
        written += [root / f"{pattern % part}{end}" for part, end in _endings(photograph)]
        images.append(write_photograph(root, pattern, photograph))
    return split.model_copy(update={"images": images})


def _endings(photograph: Photograph) -> list[tuple[str, str]]:
    """Return where `write_photograph` may write: folders and endings."""
    return [("rgbs", photograph.stored_suffix()), ("valid", ".png")]


def _files(listing: DatasetRecord) -> set[str]:
    images = [*listing.train.images, *listing.val.images]
    stored = [image.rgb.file for image in images]
    return {*stored, *(image.valid.file for image in images if image.valid is not None)}
