"""Owns which expert owns what: points, and pixels through the samples of their rays.

World frame DRB (index 0 vertical); expert c owns x when d_c(x)^2 <= margin^2 * min_k d_k(x)^2, with
`cluster_2d` by the horizontal axes 1 and 2 only. A pixel belongs to every expert that owns at least
one of the samples spaced evenly along its ray inside the scene's box. Kernels are compiled and run
on all cores.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from nerfcore.compiled import EXACT
from nerfcore.data.partition import Partition


@numba.njit(inline="always")
def _mark_owners(x, y, z, centroids, first_axis, margin_squared, distances, owned):
    nearest = np.float32(np.inf)
    for k in range(centroids.shape[0]):
        dy, dz = y - centroids[k, 1], z - centroids[k, 2]
        distance = dy * dy + dz * dz
        if first_axis == 0:
            dx = x - centroids[k, 0]
            distance += dx * dx
        distances[k] = distance
        nearest = min(nearest, distance)
    for k in range(centroids.shape[0]):
        if distances[k] <= margin_squared * nearest:
            owned[k] = True


@numba.njit(parallel=True, **EXACT)
def _own_points(points, centroids, first_axis, margin_squared, owned):
    for i in numba.prange(points.shape[0]):
        distances = np.empty(centroids.shape[0], np.float32)
        _mark_owners(
            points[i, 0],
            points[i, 1],
            points[i, 2],
            centroids,
            first_axis,
            margin_squared,
            distances,
            owned[i],
        )


@numba.njit(parallel=True, **EXACT)
def _own_rays(
    origins,
    directions,
    box,
    samples,
    centroids,
    first_axis,
    margin_squared,
    owned,
):
    for i in numba.prange(origins.shape[0]):
        near, far = np.float32(0.0), np.float32(np.inf)
        for axis in range(3):
            direction = directions[i, axis]
            if direction == 0.0:
                if origins[i, axis] < box[0, axis] or origins[i, axis] > box[1, axis]:
                    far = np.float32(-1.0)
                continue
            a = (box[0, axis] - origins[i, axis]) / direction
            b = (box[1, axis] - origins[i, axis]) / direction
            near, far = max(near, min(a, b)), min(far, max(a, b))
        if far <= near:
            continue
        distances = np.empty(centroids.shape[0], np.float32)
        step = (far - near) / samples
        for s in range(samples):
            t = near + (s + np.float32(0.5)) * step
            _mark_owners(
                origins[i, 0] + t * directions[i, 0],
                origins[i, 1] + t * directions[i, 1],
                origins[i, 2] + t * directions[i, 2],
                centroids,
                first_axis,
                margin_squared,
                distances,
                owned[i],
            )


def point_owners(
    points: NDArray[np.floating],
    centroids: NDArray[np.floating],
    *,
    boundary_margin: float,
    cluster_2d: bool,
) -> NDArray[np.bool_]:
    """Tell which experts own which points.

    Args:
        points: [N, 3], world.
        centroids: [K, 3], world.
        boundary_margin: >= 1.
        cluster_2d: horizontal distances only.

    Returns:
        bool[N, K].
    """
    owned = np.zeros((len(points), len(centroids)), np.bool_)
    _own_points(
        np.ascontiguousarray(points, np.float32),
        np.ascontiguousarray(centroids, np.float32),
        1 if cluster_2d else 0,
        np.float32(boundary_margin**2),
        owned,
    )
    return owned


def ray_owners(
    origins: NDArray[np.floating],
    directions: NDArray[np.floating],
    partition: Partition,
    ray_samples: int,
) -> NDArray[np.bool_]:
    """Tell which experts a ray passes through.

    Args:
        origins, directions: [N, 3], world; directions of any length.
        partition: the experts and the scene's box.
        ray_samples: samples per ray inside the box, >= 1.

    Returns:
        bool[N, K]; a row without True is a ray that misses the scene's box.
    """
    owned = np.zeros((len(origins), len(partition)), np.bool_)
    _own_rays(
        np.ascontiguousarray(origins, np.float32),
        np.ascontiguousarray(directions, np.float32),
        partition.aabb,
        ray_samples,
        partition.centroids,
        1 if partition.cluster_2d else 0,
        np.float32(partition.boundary_margin**2),
        owned,
    )
    return owned
