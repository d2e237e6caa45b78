"""Owns the bulk reading of a COLMAP model's observations.

pycolmap hands observations out one object at a time, which for millions of them takes gigabytes
and longer than everything else; images.bin holds them as plain arrays, images.txt as lines of them.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nerfcore.data.colmap_text import read_text_observations

_OBSERVATION = np.dtype([("xy", "<f8", 2), ("point", "<i8")])
_FIXED_BYTES = 64  # id, quaternion, translation, camera id


def read_observations(
    images_file: Path, rows: dict[int, int], points: NDArray[np.uint64]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """Read which image sees which point where.

    Args:
        images_file: a whole images.bin or images.txt (see `colmap_check.check_model_files`).
        rows: for each image id, its row; images not named are left out.
        points: u64[P], ids of the points; observations of others are left out.

    Returns:
        Image rows i32[T] (ascending), point rows i32[T], pixels f64[T, 2] (centres at +0.5).
    """
    order = np.argsort(points, kind="stable")
    read = _read_binary if images_file.suffix == ".bin" else read_text_observations
    found = {
        rows[image_id]: _seen(xy_px, listed, points, order)
        for image_id, xy_px, listed in read(images_file)
        if image_id in rows
    }
    image_ids = [np.full(len(found[row][0]), row, np.int32) for row in sorted(found)]
    return (
        np.concatenate([*image_ids, np.empty(0, np.int32)]),
        np.concatenate([*(found[row][0] for row in sorted(found)), np.empty(0, np.int32)]),
        np.concatenate([*(found[row][1] for row in sorted(found)), np.empty((0, 2))]),
    )


def _read_binary(
    images_bin: Path,
) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.int64]]]:
    """Yield each image's id, observed pixels f64[n, 2] and point ids i64[n] (-1 = no point)."""
    content = images_bin.read_bytes()
    position = 8
    for _ in range(struct.unpack_from("<Q", content)[0]):
        (image_id,) = struct.unpack_from("<I", content, position)
        position = content.index(b"\0", position + _FIXED_BYTES) + 1
        (count,) = struct.unpack_from("<Q", content, position)
        listed = np.frombuffer(content, _OBSERVATION, count, position + 8)
        yield image_id, listed["xy"], listed["point"]
        position += 8 + _OBSERVATION.itemsize * count


def _seen(
    xy_px: NDArray[np.float64],
    listed: NDArray[np.int64],
    points: NDArray[np.uint64],
    order: NDArray[np.int64],
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return point rows i32[n] and pixels f64[n, 2] of the observations of known points."""
    has_point = listed >= 0
    xy_px, ids = xy_px[has_point], listed[has_point].astype(np.uint64)
    if len(points) == 0:
        return np.empty(0, np.int32), np.empty((0, 2))
    places = np.searchsorted(points, ids, sorter=order)
    candidates = order[np.minimum(places, len(points) - 1)]
    known = points[candidates] == ids
    return candidates[known].astype(np.int32), xy_px[known]
