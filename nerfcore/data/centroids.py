"""Owns where the experts' centroids lie: on a grid, or among the cameras by k-means.

World frame DRB (index 0 vertical, positive down), scaled units.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nerfcore.errors import DataError

Float64 = NDArray[np.float64]
_SEED: Final = 0
_ROUNDS: Final = 100
_STARTS: Final = 8


def grid_centroids(cameras: Float64, aabb: Float64, grid_dim: tuple[int, ...]) -> Float64:
    """Return the cell centres of the camera box, f64[K, 3] in row-major order of the grid.

    Vertically, and along an axis on which the cameras hardly move, those of the scene's box.

    Args:
        cameras, aabb: f64[2, 3], boxes of the cameras and of the scene.
        grid_dim: cells along axes (1, 2) or (0, 1, 2).
    """
    divisions = (1, *grid_dim) if len(grid_dim) == 2 else grid_dim
    extent = cameras.copy()
    still = (cameras[1] - cameras[0]) < 0.1 * (aabb[1] - aabb[0])
    still[0] = True
    extent[:, still] = aabb[:, still]
    lines = [
        extent[0, axis] + (np.arange(count) + 0.5) / count * (extent[1, axis] - extent[0, axis])
        for axis, count in enumerate(divisions)
    ]
    return np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, 3)


def kmeans_centroids(positions: Float64, aabb: Float64, count: int) -> Float64:
    """Return the centres of `count` groups of cameras, f64[K, 3], from the north-west on.

    Groups are formed on the ground plan; vertically all centroids lie in the middle of the scene's
    box. The same cameras give the same centroids.

    Args:
        positions: f64[N, 3], cameras.
        aabb: f64[2, 3], the scene's box.
        count: number of groups, 1..N.

    Raises:
        DataError: more groups than places that cameras were at.

    Source:
        Arthur and Vassilvitskii, k-means++: The Advantages of Careful Seeding, SODA 2007.
    """
    plan = positions[:, 1:]
    places = len(np.unique(plan, axis=0))
    if count > places:
        raise DataError(f"kmeans: {count} experts for {places} camera positions; use fewer")
    rng = np.random.default_rng(_SEED)
    tries = [_grouped(plan, _first_centres(plan, count, rng)) for _ in range(_STARTS)]
    centres = min(tries, key=lambda one: _spread(plan, one))
    centres = centres[np.lexsort((centres[:, 1], centres[:, 0]))]
    return np.column_stack([np.full(count, aabb[:, 0].mean()), centres])


def _squares(plan: Float64, centres: Float64) -> Float64:
    return ((plan[:, None, :] - centres[None, :, :]) ** 2).sum(axis=-1)


def _spread(plan: Float64, centres: Float64) -> float:
    return float(_squares(plan, centres).min(axis=1).sum())


def _first_centres(plan: Float64, count: int, rng: np.random.Generator) -> Float64:
    """Choose cameras that lie far from those chosen before (k-means++)."""
    centres = plan[rng.integers(len(plan))][None, :]
    while len(centres) < count:
        weights = _squares(plan, centres).min(axis=1)
        chosen = plan[rng.choice(len(plan), p=weights / weights.sum())]
        centres = np.concatenate([centres, chosen[None, :]])
    return centres


def _grouped(plan: Float64, centres: Float64) -> Float64:
    """Move centres to the means of their groups until nothing changes."""
    for _ in range(_ROUNDS):
        nearest = _squares(plan, centres).argmin(axis=1)
        members = np.bincount(nearest, minlength=len(centres))
        sums = np.stack(
            [np.bincount(nearest, plan[:, axis], len(centres)) for axis in range(2)], axis=-1
        )
        moved = np.where(members[:, None] > 0, sums / np.maximum(members, 1)[:, None], centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres
