"""Makes ray batches from pixel indices: no ray is ever stored.

A pixel is one index into the flat buffer of an `ImageStore`; its ray goes through the pixel's
centre (+0.5). World frame DRB, camera axes RUB.
"""

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from nerfcore.compiled import EXACT
from nerfcore.data.images import ImageStore
from nerfcore.errors import DataError


@dataclass(frozen=True)
class RayBatch:
    """Rays with their true colours.

    Attributes:
        origins, directions: f32[R, 3], world, unit directions.
        rgbs: f32[R, 3], sRGB in [0, 1].
        image_ids: i64[R], into the store.
    """

    origins: NDArray[np.float32]
    directions: NDArray[np.float32]
    rgbs: NDArray[np.float32]
    image_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.origins)


@numba.njit(parallel=True, **EXACT)
def _rays(flat, images, offsets, widths, intrinsics, c2w, origins, directions):  # type: ignore[no-untyped-def]
    for r in numba.prange(flat.shape[0]):
        image = images[r]
        local = flat[r] - offsets[image]
        row, column = local // widths[image], local % widths[image]
        x = (column + 0.5 - intrinsics[image, 2]) / intrinsics[image, 0]
        y = -(row + 0.5 - intrinsics[image, 3]) / intrinsics[image, 1]
        norm = 1.0 / np.sqrt(x * x + y * y + 1.0)
        for axis in range(3):
            value = c2w[image, axis, 0] * x + c2w[image, axis, 1] * y - c2w[image, axis, 2]
            directions[r, axis] = value * norm
            origins[r, axis] = c2w[image, axis, 3]


def rays_of(store: ImageStore, flat: NDArray[np.int64]) -> RayBatch:
    """Make the rays of pixels given by their index in `store.pixels`."""
    images = np.searchsorted(store.offsets, flat, side="right") - 1
    origins = np.empty((len(flat), 3), np.float32)
    directions = np.empty((len(flat), 3), np.float32)
    _rays(
        flat,
        images,
        store.offsets,
        store.widths,
        store.intrinsics,
        store.c2w,
        origins,
        directions,
    )
    rgbs = store.pixels[flat].astype(np.float32) / np.float32(255.0)
    return RayBatch(origins, directions, rgbs, images.astype(np.int64))


class PixelSampler:
    """Draws valid pixels uniformly over all images of a store.

    Raises:
        DataError: no pixel is valid.
    """

    def __init__(self, store: ImageStore, rng: np.random.Generator) -> None:
        if not any(store.valid_mask(image).any() for image in range(len(store))):
            raise DataError(
                f"downscale: at this size none of the {len(store)} photographs has a pixel that is "
                "wholly valid; raise it, or check the masks"
            )
        self.store = store
        self.rng = rng

    def draw(self, count: int) -> RayBatch:
        """Draw `count` rays with replacement."""
        return rays_of(self.store, self.draw_flat(count))

    def draw_flat(self, count: int) -> NDArray[np.int64]:
        """Draw `count` indices of valid pixels."""
        total = len(self.store.pixels)
        flat = self.rng.integers(0, total, count)
        if self.store.valid is None:
            return flat
        wrong = np.flatnonzero(~self.store.valid[flat])
        while len(wrong):
            flat[wrong] = self.rng.integers(0, total, len(wrong))
            wrong = wrong[~self.store.valid[flat[wrong]]]
        return flat


def joined(batches: list[RayBatch]) -> RayBatch:
    """Concatenate ray batches (image ids keep their own store's meaning)."""
    return RayBatch(
        np.concatenate([b.origins for b in batches]),
        np.concatenate([b.directions for b in batches]),
        np.concatenate([b.rgbs for b in batches]),
        np.concatenate([b.image_ids for b in batches]),
    )
