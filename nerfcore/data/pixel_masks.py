"""Owns which experts own which pixels of an image, and the cache of it on disk.

Nothing needs the cache: `expert_pixels` computes what is not there. It holds one small file per
image, `masks/<name>/pixels/<split>/<id>.npz`, at every n-th pixel, one bit an expert. Partitions
made for the reference system bring masks of their own.
"""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nerfcore import atomic
from nerfcore.data.partition_record import Partition
from nerfcore.data.records import ImageSet
from nerfcore.data.reference_partition import is_reference_partition, read_reference_masks
from nerfcore.data.routing import ray_owners
from nerfcore.errors import DataError

PIXELS_FOLDER: Final = "pixels"
COMPACT_STRIDE: Final = 8
_REMAKE: Final = "remove it, it is only a cache"


def route_image(
    images: ImageSet,
    index: int,
    partition: Partition,
    ray_samples: int,
    *,
    stride: int = 1,
    center_pixels: bool = True,
) -> NDArray[np.bool_]:
    """Tell which experts own which pixels of an image, by the compiled kernel.

    Args:
        images, index: the image.
        partition: the experts.
        ray_samples: samples per ray inside the scene's box.
        stride: every so many pixels, the middle one of each block.
        center_pixels: rays pass through pixel centres, else through upper left corners.

    Returns:
        bool[h, w, K]; h, w = size / stride, rounded up where the last block's middle is inside.
    """
    width, height = int(images.widths_px[index]), int(images.heights_px[index])
    offset = 0.5 if center_pixels else 0.0
    fx, fy, cx, cy = images.intrinsics[index].astype(np.float64)
    u = (np.arange(stride // 2, width, stride) + offset - cx) / fx
    v = -(np.arange(stride // 2, height, stride) + offset - cy) / fy
    local = np.full((len(v), len(u), 3), -1.0)
    local[..., 0], local[..., 1] = u[None, :], v[:, None]
    pose = images.c2w[index].astype(np.float64)
    directions = (local.reshape(-1, 3) @ pose[:, :3].T).astype(np.float32)
    origins = np.broadcast_to(images.c2w[index, :, 3], directions.shape)
    owned = ray_owners(origins, directions, partition, ray_samples)
    return owned.reshape(len(v), len(u), len(partition))


def expert_pixels(
    folder: Path,
    partition: Partition,
    images: ImageSet,
    index: int,
    ray_samples: int = 256,
    *,
    stride: int = COMPACT_STRIDE,
) -> NDArray[np.bool_]:
    """Return which experts own which pixels, from the cache where there is one.

    Args:
        folder: the partition's, masks/<name>.
        partition, images, index: the experts and the image.
        ray_samples, stride: for what has to be computed; what is stored has its own.

    Returns:
        bool[K, h, w], all of the image at some resolution.

    Raises:
        DataError: what is stored is damaged.
    """
    path = images.paths[index]
    if is_reference_partition(folder):
        stored = read_reference_masks(folder, path.stem, len(partition))
    else:
        stored = _read(_cache_file(folder, path), len(partition))
    if stored is not None:
        return stored
    routed = route_image(images, index, partition, ray_samples, stride=stride)
    return np.moveaxis(routed, -1, 0)


def write_pixel_masks(
    folder: Path,
    partition: Partition,
    images: ImageSet,
    ray_samples: int,
    *,
    stride: int,
    center_pixels: bool,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> None:
    """Fill the cache for a set of images; files that are there already are kept.

    Args:
        folder: the partition's, masks/<name>.
        partition, images, ray_samples, stride, center_pixels: see `route_image`.
        on_progress: called with (images done, images in all).
    """
    for index, path in enumerate(images.paths):
        file = _cache_file(folder, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.is_file():
            routed = route_image(
                images, index, partition, ray_samples, stride=stride, center_pixels=center_pixels
            )
            masks = np.ascontiguousarray(np.moveaxis(routed, -1, 0))
            content = io.BytesIO()
            np.savez_compressed(
                content, bits=np.packbits(masks, axis=None), shape=np.array(masks.shape, np.int32)
            )
            atomic.write_bytes(file, content.getvalue())
        on_progress(index + 1, len(images))


def _cache_file(folder: Path, photograph: Path) -> Path:
    """Return the cache file of a stored photograph, <split>/rgbs/<id>.jpg."""
    return folder / PIXELS_FOLDER / photograph.parent.parent.name / f"{photograph.stem}.npz"


def _read(file: Path, experts: int) -> NDArray[np.bool_] | None:
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as archive:
            bits, shape = archive["bits"], tuple(int(size) for size in archive["shape"])
        count = int(np.prod(shape))
        masks = np.unpackbits(bits, count=count).reshape(shape).astype(np.bool_)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{file}: unreadable ({error}); {_REMAKE}") from error
    if masks.ndim != 3 or len(masks) != experts:
        raise DataError(f"{file}: {list(masks.shape)} for {experts} experts; {_REMAKE}")
    return masks
