"""Owns sparse points that were found after a dataset was prepared, stored beside it.

    <dataset or batch>/sparse/points.npz     as in `nerfcore.data.storage`
    <dataset or batch>/sparse/points.json    format_version, checksum, and of which cameras

Only a dataset without points of its own has them. They hold for the poses they were found with:
a folder whose cameras have changed since is refused, not used.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Final

import numpy as np

from nerfcore import atomic
from nerfcore.data.records import ImageSet, SparsePoints
from nerfcore.data.storage import (
    FORMAT_VERSION,
    FoundPointsRecord,
    describe_file,
    read_listing,
    read_points,
    write_listing,
    write_points,
)
from nerfcore.errors import DataError

FOLDER: Final = "sparse"
_LISTING: Final = "points.json"
_POINTS: Final = "points.npz"


def save_found_points(folder: Path, images: ImageSet, points: SparsePoints) -> Path:
    """Store points beside a dataset or batch, in place of older ones.

    Args:
        folder: the dataset's or the batch's.
        images: what they were found in.
        points: the points.

    Returns:
        The folder they lie in.
    """
    target = folder / FOLDER
    shutil.rmtree(target, ignore_errors=True)
    with atomic.new_folder(target) as temporary:
        write_points(temporary / _POINTS, points)
        listing = FoundPointsRecord(
            format_version=FORMAT_VERSION,
            points=describe_file(temporary, _POINTS),
            cameras_sha256=_cameras_digest(images),
        )
        write_listing(temporary / _LISTING, listing)
    return target


def load_found_points(folder: Path, images: ImageSet) -> SparsePoints | None:
    """Return the points stored beside a dataset or batch, None when there are none.

    Args:
        folder: the dataset's or the batch's.
        images: what they must have been found in.

    Raises:
        DataError: a file is damaged, or the cameras are others now.
    """
    listing_file = folder / FOLDER / _LISTING
    if not listing_file.is_file():
        return None
    listing = read_listing(listing_file, FoundPointsRecord)
    if listing.cameras_sha256 != _cameras_digest(images):
        raise DataError(
            f"{listing_file}: cameras_sha256: these points were found with other cameras than the "
            "dataset has now; remove the folder and run scripts/triangulate_points.py again"
        )
    return read_points(listing_file.parent, listing.points)


def _cameras_digest(images: ImageSet) -> str:
    """Return what tells one set of posed photographs from another."""
    sizes = np.stack([images.widths_px, images.heights_px], axis=1).astype("<i4")
    parts = "\n".join(images.names).encode(), sizes.tobytes()
    poses = images.c2w.astype("<f4").tobytes(), images.intrinsics.astype("<f4").tobytes()
    return hashlib.sha256(b"\0".join((*parts, *poses))).hexdigest()
