"""Owns how a partition's experts share the work, and finding those that have too little."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nerfcore.data.balance import Balance, balance
from nerfcore.data.clusters import ClusterSettings
from nerfcore.data.partition import Partition, list_partitions, load_partition
from nerfcore.data.pixel_masks import route_image, stored_pixels
from nerfcore.data.records import Dataset, ImageSet
from nerfcore.errors import DataError
from nerfcore.survey import problems as limits
from nerfcore.survey.problems import Kind, Problem, Severity

_WHOLE: Final = "the dataset"
_MASKS_COMPARED: Final = 8  # images
_PIXELS_ACROSS: Final = 32
_RAY_SAMPLES: Final = 256


@dataclass(frozen=True, eq=False)
class Experts:
    """A partition and how the work falls on its experts.

    Attributes:
        partition: centroids, boxes and margin (world).
        counts: images, points and pixel shares per expert, of the first flight.
        owned, nearest: bool[rows, columns, K], who owns each cell of the ground inside the scene's
            box, and whose centroid is nearest to it; first row in the north.
        others: names of the dataset's other partitions.
    """

    partition: Partition
    counts: Balance
    owned: NDArray[np.bool_]
    nearest: NDArray[np.bool_]
    others: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.partition)


def choose_partition(dataset: Dataset, name: str | None) -> tuple[Partition | None, list[str]]:
    """Load a dataset's partition.

    Args:
        dataset: a prepared dataset.
        name: folder below masks/; None = the newest, if there is any.

    Returns:
        The partition (None when the dataset has none and none was asked for) and the others' names.

    Raises:
        DataError: there is no such partition, or its file is wrong.
    """
    folder = dataset.root / "masks"
    known = [found.name for found in sorted(list_partitions(dataset.root), key=_age)]
    if name is not None and name not in known:
        listed = ", ".join(known) or "none; make one with scripts/create_clusters.py"
        raise DataError(f"clusters: '{name}' is not in {folder}; known: {listed}")
    if not known:
        return None, []
    chosen = known[-1] if name is None else name
    return load_partition(folder / chosen), [other for other in known if other != chosen]


def _age(folder: Path) -> tuple[int, str]:
    return folder.stat().st_mtime_ns, folder.name


def count_work(dataset: Dataset, partition: Partition) -> Balance:
    """Count images, points and pixels per expert, as create_clusters.py does by default."""
    return balance(dataset, partition, ClusterSettings(center_pixels=False))


def check_masks(dataset: Dataset, partition: Partition) -> list[Problem]:
    """Compare stored masks of a few images with what training will compute.

    Raises:
        DataError: a stored mask is damaged.
    """
    folder, images = dataset.root / "masks" / partition.name, dataset.train
    apart = []
    for index in np.unique(np.linspace(0, len(images) - 1, _MASKS_COMPARED).astype(int)):
        stored = stored_pixels(folder, partition, images, int(index))
        if stored is not None:
            apart.append(_disagreement(stored, images, int(index), partition))
    worst = float(np.median(apart)) if apart else 0.0
    if worst <= limits.MASKS_APART:
        return []
    return [
        Problem(
            Kind.STALE_MASKS, Severity.WARNING, f"masks of {partition.name}",
            f"{worst:.1%} of pixels (median of {len(apart)} images)",
            f"at most {limits.MASKS_APART:.0%} other than the partition's boxes say",
            "make them again with scripts/create_clusters.py --masks; training does not read them",
        )
    ]  # fmt: skip


def _disagreement(
    stored: NDArray[np.bool_], images: ImageSet, index: int, partition: Partition
) -> float:
    """Return the share of pixels, by expert, that are stored otherwise than they are computed."""
    width, height = int(images.widths_px[index]), int(images.heights_px[index])
    stride = max(1, width // _PIXELS_ACROSS)
    routed = route_image(images, index, partition, _RAY_SAMPLES, stride=stride)
    rows, columns = (
        ((np.arange(stride // 2, size, stride) + 0.5) / size * cells).astype(int)
        for size, cells in ((height, stored.shape[1]), (width, stored.shape[2]))
    )
    return float((stored[:, rows][:, :, columns] != np.moveaxis(routed, -1, 0)).mean())


def check_experts(experts: Experts | None) -> list[Problem]:
    """Find experts without work, or with far less than their share."""
    if experts is None:
        return [
            Problem(
                Kind.NO_EXPERTS, Severity.NOTE, _WHOLE, "0 partitions", "1 before training",
                "make one with scripts/create_clusters.py",
            )
        ]  # fmt: skip
    name, counts = experts.partition.name, experts.counts
    equal = float(counts.pixel_shares.sum()) / len(experts)
    found = []
    for expert in range(len(experts)):
        share = float(counts.pixel_shares[expert])
        if counts.images[expert] == 0 or share == 0.0:
            found.append(
                Problem(
                    Kind.EMPTY_EXPERT, Severity.SERIOUS, f"expert {expert} of {name}",
                    f"{counts.images[expert]} images, {counts.points[expert]} points",
                    "at least 1 image",
                    "use fewer cells along that axis: scripts/create_clusters.py --grid_dim",
                )
            )  # fmt: skip
        elif share < limits.UNBALANCED * equal:
            found.append(
                Problem(
                    Kind.UNBALANCED_EXPERT, Severity.WARNING, f"expert {expert} of {name}",
                    f"{share:.1%} of pixels, {counts.images[expert]} images",
                    f"at least {limits.UNBALANCED * equal:.1%}, a quarter of an equal share",
                    "use fewer cells, or another grid: scripts/create_clusters.py --grid_dim",
                )
            )  # fmt: skip
    return found
