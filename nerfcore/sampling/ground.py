"""Owns square cells over the ground: world axes 1 and 2 (East and South), any height."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class GroundGrid:
    """Square cells over the ground.

    Attributes:
        low: (axis 1, axis 2) of the first cell's corner, world units.
        cell: side of a cell, world units, > 0.
        shape: cells along axis 1 and along axis 2.
    """

    low: tuple[float, float]
    cell: float
    shape: tuple[int, int]

    @staticmethod
    def over(low: NDArray[np.floating], high: NDArray[np.floating], cell: float) -> "GroundGrid":
        """Cells of side `cell` over a box; low, high f[2]."""
        count = np.maximum(np.ceil((high - low) / cell), 1).astype(int)
        return GroundGrid(
            (float(low[0]), float(low[1])), float(cell), (int(count[0]), int(count[1]))
        )

    def index(self, points: NDArray[np.floating]) -> NDArray[np.int64]:
        """Cells i64[...] (C order) of places f[..., 2] on axes 1 and 2; -1 outside."""
        place = np.floor((np.asarray(points, np.float64) - self.low) / self.cell)
        inside = np.asarray(((place >= 0) & (place < self.shape)).all(-1))
        place = np.where(inside[..., None], place, 0.0)
        return np.where(inside, place[..., 0] * self.shape[1] + place[..., 1], -1).astype(np.int64)

    def centres(self) -> NDArray[np.float64]:
        """Middles of the cells, f64[*shape, 2], axes 1 and 2."""
        rows, columns = (np.arange(n) + 0.5 for n in self.shape)
        middles = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
        return np.asarray(self.low, np.float64) + middles.astype(np.float64) * self.cell
