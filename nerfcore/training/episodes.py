"""Owns the episodes of meta-learning: one ground cell of one expert, seen by several images.

Every image is cut into blocks of pixels; a block belongs to the ground cell that its centre ray
hits on the ground plane (the median height of the sparse points). An episode's support and query
rays come from disjoint images.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nerfcore.data.images import ImageStore
from nerfcore.data.partition import Partition
from nerfcore.errors import SettingsError
from nerfcore.training.pixels import RayBatch, rays_of

BLOCK_PX = 16


@dataclass(frozen=True)
class Cell:
    """Blocks that see one ground cell: image ids i64[B], first rows and columns i64[B]."""

    expert: int
    image_ids: NDArray[np.int64]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]


@dataclass(frozen=True)
class Episode:
    """One task: the expert it belongs to, rays to adapt on and rays to judge by."""

    expert: int
    support: RayBatch
    query: RayBatch


def ground_cells(
    store: ImageStore, partition: Partition, ground: float, cell_dim: int
) -> list[list[Cell]]:
    """Sort the images' blocks into the ground cells of each expert.

    Args:
        store: training images.
        partition: the experts.
        ground: height of the ground plane on world axis 0.
        cell_dim: cells along each horizontal side of an expert.

    Returns:
        For each expert, its cells that at least two images see.
    """
    parts = [_image_blocks(store, image, ground) for image in range(len(store))]
    images = np.concatenate([np.full(len(p[0]), i) for i, p in enumerate(parts)])
    rows = np.concatenate([p[0] for p in parts])
    columns = np.concatenate([p[1] for p in parts])
    hits = np.concatenate([p[2] for p in parts])
    square = ((hits[:, None, :] - partition.centroids[None, :, 1:]) ** 2).sum(-1)
    experts = square.argmin(1)
    cells: list[list[Cell]] = [[] for _ in range(len(partition))]
    for k in range(len(partition)):
        low, high = partition.box_mins[k, 1:], partition.box_maxs[k, 1:]
        unit = (hits - low) / (high - low)
        inside = (experts == k) & (unit >= 0).all(1) & (unit < 1).all(1)
        index = (np.clip(unit, 0, 0.999999) * cell_dim).astype(np.int64)
        key = index[:, 0] * cell_dim + index[:, 1]
        for cell in np.unique(key[inside]):
            chosen = np.flatnonzero(inside & (key == cell))
            if len(np.unique(images[chosen])) >= 2:
                cells[k].append(Cell(k, images[chosen], rows[chosen], columns[chosen]))
    return cells


def _image_blocks(
    store: ImageStore, image: int, ground: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """First rows, first columns and ground hits [B, 2] (world axes 1, 2) of an image's blocks."""
    height, width = int(store.heights[image]), int(store.widths[image])
    rows = np.arange(0, height, BLOCK_PX)
    columns = np.arange(0, width, BLOCK_PX)
    grid_rows, grid_columns = (g.ravel() for g in np.meshgrid(rows, columns, indexing="ij"))
    middle_row = np.minimum(grid_rows + BLOCK_PX // 2, height - 1)
    middle_column = np.minimum(grid_columns + BLOCK_PX // 2, width - 1)
    batch = rays_of(store, store.offsets[image] + middle_row * width + middle_column)
    down = batch.directions[:, 0].astype(np.float64)
    with np.errstate(divide="ignore"):
        t = (ground - batch.origins[:, 0]) / down
    hit = batch.origins[:, 1:] + t[:, None] * batch.directions[:, 1:]
    forward = (down > 1e-3) & (t > 0)
    return grid_rows[forward], grid_columns[forward], hit[forward]


class EpisodeSampler:
    """Draws episodes of an expert."""

    def __init__(
        self, store: ImageStore, cells: list[list[Cell]], rng: np.random.Generator
    ) -> None:
        """Args: the images, `ground_cells`' result, a generator.

        Raises:
            SettingsError: no expert has a cell that two images see.
        """
        if not any(cells):
            raise SettingsError(
                "cell_dim: no ground cell is seen by two images, so there is no episode; choose a "
                'smaller cell_dim or algo "joint"'
            )
        self.store = store
        self.cells = cells
        self.rng = rng

    @property
    def experts(self) -> list[int]:
        """Experts that have episodes."""
        return [k for k, cells in enumerate(self.cells) if cells]

    def draw(self, expert: int, support_rays: int, query_rays: int) -> Episode:
        """Draw one episode of an expert."""
        cell = self._cell(expert)
        images = self.rng.permutation(np.unique(cell.image_ids))
        for_support = images[: (len(images) + 1) // 2]
        in_support = np.isin(cell.image_ids, for_support)
        return Episode(
            expert,
            self._rays(cell, np.flatnonzero(in_support), support_rays),
            self._rays(cell, np.flatnonzero(~in_support), query_rays),
        )

    def draw_batches(self, expert: int, count: int, rays: int) -> list[RayBatch]:
        """Draw batches of rays of one ground cell of an expert, each from all images of it."""
        cell = self._cell(expert)
        every = np.arange(len(cell.image_ids))
        return [self._rays(cell, every, rays) for _ in range(count)]

    def _cell(self, expert: int) -> Cell:
        cells = self.cells[expert]
        return cells[int(self.rng.integers(len(cells)))]

    def _rays(self, cell: Cell, blocks: NDArray[np.int64], count: int) -> RayBatch:
        chosen = blocks[self.rng.integers(len(blocks), size=count)]
        images = cell.image_ids[chosen]
        heights, widths = self.store.heights[images], self.store.widths[images]
        inside = self.rng.integers(BLOCK_PX, size=(2, count))
        rows = np.minimum(cell.rows[chosen] + inside[0], heights - 1)
        columns = np.minimum(cell.columns[chosen] + inside[1], widths - 1)
        flat = self.store.offsets[images] + rows * widths + columns
        if self.store.valid is not None and self.store.valid[flat].any():
            flat = flat[self.store.valid[flat]]
        return rays_of(self.store, flat)
