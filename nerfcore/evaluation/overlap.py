"""Owns refusing new images that look at no part of the site."""

import numpy as np

from nerfcore.data.partition import Partition
from nerfcore.data.records import ImageSet
from nerfcore.errors import DataError

PROBES = 5  # rays a side of an image


def require_overlap(images: ImageSet, partition: Partition, scale_m: float, what: str) -> None:
    """Refuse images none of which looks at the scene's box.

    Args:
        images: posed photographs.
        partition: its box is the site.
        scale_m: metres per world unit.
        what: names them in the error, e.g. "batch = batch_0001".

    Raises:
        DataError: none looks at the site; with the distance of the nearest camera from its box.
    """
    if not len(images) or any(_looks_at(images, i, partition) for i in range(len(images))):
        return
    low, high = partition.aabb[:, 1:].astype(np.float64)
    centres = images.c2w[:, 1:, 3].astype(np.float64)
    outside = np.maximum(np.maximum(low - centres, centres - high), 0.0)
    distance_m = float(np.linalg.norm(outside, axis=1).min()) * scale_m
    raise DataError(
        f"{what}: none of its {len(images)} images looks at the site; the nearest camera is "
        f"{distance_m:.0f} m from the site's edge; name images of this site"
    )


def _looks_at(images: ImageSet, index: int, partition: Partition) -> bool:
    """Whether some ray of an image meets the scene's box."""
    fx, fy, cx, cy = images.intrinsics[index].astype(np.float64)
    share = (np.arange(PROBES) + 0.5) / PROBES
    x = (share * float(images.widths_px[index]) - cx) / fx
    y = -(share * float(images.heights_px[index]) - cy) / fy
    camera = np.stack([*np.meshgrid(x, y), -np.ones((PROBES, PROBES))], axis=-1).reshape(-1, 3)
    pose = images.c2w[index].astype(np.float64)
    directions, origin = camera @ pose[:, :3].T, pose[:, 3]
    safe = np.where(np.abs(directions) < 1e-12, 1e-12, directions)
    ends = (partition.aabb.astype(np.float64)[:, None, :] - origin) / safe
    begin, end = ends.min(0).max(1), ends.max(0).min(1)
    return bool((end >= np.maximum(begin, 0.0)).any())
