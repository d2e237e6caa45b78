"""Owns protocol "half": the left halves of images are adapted to, the right ones scored.

Nothing of the right halves may help the adaptation: neither pixels nor the sparse points that only
they see.

Source: Turki et al. 2022, "Mega-NeRF": test images' left halves fit their appearance.
"""

from dataclasses import replace
from typing import Literal

import numpy as np

from nerfcore.data.images import ImageStore
from nerfcore.data.records import ImageSet, SparsePoints

Side = Literal["left", "right"]


def keep_half(store: ImageStore, side: Side) -> None:
    """Make only one half of each image of a store valid; an odd middle column goes right."""
    valid = store.valid
    if valid is None:
        valid = np.ones(len(store.pixels), np.bool_)
        store.valid = valid
    for index in range(len(store)):
        height, width = int(store.heights[index]), int(store.widths[index])
        start = int(store.offsets[index])
        mask = store.valid_mask(index).copy()
        half = slice(width // 2, None) if side == "left" else slice(None, width // 2)
        mask[:, half] = False
        valid[start : start + height * width] = mask.reshape(-1)


def left_points(points: SparsePoints, images: ImageSet) -> SparsePoints:
    """Return the points that the left half of one of the images sees, without their tracks.

    Args:
        points: with tracks; a point without any is left out.
        images: photographs, found in the tracks by name.
    """
    middles = dict(zip(images.names, images.widths_px // 2, strict=True))
    limits = np.array([middles.get(name, 0) for name in points.image_names], np.float32)
    left = points.xy_px[:, 0] < limits[points.image_ids]
    kept = np.unique(points.point_ids[left])
    return replace(
        points,
        xyz=points.xyz[kept],
        rgb=points.rgb[kept],
        error_px=points.error_px[kept],
        track_lengths=points.track_lengths[kept],
        image_ids=points.image_ids[:0],
        point_ids=points.point_ids[:0],
        xy_px=points.xy_px[:0],
    )
