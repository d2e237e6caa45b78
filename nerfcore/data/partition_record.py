"""Owns the in-memory record of a scene's partition into experts.

World frame DRB (index 0 vertical, positive down; 1 and 2 horizontal), scaled units. Expert c owns a
point x when d_c(x)^2 <= boundary_margin^2 * min_k d_k(x)^2, so neighbours overlap near borders.
With `cluster_2d` distances use the horizontal axes only.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_EMPTY_SHARE: Final = 1e-3  # of the scene's box: what the box of an expert without space measures


@dataclass(frozen=True, eq=False)
class Partition:
    """Which expert owns which part of the scene.

    Attributes:
        name: folder name below `masks/`.
        centroids: f32[K, 3], world.
        box_mins, box_maxs: f32[K, 3], each expert's box: the extent of what it owns, inside `aabb`.
        aabb: f32[2, 3], the whole scene's box (minimum, maximum).
        cluster_2d: distances use the horizontal axes only.
        boundary_margin: >= 1, how far experts overlap.
        grid_dim: cells per axis: 2 values = axes 1 and 2, 3 values = axes 0, 1 and 2, 1 value =
            so many experts that form no grid.
    """

    name: str
    centroids: NDArray[np.float32]
    box_mins: NDArray[np.float32]
    box_maxs: NDArray[np.float32]
    aabb: NDArray[np.float32]
    cluster_2d: bool
    boundary_margin: float
    grid_dim: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.centroids)


def empty_box(
    centroid: NDArray[np.floating], aabb: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a tiny box inside the scene's, nearest to an expert that owns nothing in it.

    Args:
        centroid: [3], world.
        aabb: [2, 3].

    Returns:
        Minimum and maximum, f64[3] each.
    """
    low, high = np.asarray(aabb, np.float64)
    half = _EMPTY_SHARE * (high - low) / 2.0
    middle = np.clip(np.asarray(centroid, np.float64), low + half, high - half)
    return middle - half, middle + half
