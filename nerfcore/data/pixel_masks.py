"""Owns which experts own which pixels of an image, and the store of it on disk.

Training computes it as it goes and needs no store; it is there for other tools, and the survey
compares it with what is computed. It holds one small file per image, at every n-th pixel, one bit
an expert, and is made anew when anything it follows from has changed:

    masks/<name>/pixels/settings.json       how, and checksums of the partition and the cameras
    masks/<name>/pixels/<split>/<id>.npz    bits, shape [K, h, w]

Partitions made for the reference system bring masks of their own.
"""

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

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
_SETTINGS_FILE: Final = "settings.json"
_REMAKE: Final = "remove it, it is only a cache"


@dataclass(frozen=True)
class MaskSettings:
    """How masks are computed: see `route_image`.

    Attributes:
        ray_samples: samples per ray inside the scene's box.
        stride: every so many pixels.
        center_pixels: rays pass through pixel centres.
    """

    ray_samples: int
    stride: int
    center_pixels: bool


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


def stored_pixels(
    folder: Path, partition: Partition, images: ImageSet, index: int
) -> NDArray[np.bool_] | None:
    """Return which experts own which pixels, as stored: ours, or the reference system's.

    Args:
        folder: the partition's, masks/<name>.
        partition, images, index: the experts and the image.

    Returns:
        bool[K, h, w], all of the image at some resolution; None when nothing is stored.

    Raises:
        DataError: what is stored is damaged.
    """
    path = images.paths[index]
    if is_reference_partition(folder):
        return read_reference_masks(folder, path.stem, len(partition))
    return _read(_cache_file(folder, path), len(partition))


def write_pixel_masks(
    folder: Path,
    partition: Partition,
    sets: Sequence[ImageSet],
    how: MaskSettings,
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
) -> None:
    """Store the masks of all images; those that a like run has stored already are kept.

    Args:
        folder: the partition's, masks/<name>.
        partition: the experts.
        sets: the images; each set's photographs lie in a folder of its own.
        how: see `MaskSettings`.
        on_progress: called with (phase, images done, images in all).
    """
    settings = json.dumps(_described(partition, sets, how), indent=1) + "\n"
    file = folder / PIXELS_FOLDER / _SETTINGS_FILE
    if not file.is_file() or file.read_text(errors="replace") != settings:
        shutil.rmtree(file.parent, ignore_errors=True)
        file.parent.mkdir()
        atomic.write_text(file, settings)
    for images in sets:
        for index, path in enumerate(images.paths):
            stored = _cache_file(folder, path)
            stored.parent.mkdir(parents=True, exist_ok=True)
            if not stored.is_file():
                atomic.write_bytes(stored, _packed(images, index, partition, how))
            on_progress(f"{stored.parent.name} masks", index + 1, len(images))


def _described(partition: Partition, sets: Sequence[ImageSet], how: MaskSettings) -> dict[str, Any]:
    """Return what the masks follow from."""
    p = partition
    of_partition = (p.centroids, p.box_mins, p.box_maxs, p.aabb)
    flags = f"{p.cluster_2d} {p.boundary_margin!r}"
    return {
        "format_version": 1,
        **asdict(how),
        "partition_sha256": _digest(of_partition, flags),
        "cameras_sha256": _digest(
            [array for one in sets for array in (one.c2w, one.intrinsics, one.widths_px)],
            "\n".join(str(path.name) for one in sets for path in one.paths),
        ),
    }


def _digest(arrays: Iterable[NDArray[Any]], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _packed(images: ImageSet, index: int, partition: Partition, how: MaskSettings) -> bytes:
    routed = route_image(
        images, index, partition, how.ray_samples, stride=how.stride,
        center_pixels=how.center_pixels,
    )  # fmt: skip
    masks = np.ascontiguousarray(np.moveaxis(routed, -1, 0))
    content = io.BytesIO()
    np.savez_compressed(
        content, bits=np.packbits(masks, axis=None), shape=np.array(masks.shape, np.int32)
    )
    return content.getvalue()


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
