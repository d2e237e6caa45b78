"""Owns how the work falls on the experts of a partition, and its report."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from nerfcore import atomic
from nerfcore.data.partition_record import Partition
from nerfcore.data.pixel_masks import route_image
from nerfcore.data.records import Dataset
from nerfcore.data.routing import point_owners

Float64 = NDArray[np.float64]
BALANCE_FILE: Final = "balance.json"
FORMAT_VERSION: Final = 1


@dataclass(frozen=True, eq=False)
class Balance:
    """How the work falls on the experts.

    Attributes:
        images: i64[K], images with at least one looked-up pixel of the expert.
        points: i64[K], sparse points the expert owns.
        pixel_shares: f64[K], share of all pixels that belong to the expert (they overlap).
        overlap_share: share of pixels that belong to more than one expert.
        missed_share: share of pixels whose rays miss the scene's box.
        total_pixels: number of pixels of all images.
    """

    images: NDArray[np.int64]
    points: NDArray[np.int64]
    pixel_shares: Float64
    overlap_share: float
    missed_share: float
    total_pixels: int = 0

    @property
    def pixels(self) -> NDArray[np.int64]:
        """Pixels of each expert, i64[K], estimated from the looked-up ones."""
        return np.round(self.pixel_shares * self.total_pixels).astype(np.int64)

    @property
    def empty(self) -> list[int]:
        """Experts that own no looked-up pixel; they keep their numbers."""
        return [int(expert) for expert in np.flatnonzero(self.images == 0)]


class RaySettings(Protocol):
    """What decides which rays are looked up."""

    @property
    def ray_samples(self) -> int:
        """Samples per ray."""
        ...

    @property
    def center_pixels(self) -> bool:
        """Rays pass through pixel centres."""
        ...


def balance(
    dataset: Dataset, partition: Partition, settings: RaySettings, pixels_across: int = 32
) -> Balance:
    """Count images, points and pixels per expert.

    Args:
        dataset, partition: the scene and its division.
        settings: ray_samples and center_pixels.
        pixels_across: pixels looked up along an image's width (a coarse, even subsample).
    """
    owned_images = np.zeros(len(partition), np.int64)
    owned_pixels = np.zeros(len(partition), np.int64)
    overlapping = missed = total = total_pixels = 0
    for images in (dataset.train, dataset.val):
        for index in range(len(images)):
            stride = max(1, int(images.widths_px[index]) // pixels_across)
            owned = route_image(
                images,
                index,
                partition,
                settings.ray_samples,
                stride=stride,
                center_pixels=settings.center_pixels,
            ).reshape(-1, len(partition))
            owners = owned.sum(axis=1)
            owned_images += owned.any(axis=0)
            owned_pixels += owned.sum(axis=0)
            overlapping += int((owners > 1).sum())
            missed += int((owners == 0).sum())
            total += len(owned)
            total_pixels += int(images.widths_px[index]) * int(images.heights_px[index])
    points = np.zeros((0, 3), np.float32) if dataset.points is None else dataset.points.xyz
    owned_points = point_owners(
        points,
        partition.centroids,
        boundary_margin=partition.boundary_margin,
        cluster_2d=partition.cluster_2d,
    ).sum(axis=0)
    return Balance(
        owned_images,
        owned_points,
        owned_pixels / total,
        overlapping / total,
        missed / total,
        total_pixels,
    )


def describe_balance(partition: Partition, counts: Balance, images: int) -> dict[str, Any]:
    """Return the balance as JSON.

    Args:
        partition: whose balance it is.
        counts: the balance.
        images: number of images of the dataset.
    """
    return {
        "format_version": FORMAT_VERSION,
        "partition": partition.name,
        "images": images,
        "total_pixels": counts.total_pixels,
        "overlap_share": counts.overlap_share,
        "missed_share": counts.missed_share,
        "empty_experts": counts.empty,
        "experts": [
            {
                "expert": expert,
                "images": int(counts.images[expert]),
                "points": int(counts.points[expert]),
                "pixels": int(counts.pixels[expert]),
                "pixel_share": float(counts.pixel_shares[expert]),
                "box_min": partition.box_mins[expert].tolist(),
                "box_max": partition.box_maxs[expert].tolist(),
            }
            for expert in range(len(partition))
        ],
    }


def save_balance(folder: Path, report: dict[str, Any]) -> Path:
    """Write `folder`/balance.json atomically and return its path."""
    atomic.write_text(folder / BALANCE_FILE, json.dumps(report, indent=1) + "\n")
    return folder / BALANCE_FILE
