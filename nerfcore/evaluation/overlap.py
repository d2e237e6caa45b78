"""Owns refusing new images that look at no part of the site."""

import numpy as np

from nerfcore.data.partition import Partition
from nerfcore.data.records import ImageSet
from nerfcore.errors import DataError

PROBES = 5  # rays a side of an image
LEAST_BESIDE_M = 0.5  # nearer cameras count as over the site's ground


def require_overlap(images: ImageSet, partition: Partition, scale_m: float, what: str) -> None:
    """Refuse images none of which looks at the scene's box.

    Args:
        images: posed photographs.
        partition: its box is the site.
        scale_m: metres per world unit.
        what: names them in the error, e.g. "batch = batch_0001".

    Raises:
        DataError: none looks at the site; with the nearest camera's distance from its edge, or,
            where cameras stand over or under the site itself, that they look away from it.
    """
    if not len(images) or any(_looks_at(images, i, partition) for i in range(len(images))):
        return
    raise DataError(
        f"{what}: none of its {len(images)} images looks at the site; "
        f"{_nearest(images, partition, scale_m)}"
    )


def _nearest(images: ImageSet, partition: Partition, scale_m: float) -> str:
    """Where the nearest camera stands, and what mends it."""
    low, high = partition.aabb.astype(np.float64)
    centres = images.c2w[:, :, 3].astype(np.float64)
    outside_m = np.maximum(np.maximum(low - centres, centres - high), 0.0) * scale_m
    beside_m = np.linalg.norm(outside_m[:, 1:], axis=1)
    over = beside_m < LEAST_BESIDE_M
    if not over.any():
        return (
            f"the nearest camera is {beside_m.min():.0f} m from the site's edge; name images of "
            "this site, or check their poses"
        )
    nearest = np.flatnonzero(over)[outside_m[over, 0].argmin()]
    side = "above" if centres[nearest, 0] < low[0] else "below"
    return (
        f"cameras over its ground ({int(over.sum())}, the nearest {outside_m[nearest, 0]:.0f} m "
        f"{side} the site) look away from it; check which way their poses turn the camera (axes, "
        "alignment of the model), or name images that look at the site"
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
