"""Owns the box of a scene: what its cameras see on the ground.

World frame DRB (index 0 vertical, positive down), scaled units.
"""

from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nerfcore.data.records import Dataset, ImageSet

Float64 = NDArray[np.float64]
HORIZONTAL_QUANTILES: Final = (0.005, 0.995)
_LOW_QUANTILE: Final = 0.005
_VERTICAL_MARGIN: Final = 0.05  # of the points' vertical extent, above and below
_FOOTPRINT_QUANTILES: Final = (0.02, 0.98)
_LEAST_SLOPE: Final = 0.25  # sine of a corner ray's angle below the horizon
_NEIGHBOURS: Final = 4  # points another one needs around it to count as structure
_SPACINGS: Final = 4.0  # how far around, in mean point spacings


def scene_box(dataset: Dataset, scene_scale: float) -> Float64:
    """Return the box of what the cameras see on the ground, f64[2, 3] (minimum, maximum).

    Horizontally: the 0.5..99.5 percentiles of the sparse points, enlarged by `scene_scale` about
    their middle, united with the camera bounding box. Vertically: from a little below the 0.5
    percentile of Up to a little above the highest point that has neighbours; not up to the
    cameras, since samples in empty air are wasted. Without points: where the corners of the
    photographs meet the ground, united with the camera bounding box and enlarged by `scene_scale`,
    and the altitude range.
    """
    cameras = camera_box(dataset)
    if dataset.points is None:
        return _box_without_points(dataset, cameras, scene_scale)
    xyz = dataset.points.xyz.astype(np.float64)
    low, high = np.quantile(xyz, HORIZONTAL_QUANTILES, axis=0)
    middle, half = (low + high) / 2.0, (high - low) / 2.0
    low = np.minimum(middle - half * scene_scale, cameras[0])
    high = np.maximum(middle + half * scene_scale, cameras[1])
    bottom = np.quantile(xyz[:, 0], 1.0 - _LOW_QUANTILE)
    top = xyz[_has_neighbours(xyz, middle, half), 0].min(initial=bottom)
    margin = _VERTICAL_MARGIN * (bottom - top)
    low[0], high[0] = top - margin, bottom + margin
    return _widened(np.stack([low, high]))


def _box_without_points(dataset: Dataset, cameras: Float64, scene_scale: float) -> Float64:
    frame = dataset.frame
    enu = np.array([[0.0, 0.0, altitude] for altitude in frame.altitude_range_enu_m])
    bottom, top = frame.enu_m_to_world(enu)[:, 0]
    hits = np.concatenate([_corner_hits(one, bottom) for one in (dataset.train, dataset.val)])
    low, high = cameras.copy()
    if len(hits):
        seen_low, seen_high = np.quantile(hits, _FOOTPRINT_QUANTILES, axis=0)
        low[1:], high[1:] = np.minimum(low[1:], seen_low), np.maximum(high[1:], seen_high)
    middle, half = (low + high) / 2.0, (high - low) / 2.0
    low, high = middle - half * scene_scale, middle + half * scene_scale
    low[0], high[0] = top, bottom
    return _widened(np.stack([low, high]))


def _corner_hits(images: ImageSet, ground: float) -> Float64:
    """Return where the photographs' corners meet the ground plane, f64[M, 2] on axes 1 and 2;
    corners that look too flat to tell are left out."""
    sizes = np.stack([images.widths_px, images.heights_px], axis=-1)[:, None, :]
    corners = sizes * np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    focal, middle = images.intrinsics[:, None, :2], images.intrinsics[:, None, 2:]
    local = (corners - middle) / focal * [1.0, -1.0]
    local = np.concatenate([local, np.full((*local.shape[:2], 1), -1.0)], axis=-1)
    directions = np.einsum("nij,nkj->nki", images.c2w[:, :, :3].astype(np.float64), local)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    steep = directions[:, :, 0] > _LEAST_SLOPE
    origins = np.broadcast_to(images.c2w[:, None, :, 3], directions.shape)[steep]
    down = directions[steep]
    return origins[:, 1:] + down[:, 1:] * ((ground - origins[:, 0]) / down[:, 0])[:, None]


def _widened(box: Float64) -> Float64:
    """Give every axis some extent, so that a flat or straight scene still has a box."""
    least = 0.01 * max(1e-3, float((box[1] - box[0]).max()))
    short = np.maximum(least - (box[1] - box[0]), 0.0) / 2.0
    return np.stack([box[0] - short, box[1] + short])


def _has_neighbours(xyz: Float64, middle: Float64, half: Float64) -> NDArray[np.bool_]:
    """Tell which points have others around them (3x3x3 cells of a few mean spacings)."""
    inside = (np.abs(xyz - middle)[:, 1:] <= 1.5 * half[1:]).all(axis=1)
    area = float(4.0 * half[1] * half[2])
    side = max(_SPACINGS * float(np.sqrt(area / max(1, len(xyz)))), 1e-6)
    cells, inverse = np.unique(np.floor(xyz / side).astype(np.int64), axis=0, return_inverse=True)
    low = cells.min(axis=0) - 1
    spans = cells.max(axis=0) - low + 2
    strides = np.array([spans[1] * spans[2], spans[2], 1])
    keys = (cells - low) @ strides
    counts = np.bincount(inverse.reshape(-1), minlength=len(cells))
    around = np.zeros(len(cells), np.int64)
    for offset in product((-1, 0, 1), repeat=3):
        wanted = keys + np.array(offset) @ strides
        found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        around += np.where(keys[found] == wanted, counts[found], 0)
    return inside & (around[inverse.reshape(-1)] > _NEIGHBOURS)


def camera_box(dataset: Dataset) -> Float64:
    """Return the box of the first flight's camera positions, f64[2, 3]."""
    positions = np.concatenate([dataset.train.c2w, dataset.val.c2w])[:, :, 3].astype(np.float64)
    return np.stack([positions.min(axis=0), positions.max(axis=0)])
