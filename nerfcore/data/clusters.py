"""Owns dividing a scene into experts: the scene's box, centroids, expert boxes, and the balance.

World frame DRB (index 0 vertical, positive down), scaled units. Two grid dimensions divide the
horizontal axes 1 (East) and 2 (South); three divide axes 0, 1 and 2.
"""

from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nerfcore.data.partition import PARTITION_FILE, Partition, load_partition, save_partition
from nerfcore.data.records import Dataset, ImageSet
from nerfcore.data.routing import point_owners, ray_owners
from nerfcore.data.storage import is_safe_relative
from nerfcore.errors import DataError

Float64 = NDArray[np.float64]
_HORIZONTAL_QUANTILES: Final = (0.005, 0.995)
_LOW_QUANTILE: Final = 0.005
_VERTICAL_MARGIN: Final = 0.05  # of the points' vertical extent, above and below
_NEIGHBOURS: Final = 4  # points another one needs around it to count as structure
_SPACINGS: Final = 4.0  # how far around, in mean point spacings
_CELLS_2D, _CELLS_3D = 512, 96  # per axis, when measuring what an expert owns
_MAX_EXPERTS: Final = 256


@dataclass(frozen=True)
class ClusterSettings:
    """How to divide a scene.

    Attributes:
        grid_dim: cells along axes (1, 2) or (0, 1, 2).
        cluster_2d: distances by the horizontal axes only.
        boundary_margin: >= 1, overlap of neighbours.
        scene_scale: >= 1, factor the points' horizontal extent is enlarged by.
        ray_samples: samples per ray when pixels are assigned.
        center_pixels: rays pass through pixel centres (+0.5), else through upper left corners.
    """

    grid_dim: tuple[int, ...] = (2, 2)
    cluster_2d: bool = False
    boundary_margin: float = 1.05
    scene_scale: float = 1.1
    ray_samples: int = 256
    center_pixels: bool = True

    def __post_init__(self) -> None:
        if len(self.grid_dim) not in (2, 3) or min(self.grid_dim) < 1:
            raise DataError(f"grid_dim: {self.grid_dim}; give 2 or 3 numbers of at least 1")
        if int(np.prod(self.grid_dim)) > _MAX_EXPERTS:
            raise DataError(
                f"grid_dim: {self.grid_dim} makes {int(np.prod(self.grid_dim))} experts, at most "
                f"{_MAX_EXPERTS} are allowed"
            )
        if len(self.grid_dim) == 3 and self.grid_dim[0] > 1 and self.cluster_2d:
            raise DataError(
                f"grid_dim: {self.grid_dim} divides the vertical axis, which cluster_2d ignores; "
                "leave one out"
            )
        for name, value in (
            ("boundary_margin", self.boundary_margin),
            ("scene_scale", self.scene_scale),
        ):
            if not 1.0 <= value <= 10.0:
                raise DataError(f"{name}: {value} is outside 1..10")
        if not 1 <= self.ray_samples <= 65536:
            raise DataError(f"ray_samples: {self.ray_samples} is outside 1..65536")

    @property
    def default_name(self) -> str:
        """The reference system's folder name for these settings, as g22_grid_bm105_ss11."""
        cells = ("" if max(self.grid_dim) < 10 else "x").join(map(str, self.grid_dim))
        tenths = round(self.scene_scale * 10, 6)
        scale = f"{tenths:.0f}" if tenths == int(tenths) else f"{self.scene_scale * 100:.0f}"
        return f"g{cells}_grid_bm{self.boundary_margin * 100:.0f}_ss{scale}"


def write_partition(
    dataset: Dataset, settings: ClusterSettings, name: str | None = None, *, resume: bool = False
) -> tuple[Partition, bool]:
    """Divide a dataset's scene and write `masks/<name>/partition.json`.

    Args:
        dataset: the prepared dataset.
        settings: how to divide it.
        name: folder name below `masks/`, None = `settings.default_name`.
        resume: keep an existing partition of that name, if it was made with the same settings.

    Returns:
        The partition, and whether it was there before.

    Raises:
        DataError: a name that is not one plain folder, or an existing partition.
    """
    chosen = settings.default_name if name is None else name
    if not is_safe_relative(chosen) or Path(chosen).name != chosen or chosen.startswith("."):
        raise DataError(f"output: '{chosen}' is not a plain folder name; use letters and digits")
    folder = dataset.root / "masks" / chosen
    partition = make_partition(dataset, settings, chosen)
    if (folder / PARTITION_FILE).exists():
        if not resume:
            raise DataError(
                f"output: {folder} exists; keep it with --resume, choose another --output, or "
                "remove it"
            )
        if not _same(load_partition(folder), partition):
            raise DataError(
                f"output: {folder} was made with other settings or from other data; choose "
                "another --output or remove it"
            )
        return load_partition(folder), True
    noted = asdict(settings) | {"grid_dim": " ".join(map(str, settings.grid_dim))}
    save_partition(folder, partition, noted)
    return load_partition(folder), False


