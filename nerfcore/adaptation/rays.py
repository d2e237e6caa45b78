"""Owns which pixels of which photographs adaptation may draw its rays from.

A pool is a list of blocks: a block is one pixel of a look (see `looks`), that is a few pixels of
the photograph. Pools cost a few bytes a block whatever the photographs' size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nerfcore.adaptation.looks import Look
from nerfcore.adaptation.survey import Survey
from nerfcore.data.images import ImageStore
from nerfcore.errors import DataError
from nerfcore.sampling.ground import GroundGrid
from nerfcore.training.pixels import RayBatch, rays_of

MOST_STEPS = 64
MOST_REDRAWS = 64


@dataclass(frozen=True, eq=False)
class Reached:
    """Blocks whose rays meet a survey's disagreeing cells, by look.

    Attributes:
        new, old: bool[h, w] each, those of new images where they are valid.
    """

    new: Sequence[NDArray[np.bool_]]
    old: Sequence[NDArray[np.bool_]]


class BlockSampler:
    """Draws pixels uniformly from a pool of blocks."""

    def __init__(
        self,
        store: ImageStore,
        looks: Sequence[Look],
        masks: Sequence[NDArray[np.bool_]],
        rng: np.random.Generator,
    ) -> None:
        """Make the pool.

        Args:
            store: the photographs.
            looks: at some of them; masks: bool[h, w], the blocks to take of each look.
            rng: draws.

        Raises:
            DataError: no block is taken.
        """
        self.store = store
        self.rng = rng
        parts = [np.argwhere(mask) for mask in masks]
        if not sum(len(part) for part in parts):
            raise DataError("replay: no pixel of the old photographs may be used")
        self._images = np.concatenate(
            [np.full(len(p), one.image) for p, one in zip(parts, looks, strict=True)]
        )
        self._places = np.concatenate(parts)
        sizes = {one.image: mask.shape for mask, one in zip(masks, looks, strict=True)}
        self._sizes = np.array([sizes[image] for image in self._images])

    def __len__(self) -> int:
        return len(self._images)

    def draw(self, count: int) -> RayBatch:
        """Draw `count` rays with replacement."""
        flat = self._flat(count)
        if self.store.valid is not None:
            for _ in range(MOST_REDRAWS):
                wrong = np.flatnonzero(~self.store.valid[flat])
                if not len(wrong):
                    break
                flat[wrong] = self._flat(len(wrong))
            flat = flat[self.store.valid[flat]]
        return rays_of(self.store, flat)

    def _flat(self, count: int) -> NDArray[np.int64]:
        chosen = self.rng.integers(len(self._images), size=count)
        images, places, sizes = self._images[chosen], self._places[chosen], self._sizes[chosen]
        inside = places + self.rng.random((count, 2))
        rows = (inside[:, 0] * self.store.heights[images] / sizes[:, 0]).astype(np.int64)
        columns = (inside[:, 1] * self.store.widths[images] / sizes[:, 1]).astype(np.int64)
        return self.store.offsets[images] + rows * self.store.widths[images] + columns


def ending_in(look: Look, grid: GroundGrid, cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Blocks where the model shows a surface above chosen cells, bool[h, w]."""
    return _chosen(look.points, grid, cells)


def crossing(
    look: Look, grid: GroundGrid, cells: NDArray[np.bool_], aabb: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Blocks whose rays pass above chosen cells inside the scene's box, bool[h, w].

    Args:
        cells: bool[*grid.shape].
        aabb: f32[2, 3]; only its heights count.
    """
    down = look.directions[..., 0]
    safe = np.where(np.abs(down) < 1e-3, np.float32(1e-3), down)
    begin, end = ((aabb[i, 0] - look.origin[0]) / safe for i in (0, 1))
    begin, end = np.maximum(np.minimum(begin, end), 0), np.maximum(begin, end)
    longest = float(np.quantile(np.maximum(end - begin, 0), 0.9))
    steps = int(np.clip(np.ceil(2 * longest / grid.cell), 2, MOST_STEPS))
    found = np.zeros(down.shape, np.bool_)
    for share in np.linspace(0.0, 1.0, steps):
        t = begin + np.float32(share) * (end - begin)
        found |= _chosen(look.origin + t[..., None] * look.directions, grid, cells)
    return found & (end > begin)


def _chosen(
    points: NDArray[np.float32], grid: GroundGrid, cells: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    index = grid.index(np.nan_to_num(points[..., 1:], nan=np.inf, posinf=np.inf, neginf=-np.inf))
    return (index >= 0) & cells.reshape(-1)[np.maximum(index, 0)]


def reached_by(survey: Survey, aabb: NDArray[np.float32]) -> Reached:
    """Find the blocks whose rays meet the disagreeing cells; `aabb` as for `crossing`."""
    if survey.found is None:
        return Reached((), ())
    grid, cells = survey.found.grid, survey.disagreeing()
    new = [crossing(one, grid, cells, aabb) & one.valid for one in survey.new]
    return Reached(new, [crossing(one, grid, cells, aabb) for one in survey.old])
