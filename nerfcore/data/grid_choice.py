"""Owns choosing a grid of experts from the data, and saying why."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nerfcore.data.centroids import grid_centroids
from nerfcore.data.records import Dataset
from nerfcore.data.routing import point_owners
from nerfcore.data.scene_box import HORIZONTAL_QUANTILES, camera_box, scene_box
from nerfcore.errors import DataError

Float64 = NDArray[np.float64]
DEFAULT_IMAGES_PER_EXPERT: Final = 100
_MOST_EXPERTS: Final = 256
_MOST_POINTS: Final = 20_000  # shares need no more
_TOLERANCE: Final = 1.5  # how far the number of experts may be from the wanted one, as a factor
# What counts how much: being off the wanted number, cells far from square, unequal shares.
_COUNT_WEIGHT, _SHAPE_WEIGHT, _SHARE_WEIGHT = 1.0, 0.5, 0.25


@dataclass(frozen=True)
class GridChoice:
    """A grid, and why.

    Attributes:
        grid_dim: cells along East and South.
        reason: one sentence with the numbers it rests on.
    """

    grid_dim: tuple[int, int]
    reason: str


def choose_grid(
    dataset: Dataset, images_per_expert: int = DEFAULT_IMAGES_PER_EXPERT, scene_scale: float = 1.1
) -> GridChoice:
    """Choose the grid whose cells are near to square, hold like shares of the sparse points, and
    give each expert about so many training images.

    Args:
        dataset: the prepared dataset.
        images_per_expert: how many training images an expert should have, >= 1.
        scene_scale: see `scene_box`.

    Raises:
        DataError: images_per_expert out of range.
    """
    if images_per_expert < 1:
        raise DataError(f"images_per_expert: {images_per_expert} must be at least 1")
    wanted = float(np.clip(len(dataset.train) / images_per_expert, 1.0, _MOST_EXPERTS))
    points = _ground_points(dataset)
    low, high = np.quantile(points[:, 1:], HORIZONTAL_QUANTILES, axis=0)
    extent_m = np.maximum(high - low, 1e-6) * dataset.frame.pose_scale_factor_m
    cameras, aabb = camera_box(dataset), scene_box(dataset, scene_scale)
    best = min(
        _candidates(wanted),
        key=lambda grid: _cost(grid, wanted, extent_m, _shares(points, cameras, aabb, grid)),
    )
    shares = _shares(points, cameras, aabb, best)
    return GridChoice(best, _reason(dataset, images_per_expert, best, extent_m, shares))


def _ground_points(dataset: Dataset) -> Float64:
    """Return some of the sparse points, or the cameras' places where there are none, f64[P, 3]."""
    if dataset.points is not None and len(dataset.points):
        every = max(1, len(dataset.points) // _MOST_POINTS)
        return dataset.points.xyz[::every].astype(np.float64)
    return np.concatenate([dataset.train.c2w, dataset.val.c2w])[:, :, 3].astype(np.float64)


def _candidates(wanted: float) -> list[tuple[int, int]]:
    most = min(_MOST_EXPERTS, max(1, int(np.floor(wanted * _TOLERANCE))))
    least = wanted / _TOLERANCE
    return [
        (rows, columns)
        for rows in range(1, most + 1)
        for columns in range(1, most // rows + 1)
        if rows * columns >= least
    ]


def _shares(
    points: Float64, cameras: Float64, aabb: Float64, grid: tuple[int, int]
) -> NDArray[np.float64]:
    """Return the share of the points in each cell, f64[K]."""
    centroids = grid_centroids(cameras, aabb, grid)
    owned = point_owners(points, centroids, boundary_margin=1.0, cluster_2d=True)
    return owned.sum(axis=0) / len(points)


def _cost(
    grid: tuple[int, int], wanted: float, extent_m: Float64, shares: NDArray[np.float64]
) -> float:
    experts = grid[0] * grid[1]
    shape = abs(np.log((extent_m[0] / grid[0]) / (extent_m[1] / grid[1])))
    return (
        _COUNT_WEIGHT * abs(np.log(experts / wanted))
        + _SHAPE_WEIGHT * float(shape)
        + _SHARE_WEIGHT * float(shares.max() * experts - 1.0)
    )


def _reason(
    dataset: Dataset,
    images_per_expert: int,
    grid: tuple[int, int],
    extent_m: Float64,
    shares: NDArray[np.float64],
) -> str:
    count, cells = len(dataset.train), extent_m / np.array(grid)
    measured = "points" if dataset.points is not None and len(dataset.points) else "cameras"
    return (
        f"{count} training images at {images_per_expert} an expert ask for "
        f"{count / images_per_expert:.1f} experts; the {measured} spread over {extent_m[0]:.0f} m "
        f"east-west and {extent_m[1]:.0f} m north-south, so {grid[0]} x {grid[1]} cells of "
        f"{cells[0]:.0f} x {cells[1]:.0f} m, each with {shares.min():.0%} to {shares.max():.0%} "
        f"of the {measured}"
    )
