"""Owns which cells of each expert may hold matter.

Every expert's box is cut into cubic-ish cells of about `cell_m`. A cell is *allowed* when matter is
possible there (inside the height band of the sparse points, if there are any) and *occupied* while
its running opacity of one step stays above a threshold (as instant-ngp and nerfacc do).
Axis 0 of the world is vertical, positive down; cells are in C order (axis 0 slowest).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from nerfcore.compiled import FAST
from nerfcore.data.partition import Partition
from nerfcore.sampling.columns import Columns, pack_columns
from nerfcore.sampling.ground import GroundGrid
from nerfcore.sampling.march import Samples

MOST_CELLS_AN_AXIS = 160
CELL_BYTES = 11  # allowed 1, occupied 1, opacity 4, seen 4, bits 1/8 with and without use
BAND_DISTANCE_SHARE = 0.25
DECAY = 0.6
THRESHOLD = 0.01
UNKNOWN_OPACITY = 0.05
NEIGHBOURS = 12
PERCENTILES = (5.0, 95.0)

Densities = Callable[[int, NDArray[np.float32]], NDArray[np.float32]]
"""Maps (expert, world points f32[N, 3]) to densities f32[N] per metre."""


@numba.njit(**FAST)
def _observe(  # type: ignore[no-untyped-def]
    ray_ids, ts, owners, sigmas, origins, directions, mins, maxs, dims, offsets, step,
    opacity, occupied, seen,
):  # fmt: skip
    """Every cell with samples: opacity = max(DECAY * opacity, most opaque sample), once."""
    visited = np.empty(owners.size, np.int64)
    count = 0
    for s in range(ts.shape[0]):
        r = ray_ids[s]
        found = max(np.float32(1.0) - np.exp(-sigmas[s] * step), np.float32(1e-12))
        for n in range(owners.shape[1]):
            k = owners[s, n]
            if k < 0:
                break
            cell = 0
            for axis in range(3):
                x = origins[r, axis] + ts[s] * directions[r, axis]
                unit = (x - mins[k, axis]) / (maxs[k, axis] - mins[k, axis])
                index = min(max(int(unit * dims[k, axis]), 0), dims[k, axis] - 1)
                cell = cell * dims[k, axis] + index
            cell += offsets[k]
            if seen[cell] == 0:
                visited[count] = cell
                count += 1
            seen[cell] = max(seen[cell], found)
    for i in range(count):
        cell = visited[i]
        opacity[cell] = max(opacity[cell] * np.float32(DECAY), seen[cell])
        if occupied[cell] and opacity[cell] <= np.float32(THRESHOLD):
            occupied[cell] = 0
        seen[cell] = np.float32(0.0)


@dataclass
class OccupancyGrid:
    """Cells of all experts in flat buffers.

    Attributes:
        box_mins, box_maxs: f32[K, 3].
        dims: i32[K, 3] cells along each axis.
        offsets: i64[K] first cell of each expert.
        allowed: bool[total]; occupied: u8[total]; opacity: f32[total], running, of one step.
            All read-only from outside: they change by methods, so that `columns` follows.
    """

    box_mins: NDArray[np.float32]
    box_maxs: NDArray[np.float32]
    dims: NDArray[np.int32]
    offsets: NDArray[np.int64]
    allowed: NDArray[np.bool_]
    occupied: NDArray[np.uint8]
    opacity: NDArray[np.float32]

    def __post_init__(self) -> None:
        self._seen = np.zeros(len(self.opacity), np.float32)
        self._allowed, self._occupied, self._opacity = self.allowed, self.occupied, self.opacity
        self._columns: Columns | None = None
        self._full: Columns | None = None
        for name in ("allowed", "occupied", "opacity"):
            shown = getattr(self, name).view()
            shown.flags.writeable = False
            setattr(self, name, shown)

    def columns(self, *, use_occupancy: bool = True) -> Columns:
        """The occupied cells (or, without occupancy, all cells) as bits for the march."""
        if use_occupancy:
            if self._columns is None:
                self._columns = pack_columns(self.occupied, self.offsets, self.dims)
            return self._columns
        if self._full is None:
            self._full = pack_columns(np.ones_like(self.occupied), self.offsets, self.dims)
        return self._full

    def state(self) -> tuple[NDArray[np.bool_], NDArray[np.uint8], NDArray[np.float32]]:
        """Copies of allowed, occupied and opacity."""
        return self.allowed.copy(), self.occupied.copy(), self.opacity.copy()

    def restore(
        self, state: tuple[NDArray[np.bool_], NDArray[np.uint8], NDArray[np.float32]]
    ) -> None:
        """Bring back what `state` gave."""
        self._allowed[:], self._occupied[:], self._opacity[:] = state
        self._columns = None

    def open(self, expert: int, cells: NDArray[np.bool_]) -> None:
        """Allow and occupy more of an expert's cells, bool[cells of the expert]."""
        span = self.span(expert)
        self._allowed[span] |= cells
        self._occupied[span] |= cells
        self._opacity[span] = np.where(cells, UNKNOWN_OPACITY, self.opacity[span])
        self._columns = None

    def restrict(self, expert: int, cells: NDArray[np.bool_]) -> None:
        """Allow only these of an expert's cells, and occupy them."""
        span = self.span(expert)
        self._allowed[span] = cells
        self._occupied[span] = cells
        self._opacity[span] = np.where(cells, self.opacity[span], 0.0)
        self._columns = None

    @property
    def experts(self) -> int:
        return len(self.dims)

    def span(self, expert: int) -> slice:
        """The expert's part of the flat buffers."""
        start = int(self.offsets[expert])
        return slice(start, start + int(np.prod(self.dims[expert], dtype=np.int64)))

    def share(self) -> float:
        """Share of all cells that is occupied."""
        return float(self.occupied.mean())

    def cell_centres(
        self, expert: int, cells: NDArray[np.int64], rng: np.random.Generator | None = None
    ) -> NDArray[np.float32]:
        """World points f32[N, 3] inside cells (indices within the expert), random if `rng`."""
        index = np.stack(np.unravel_index(cells, tuple(self.dims[expert])), axis=1)
        inside = 0.5 if rng is None else rng.random((len(cells), 3))
        size = (self.box_maxs[expert] - self.box_mins[expert]) / self.dims[expert]
        return (self.box_mins[expert] + (index + inside) * size).astype(np.float32)

    def update(
        self, densities: Densities, step_m: float, cells_in_all: int, rng: np.random.Generator
    ) -> None:
        """Re-estimate some cells of every expert, half of them occupied ones.

        Args:
            densities: the field.
            step_m: length whose opacity decides.
            cells_in_all: cells to look at, shared out among the experts by their sizes.
            rng: draws the cells and the points inside them.
        """
        for expert in range(self.experts):
            span = self.span(expert)
            share = (span.stop - span.start) / len(self.occupied)
            cells = self._draw(span, max(2, round(cells_in_all * share)), rng)
            if not len(cells):
                continue
            sigmas = densities(expert, self.cell_centres(expert, cells, rng))
            found = 1.0 - np.exp(-sigmas * np.float32(step_m))
            values = self._opacity[span]
            values[cells] = np.maximum(values[cells] * DECAY, found)
            limit = min(THRESHOLD, float(values[self.allowed[span]].mean()))
            self._occupied[span] = (values > limit) & self.allowed[span]
        self._columns = None

    def observe(
        self,
        samples: Samples,
        sigmas: NDArray[np.float32],
        origins: NDArray[np.float32],
        directions: NDArray[np.float32],
        step_m: float,
    ) -> None:
        """Learn from densities that a training batch evaluated anyway.

        Args:
            samples: the batch's samples; sigmas: f32[S] per metre at them.
            origins, directions: f32[R, 3], the batch's rays.
            step_m: length whose opacity decides.
        """
        _observe(
            samples.ray_ids, samples.ts, samples.owners, sigmas, origins, directions,
            self.box_mins, self.box_maxs, self.dims, self.offsets, np.float32(step_m),
            self._opacity, self._occupied, self._seen,
        )  # fmt: skip
        self._columns = None

    def _draw(self, span: slice, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        allowed = np.flatnonzero(self.allowed[span])
        occupied = np.flatnonzero(self.occupied[span])
        if len(allowed) <= count:
            return allowed
        first = rng.choice(allowed, count // 2)
        if not len(occupied):
            return first
        return np.unique(np.concatenate([first, rng.choice(occupied, count - count // 2)]))


def grid_dims(partition: Partition, cell: float) -> NDArray[np.int32]:
    """Cells i32[K, 3] along each axis of every expert; `cell`: the wished edge in world units."""
    extents = partition.box_maxs - partition.box_mins
    return np.clip(np.ceil(extents / cell), 1, MOST_CELLS_AN_AXIS).astype(np.int32)


def full_grid(partition: Partition, cell: float) -> OccupancyGrid:
    """A grid with every cell allowed and occupied; `cell` as in `grid_dims`."""
    dims = grid_dims(partition, cell)
    sizes = dims.astype(np.int64).prod(axis=1)
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    total = int(sizes.sum())
    return OccupancyGrid(
        partition.box_mins,
        partition.box_maxs,
        dims,
        offsets,
        np.ones(total, np.bool_),
        np.ones(total, np.uint8),
        np.full(total, UNKNOWN_OPACITY, np.float32),
    )


def _band(
    grid: OccupancyGrid, expert: int, points: NDArray[np.float32], tree: KDTree, margin: float
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Cells of an expert near the heights of points above the same ground.

    Returns:
        bool[D0, D1, D2], and each ground cell's distance [D1, D2] to its third nearest point.
    """
    vertical, rows, columns = (int(n) for n in grid.dims[expert])
    size = (grid.box_maxs[expert] - grid.box_mins[expert]) / grid.dims[expert]
    low = grid.box_mins[expert]
    a = low[1] + (np.arange(rows) + 0.5) * size[1]
    b = low[2] + (np.arange(columns) + 0.5) * size[2]
    ground = np.stack(np.meshgrid(a, b, indexing="ij"), axis=-1).reshape(-1, 2)
    distances, nearest = tree.query(ground, k=NEIGHBOURS)
    top, bottom = np.percentile(points[nearest, 0], PERCENTILES, axis=1)
    reach = margin + BAND_DISTANCE_SHARE * distances[:, 2]
    edges = low[0] + np.arange(vertical + 1)[:, None] * size[0]
    inside = (edges[1:] >= top - reach) & (edges[:-1] <= bottom + reach)
    shape = (vertical, rows, columns)
    grown = ndimage.binary_dilation(inside.reshape(shape), np.ones((3, 3, 3), np.bool_))
    return np.asarray(grown, np.bool_), distances[:, 2].reshape(rows, columns)


def restrict_to_points(grid: OccupancyGrid, points: NDArray[np.float32], margin: float) -> None:
    """Allow only cells near the heights of sparse points above the same ground.

    For each ground cell the band is the 5th to 95th percentile height of the 12 nearest points (by
    horizontal distance), widened by `margin` and by a quarter of the distance to the third nearest
    point; then everything grows by one cell.

    Args:
        points: f32[P, 3], world; fewer than 12 leave the grid as it is.
        margin: world units.
    """
    if len(points) < NEIGHBOURS:
        return
    tree = KDTree(points[:, 1:])
    for expert in range(grid.experts):
        band, _ = _band(grid, expert, points, tree, margin)
        grid.restrict(expert, band.ravel())


def admit_points(
    grid: OccupancyGrid,
    points: NDArray[np.float32],
    margin: float,
    within: tuple[GroundGrid, NDArray[np.bool_]] | None = None,
) -> None:
    """Open the cells near newly seen points, where those points lie close together.

    Args:
        points: f32[P, 3], world; fewer than 12 change nothing.
        margin: world units, vertical reach; ground cells further than 4 margins from their third
            nearest point stay as they are.
        within: ground cells and which of them may get new cells (a cell that reaches beyond them
            stays as it is); None for all.
    """
    if len(points) < NEIGHBOURS:
        return
    tree = KDTree(points[:, 1:])
    for expert in range(grid.experts):
        band, distance = _band(grid, expert, points, tree, margin)
        near = distance <= 4 * margin
        if within is not None:
            near &= _wholly_above(grid, expert, *within)
        grid.open(expert, (band & near[None]).ravel())


def _wholly_above(
    grid: OccupancyGrid, expert: int, ground: GroundGrid, chosen: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Columns of an expert's cells, bool[D1, D2], that lie wholly above chosen ground cells."""
    rows, columns = (int(n) for n in grid.dims[expert, 1:])
    low, high = grid.box_mins[expert, 1:], grid.box_maxs[expert, 1:]
    size = (high - low) / (rows, columns)
    index = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1)
    parts = max(1, int(np.ceil(float(size.max()) / ground.cell)))
    above = np.ones((rows, columns), np.bool_)
    for a in np.linspace(0.0, 1.0, parts + 1):
        for b in np.linspace(0.0, 1.0, parts + 1):
            cells = ground.index(low + (index + np.array([a, b])) * size)
            above &= (cells >= 0) & chosen.reshape(-1)[np.maximum(cells, 0)]
    return above
