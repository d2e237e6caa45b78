"""Owns dividing a scene into experts: centroids, expert boxes, and their files.

World frame DRB (index 0 vertical, positive down), scaled units. Two grid dimensions divide the
horizontal axes 1 (East) and 2 (South); three divide axes 0, 1 and 2.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nerfcore.data.balance import Balance, balance
from nerfcore.data.centroids import grid_centroids, kmeans_centroids
from nerfcore.data.partition import PARTITION_FILE, Partition, load_partition, save_partition
from nerfcore.data.partition_record import empty_box
from nerfcore.data.records import Dataset
from nerfcore.data.reference_partition import is_reference_partition
from nerfcore.data.routing import point_owners
from nerfcore.data.scene_box import camera_box, scene_box
from nerfcore.data.storage import is_safe_relative
from nerfcore.errors import DataError

__all__ = [
    "Balance",
    "ClusterSettings",
    "balance",
    "make_partition",
    "scene_box",
    "write_partition",
]

Float64 = NDArray[np.float64]
_CELLS_2D, _CELLS_3D = 512, 96  # per axis, when measuring what an expert owns
_MAX_EXPERTS: Final = 256


@dataclass(frozen=True)
class ClusterSettings:
    """How to divide a scene.

    Attributes:
        grid_dim: cells along axes (1, 2) or (0, 1, 2); unused with `kmeans`.
        kmeans: so many groups of cameras instead of a grid.
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
    kmeans: int | None = None

    def __post_init__(self) -> None:
        if len(self.grid_dim) not in (2, 3) or min(self.grid_dim) < 1:
            raise DataError(f"grid_dim: {self.grid_dim}; give 2 or 3 numbers of at least 1")
        if int(np.prod(self.grid_dim)) > _MAX_EXPERTS:
            raise DataError(
                f"grid_dim: {self.grid_dim} makes {int(np.prod(self.grid_dim))} experts, at most "
                f"{_MAX_EXPERTS} are allowed"
            )
        if self.kmeans is not None and not 1 <= self.kmeans <= _MAX_EXPERTS:
            raise DataError(f"kmeans: {self.kmeans} is outside 1..{_MAX_EXPERTS}")
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
        kind = f"g{cells}_grid" if self.kmeans is None else f"k{self.kmeans}_kmeans"
        return f"{kind}_bm{self.boundary_margin * 100:.0f}_ss{scale}"


def write_partition(
    dataset: Dataset,
    settings: ClusterSettings,
    name: str | None = None,
    *,
    resume: bool = False,
    reason: str | None = None,
) -> tuple[Partition, bool]:
    """Divide a dataset's scene and write `masks/<name>/partition.json`.

    Args:
        dataset: the prepared dataset.
        settings: how to divide it.
        name: folder name below `masks/`, None = `settings.default_name`.
        resume: keep an existing partition of that name, if it was made with the same settings.
        reason: why the settings were chosen, kept for the reader's information.

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
    if is_reference_partition(folder):
        raise DataError(
            f"output: {folder} was made for the reference system; choose another --output"
        )
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
    if reason is not None:
        noted["reason"] = reason
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

    Args:
        dataset: the prepared dataset.
        settings: how to divide it.
        name: the partition's name.
    """
    aabb = scene_box(dataset, settings.scene_scale)
    if settings.kmeans is None:
        centroids = grid_centroids(camera_box(dataset), aabb, settings.grid_dim)
    else:
        every = np.concatenate([dataset.train.c2w, dataset.val.c2w])[:, :, 3].astype(np.float64)
        centroids = kmeans_centroids(every, aabb, settings.kmeans)
    mins, maxs = _expert_boxes(centroids, aabb, settings)
    return Partition(
        name,
        centroids.astype(np.float32),
        mins.astype(np.float32),
        maxs.astype(np.float32),
        aabb.astype(np.float32),
        settings.cluster_2d,
        settings.boundary_margin,
        settings.grid_dim if settings.kmeans is None else (settings.kmeans,),
    )


def _expert_boxes(
    centroids: Float64, aabb: Float64, settings: ClusterSettings
) -> tuple[Float64, Float64]:
    """Return the extent of what each expert owns inside the scene's box, f64[K, 3] each.

    Ownership is looked up on a dense grid of cell centres; one cell more on each side covers what
    lies between them. An expert that owns nothing keeps its number and gets a tiny box.
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
            mins[expert], maxs[expert] = empty_box(centroids[expert], aabb)
            continue
        mins[expert] = np.maximum(mine.min(axis=0) - 1.5 * cell, aabb[0])
        maxs[expert] = np.minimum(mine.max(axis=0) + 1.5 * cell, aabb[1])
    return mins, maxs