def _same(one: Partition, other: Partition) -> bool:
    arrays = ("centroids", "box_mins", "box_maxs", "aabb")
    plain = ("cluster_2d", "boundary_margin", "grid_dim")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays) and all(
        getattr(one, name) == getattr(other, name) for name in plain
    )


def make_partition(dataset: Dataset, settings: ClusterSettings, name: str) -> Partition:
    """Divide a dataset's scene into experts.

    Centroids are the cell centres of the camera bounding box; vertically, and along an axis on
    which the cameras hardly move, of the scene's box.

    Args:
        dataset: the prepared dataset.
        settings: how to divide it.
        name: the partition's name.
    """
    aabb = scene_box(dataset, settings.scene_scale)
    centroids = _grid_centroids(_camera_box(dataset), aabb, settings.grid_dim)
    mins, maxs = _expert_boxes(centroids, aabb, settings)
    return Partition(
        name,
        centroids.astype(np.float32),
        mins.astype(np.float32),
        maxs.astype(np.float32),
        aabb.astype(np.float32),
        settings.cluster_2d,
        settings.boundary_margin,
        settings.grid_dim,
    )


def scene_box(dataset: Dataset, scene_scale: float) -> Float64:
    """Return the box of what the cameras see on the ground, f64[2, 3] (minimum, maximum).

    Horizontally: the 0.5..99.5 percentiles of the sparse points, enlarged by `scene_scale` about
    their middle, united with the camera bounding box. Vertically: from a little below the 0.5
    percentile of Up to a little above the highest point that has neighbours; not up to the
    cameras, since samples in empty air are wasted. Without points: the camera bounding box enlarged
    by `scene_scale`, and the altitude range.
    """
    cameras = _camera_box(dataset)
    if dataset.points is None:
        middle, half = cameras.mean(axis=0), (cameras[1] - cameras[0]) / 2.0
        low, high = middle - half * scene_scale, middle + half * scene_scale
        frame = dataset.frame
        enu = np.array([[0.0, 0.0, altitude] for altitude in frame.altitude_range_enu_m])
        bottom, top = frame.enu_m_to_world(enu)[:, 0]
        low[0], high[0] = top, bottom
        return _widened(np.stack([low, high]))
    xyz = dataset.points.xyz.astype(np.float64)
    low, high = np.quantile(xyz, _HORIZONTAL_QUANTILES, axis=0)
    middle, half = (low + high) / 2.0, (high - low) / 2.0
    low = np.minimum(middle - half * scene_scale, cameras[0])
    high = np.maximum(middle + half * scene_scale, cameras[1])
    bottom = np.quantile(xyz[:, 0], 1.0 - _LOW_QUANTILE)
    top = xyz[_has_neighbours(xyz, middle, half), 0].min(initial=bottom)
    margin = _VERTICAL_MARGIN * (bottom - top)
    low[0], high[0] = top - margin, bottom + margin
    return _widened(np.stack([low, high]))


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


def _camera_box(dataset: Dataset) -> Float64:
    positions = np.concatenate([dataset.train.c2w, dataset.val.c2w])[:, :, 3].astype(np.float64)
    return np.stack([positions.min(axis=0), positions.max(axis=0)])


def _grid_centroids(cameras: Float64, aabb: Float64, grid_dim: tuple[int, ...]) -> Float64:
    """Return f64[K, 3] in row-major order of the grid."""
    divisions = (1, *grid_dim) if len(grid_dim) == 2 else grid_dim
    extent = cameras.copy()
    still = (cameras[1] - cameras[0]) < 0.1 * (aabb[1] - aabb[0])
    still[0] = True
    extent[:, still] = aabb[:, still]
    lines = [
        extent[0, axis] + (np.arange(count) + 0.5) / count * (extent[1, axis] - extent[0, axis])
        for axis, count in enumerate(divisions)
    ]
    return np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, 3)


