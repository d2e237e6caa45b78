"""Which occupancy cells enough training cameras look at; the others can teach little: closed.

Camera axes are RUB (x right, y up, z backward), pixel centres lie at +0.5.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from nerfcore.compiled import EXACT
from nerfcore.data.images import ImageStore
from nerfcore.sampling.occupancy import OccupancyGrid


@numba.njit(parallel=True, **EXACT)
def _seen(low, size, dims, c2w, intrinsics, widths, heights, least, wanted, out):
    """Set out[cell] where a wanted cell lies in the pictures of at least `least` cameras."""
    radius = 0.5 * np.sqrt(size[0] ** 2 + size[1] ** 2 + size[2] ** 2)
    layer = dims[1] * dims[2]
    for cell in numba.prange(wanted.shape[0]):
        if not wanted[cell]:
            continue
        x = low[0] + (cell // layer + 0.5) * size[0]
        y = low[1] + (cell // dims[2] % dims[1] + 0.5) * size[1]
        z = low[2] + (cell % dims[2] + 0.5) * size[2]
        count = 0
        for camera in range(c2w.shape[0]):
            m = c2w[camera]
            a, b, c = x - m[0, 3], y - m[1, 3], z - m[2, 3]
            depth = -(m[0, 2] * a + m[1, 2] * b + m[2, 2] * c)
            if depth <= -radius:
                continue
            if depth <= radius:  # the camera stands in or beside the cell
                count += 1
                continue
            right = m[0, 0] * a + m[1, 0] * b + m[2, 0] * c
            up = m[0, 1] * a + m[1, 1] * b + m[2, 1] * c
            fx, fy, cx, cy = intrinsics[camera]
            reach_u, reach_v = fx * radius / (depth - radius), fy * radius / (depth - radius)
            u, v = cx + fx * right / depth, cy - fy * up / depth
            if -reach_u <= u <= widths[camera] + reach_u and (
                -reach_v <= v <= heights[camera] + reach_v
            ):
                count += 1
            if count >= least:
                break
        out[cell] = count >= least


def restrict_to_seen(grid: OccupancyGrid, images: ImageStore, least: int = 1) -> float:
    """Allow only cells that enough cameras look at.

    A cell counts as seen by a camera where the ball around it may touch its picture.

    Args:
        grid: changed in place.
        images: the training images' cameras.
        least: how many. With 1, no cell is closed that a ray of a picture passes; with more, a
            photograph can no longer be explained by fog before its own camera.

    Returns:
        The share of the allowed cells that was closed.
    """
    before = int(grid.allowed.sum())
    for expert in range(grid.experts):
        allowed = grid.allowed[grid.span(expert)]
        dims = grid.dims[expert].astype(np.int64)
        low = grid.box_mins[expert].astype(np.float64)
        size = (grid.box_maxs[expert].astype(np.float64) - low) / dims
        seen: NDArray[np.bool_] = np.zeros(len(allowed), np.bool_)
        _seen(
            low, size, dims, images.c2w.astype(np.float64), images.intrinsics.astype(np.float64),
            images.widths, images.heights, least, allowed, seen,
        )  # fmt: skip
        grid.restrict(expert, allowed & seen)
    return 1.0 - int(grid.allowed.sum()) / max(1, before)
