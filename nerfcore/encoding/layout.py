"""Owns the memory layout of a hash-grid table, shared by every backend.

The layout is tiny-cuda-nn's: level l has scale s_l = base * growth^l - 1 and resolution
r_l = ceil(s_l) + 1; a point x in [0, 1]^3 lies at p = x * s_l + 0.5. A level whose r_l^3 grid
points fit in 2^log2_size rows is stored densely (index = x + y r + z r^2); a larger one is hashed,
index = (x ^ y * 2654435761 ^ z * 805459861) mod 2^log2_size. Levels follow one another, each
padded to a multiple of 8 rows. Source: Mueller et al. 2022, "Instant Neural Graphics Primitives".
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nerfcore.settings import HashGridSettings

PRIMES = (1, 2654435761, 805459861)


@dataclass(frozen=True)
class GridLayout:
    """Where each level of a table lies.

    Attributes:
        scales: f32[L], multiplier from unit coordinates to grid coordinates.
        resolutions: i32[L], grid points along an axis.
        offsets: i64[L + 1], first row of each level; the last entry is the row count.
        dense: bool[L], stored densely rather than hashed.
        features: features a row.
    """

    scales: NDArray[np.float32]
    resolutions: NDArray[np.int32]
    offsets: NDArray[np.int64]
    dense: NDArray[np.bool_]
    features: int

    @property
    def levels(self) -> int:
        return len(self.scales)

    @property
    def rows(self) -> int:
        return int(self.offsets[-1])

    @property
    def width(self) -> int:
        """Features of one encoded point: levels * features."""
        return self.levels * self.features


def grid_layout(settings: HashGridSettings) -> GridLayout:
    """Compute the layout of a table for these settings."""
    limit = 1 << settings.log2_size
    scales, resolutions, sizes, dense = [], [], [], []
    for level in range(settings.levels):
        scale = settings.base_resolution * settings.growth**level - 1.0
        resolution = math.ceil(scale) + 1
        points = resolution**3
        is_dense = points <= limit
        sizes.append(min(limit, -(-points // 8) * 8) if is_dense else limit)
        scales.append(scale)
        resolutions.append(resolution)
        dense.append(is_dense)
    return GridLayout(
        np.array(scales, np.float32),
        np.array(resolutions, np.int32),
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        np.array(dense),
        settings.features,
    )
