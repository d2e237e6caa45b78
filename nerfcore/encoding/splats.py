"""Owns a table's gradient kept as the points that made it, in place of a buffer of table size."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Splats:
    """The gradient sum_n scatter(positions_n, d_features_n) of a table.

    Attributes:
        positions: f32[3, N] in the expert's unit cube.
        d_features: f32[width, N], gradient with respect to the points' encoding.
    """

    positions: NDArray[np.float32]
    d_features: NDArray[np.float32]

    @property
    def count(self) -> int:
        return self.positions.shape[1]


def joined(splats: list[Splats]) -> Splats:
    """One set of splats from several."""
    if len(splats) == 1:
        return splats[0]
    return Splats(
        np.concatenate([s.positions for s in splats], axis=1),
        np.concatenate([s.d_features for s in splats], axis=1),
    )
