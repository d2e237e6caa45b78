"""Owns the bulk reading of a binary COLMAP model's observations.

pycolmap hands observations out one object at a time, which for millions of them takes gigabytes
and longer than everything else; images.bin holds them as plain arrays.
"""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_OBSERVATION = np.dtype([("xy", "<f8", 2), ("point", "<u8")])
_NO_POINT = np.uint64(2**64 - 1)
_FIXED_BYTES = 64  # id, quaternion, translation, camera id


def read_observations(
    images_bin: Path, rows: dict[int, int], points: NDArray[np.uint64]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """Read which image sees which point where.

    Args:
        images_bin: a whole images.bin (see `colmap_check.check_model_files`).
        rows: for each image id, its row; images not named are left out.
        points: u64[P], ids of the points; observations of others are left out.

    Returns:
        Image rows i32[T] (ascending), point rows i32[T], pixels f64[T, 2] (centres at +0.5).
    """
    content = images_bin.read_bytes()
    order = np.argsort(points, kind="stable")
    found: dict[int, tuple[NDArray[np.int32], NDArray[np.float64]]] = {}
    position = 8
    for _ in range(struct.unpack_from("<Q", content)[0]):
        (image_id,) = struct.unpack_from("<I", content, position)
        position = content.index(b"\0", position + _FIXED_BYTES) + 1
        (count,) = struct.unpack_from("<Q", content, position)
        if image_id in rows:
            listed = np.frombuffer(content, _OBSERVATION, count, position + 8)
            found[rows[image_id]] = _seen(listed, points, order)
        position += 8 + _OBSERVATION.itemsize * count
    image_ids = [np.full(len(found[row][0]), row, np.int32) for row in sorted(found)]
    return (
        np.concatenate([*image_ids, np.empty(0, np.int32)]),
        np.concatenate([*(found[row][0] for row in sorted(found)), np.empty(0, np.int32)]),
        np.concatenate([*(found[row][1] for row in sorted(found)), np.empty((0, 2))]),
    )


def _seen(
    listed: NDArray[np.void], points: NDArray[np.uint64], order: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return point rows i32[n] and pixels f64[n, 2] of the observations of known points."""
    listed = listed[listed["point"] != _NO_POINT]
    if len(points) == 0:
        return np.empty(0, np.int32), np.empty((0, 2))
    places = np.searchsorted(points, listed["point"], sorter=order)
    candidates = order[np.minimum(places, len(points) - 1)]
    known = points[candidates] == listed["point"]
    return candidates[known].astype(np.int32), listed["xy"][known]