def _expert_boxes(
    centroids: Float64, aabb: Float64, settings: ClusterSettings
) -> tuple[Float64, Float64]:
    """Return the extent of what each expert owns inside the scene's box, f64[K, 3] each.

    Ownership is looked up on a dense grid of cell centres; one cell more on each side covers what
    lies between them.
    """
    per_axis = [1 if settings.cluster_2d else _CELLS_3D] + [
        _CELLS_2D if settings.cluster_2d else _CELLS_3D
    ] * 2
    cell = (aabb[1] - aabb[0]) / per_axis
    lines = [aabb[0, axis] + (np.arange(n) + 0.5) * cell[axis] for axis, n in enumerate(per_axis)]
    points = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, 3)
    owned = point_owners(
        points,
        centroids,
        boundary_margin=settings.boundary_margin,
        cluster_2d=settings.cluster_2d,
    )
    mins, maxs = np.empty_like(centroids), np.empty_like(centroids)
    for expert in range(len(centroids)):
        mine = points[owned[:, expert]]
        if len(mine) == 0:
            raise DataError(
                f"grid_dim: {settings.grid_dim} leaves expert {expert} without any space; use "
                "fewer cells"
            )
        mins[expert] = np.maximum(mine.min(axis=0) - 1.5 * cell, aabb[0])
        maxs[expert] = np.minimum(mine.max(axis=0) + 1.5 * cell, aabb[1])
    return mins, maxs


@dataclass(frozen=True, eq=False)
class Balance:
    """How the work falls on the experts.

    Attributes:
        images: i64[K], images with at least one looked-up pixel of the expert.
        points: i64[K], sparse points the expert owns.
        pixel_shares: f64[K], share of all pixels that belong to the expert (they overlap).
        overlap_share: share of pixels that belong to more than one expert.
        missed_share: share of pixels whose rays miss the scene's box.
    """

    images: NDArray[np.int64]
    points: NDArray[np.int64]
    pixel_shares: Float64
    overlap_share: float
    missed_share: float


def balance(
    dataset: Dataset, partition: Partition, settings: ClusterSettings, pixels_across: int = 32
) -> Balance:
    """Count images, points and pixels per expert.

    Args:
        dataset, partition: the scene and its division.
        settings: ray_samples and center_pixels.
        pixels_across: pixels looked up along an image's width (a coarse, even subsample).
    """
    owned_images = np.zeros(len(partition), np.int64)
    owned_pixels = np.zeros(len(partition), np.int64)
    overlapping = missed = total = 0
    for images in (dataset.train, dataset.val):
        for index in range(len(images)):
            origins, directions = _coarse_rays(
                images, index, pixels_across, center_pixels=settings.center_pixels
            )
            owned = ray_owners(origins, directions, partition, settings.ray_samples)
            owners = owned.sum(axis=1)
            owned_images += owned.any(axis=0)
            owned_pixels += owned.sum(axis=0)
            overlapping += int((owners > 1).sum())
            missed += int((owners == 0).sum())
            total += len(owned)
    points = np.zeros((0, 3), np.float32) if dataset.points is None else dataset.points.xyz
    owned_points = point_owners(
        points,
        partition.centroids,
        boundary_margin=partition.boundary_margin,
        cluster_2d=partition.cluster_2d,
    ).sum(axis=0)
    return Balance(
        owned_images, owned_points, owned_pixels / total, overlapping / total, missed / total
    )


def _coarse_rays(
    images: ImageSet, index: int, pixels_across: int, *, center_pixels: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return origins and directions (not unit) of an even subsample of an image's pixels."""
    width, height = int(images.widths_px[index]), int(images.heights_px[index])
    stride = max(1, width // pixels_across)
    offset = 0.5 if center_pixels else 0.0
    fx, fy, cx, cy = images.intrinsics[index].astype(np.float64)
    u = (np.arange(stride // 2, width, stride) + offset - cx) / fx
    v = -(np.arange(stride // 2, height, stride) + offset - cy) / fy
    local = np.full((len(v), len(u), 3), -1.0)
    local[..., 0], local[..., 1] = u[None, :], v[:, None]
    pose = images.c2w[index].astype(np.float64)
    directions = (local.reshape(-1, 3) @ pose[:, :3].T).astype(np.float32)
    return np.broadcast_to(images.c2w[index, :, 3], directions.shape), directions
