"""Which experts may own the points of a place, so that marching never looks at all experts.

The scene box is cut into cells (one along the vertical for horizontal routing). With d_k(x) the
distance of x to centroid k, m the boundary margin and h half a cell's diagonal, an expert can own a
point of the cell around c only if d_k(c) - h < m (min_j d_j(c) + h).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CELLS_AN_EXPERT_SIDE = 8
MOST_CELLS_A_SIDE = 96
_CHUNK = 4096


@dataclass(frozen=True)
class Routing:
    """Candidate experts by place.

    Attributes:
        dims: i64[3], cells along each axis of the scene box.
        candidates: i16[cells, most], expert indices in ascending order, -1 behind the last.
    """

    dims: NDArray[np.int64]
    candidates: NDArray[np.int16]


def build_routing(
    aabb: NDArray[np.float32], centroids: NDArray[np.float32], margin: float, first_axis: int
) -> Routing:
    """Find the candidates of every cell.

    Args:
        aabb: f32[2, 3], the scene box; centroids: f32[K, 3].
        margin: boundary margin, >= 1.
        first_axis: first axis of the routing distance: 1 for horizontal routing, else 0.
    """
    axes = 3 - first_axis
    side = CELLS_AN_EXPERT_SIDE * int(np.ceil(len(centroids) ** (1.0 / axes)))
    side = 1 if len(centroids) == 1 else min(MOST_CELLS_A_SIDE, side)
    dims = np.array([1 if axis < first_axis else side for axis in range(3)], np.int64)
    size = (aabb[1] - aabb[0]).astype(np.float64) / dims
    half = float(np.linalg.norm(size[first_axis:])) / 2
    index = np.indices(tuple(dims)).reshape(3, -1).T
    centres = (aabb[0] + (index + 0.5) * size)[:, first_axis:]
    own = centroids[:, first_axis:].astype(np.float64)
    rows = []
    for begin in range(0, len(centres), _CHUNK):
        offsets = centres[begin : begin + _CHUNK, None, :] - own[None]
        distances = np.sqrt(np.square(offsets).sum(-1))
        reach = margin * (distances.min(1, keepdims=True) + half) * (1 + 1e-6)
        rows.append(distances - half <= reach)
    return Routing(dims, _packed(np.concatenate(rows)))


def _packed(possible: NDArray[np.bool_]) -> NDArray[np.int16]:
    """Turn bool[cells, K] into lists of indices."""
    most = int(possible.sum(1).max())
    order = np.argsort(~possible, axis=1, kind="stable")[:, :most]
    kept = np.take_along_axis(possible, order, axis=1)
    return np.where(kept, order, -1).astype(np.int16)
