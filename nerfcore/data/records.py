"""Owns the in-memory records of a prepared dataset.

World frame DRB: axes [Down, East, South], unit = metres / `pose_scale_factor_m`, origin subtracted;
index 0 is vertical and positive downwards, indices 1 and 2 are horizontal. Camera axes RUB (right,
up, back): a camera looks along its -Z. Pixel centres lie at +0.5. Metric coordinates are float64,
scaled world coordinates float32.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nerfcore.errors import DataError
from nerfcore.geometry.frames import ENU_TO_DRB
from nerfcore.geometry.geodesy import GeoPoint, enu_to_geodetic


@dataclass(frozen=True, eq=False)
class SceneFrame:
    """How scaled world coordinates relate to metres and to the Earth.

    Attributes:
        pose_scale_factor_m: metres per world unit, > 0.
        origin_drb_m: f64[3], the world's origin in DRB metres.
        enu_ref: geodetic point where ENU is zero; None when the source model was not in ECEF.
        altitude_range_enu_m: Up of the ground (low percentile of the points) and of the highest
            camera, m.
    """

    pose_scale_factor_m: float
    origin_drb_m: NDArray[np.float64]
    enu_ref: GeoPoint | None
    altitude_range_enu_m: tuple[float, float]

    def world_to_enu_m(self, points: ArrayLike) -> NDArray[np.float64]:
        """Return world points [..., 3] as East, North, Up in metres, f64[..., 3]."""
        scaled = np.asarray(points, np.float64) * self.pose_scale_factor_m + self.origin_drb_m
        return scaled @ ENU_TO_DRB

    def enu_m_to_world(self, points_enu_m: ArrayLike) -> NDArray[np.float64]:
        """Return ENU metres [..., 3] as world points, f64[..., 3]."""
        drb_m = np.asarray(points_enu_m, np.float64) @ ENU_TO_DRB.T
        return (drb_m - self.origin_drb_m) / self.pose_scale_factor_m

    def world_to_geo(
        self, points: ArrayLike
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return latitude (deg), longitude (deg) and ellipsoidal height (m), each f64[...].

        Raises:
            DataError: the dataset has no geodetic reference.
        """
        if self.enu_ref is None:
            raise DataError(
                "enu_ref: null, so the scene has no place on the Earth; prepare it from an ECEF "
                "model with --ecef_to_enu"
            )
        return enu_to_geodetic(self.world_to_enu_m(points), self.enu_ref)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Posed pinhole photographs on disk, sorted by name.

    Attributes:
        names: names in the source model (they may contain sub-folders).
        paths: stored photographs.
        valid_paths: masks (0 = pixel without a true measurement, 255 = valid), None = all valid.
        c2w: f32[N, 3, 4], camera (RUB) to world (DRB, scaled).
        intrinsics: f32[N, 4], fx, fy, cx, cy in px of the stored photograph.
        widths_px, heights_px: i32[N], size of the stored photograph.
        find_borders: the photographs may have black borders that no mask lists; they are to be
            found when the photographs are read (see `nerfcore.data.borders`).
        checksums, valid_checksums: SHA-256 (hex) of the photographs' and masks' files, None where
            none was recorded; empty = none at all.
    """

    names: tuple[str, ...]
    paths: tuple[Path, ...]
    valid_paths: tuple[Path | None, ...]
    c2w: NDArray[np.float32]
    intrinsics: NDArray[np.float32]
    widths_px: NDArray[np.int32]
    heights_px: NDArray[np.int32]
    find_borders: bool = False
    checksums: tuple[str | None, ...] = ()
    valid_checksums: tuple[str | None, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def checksum(self, index: int) -> str | None:
        """Return the recorded SHA-256 of a photograph's file, None when there is none."""
        return self.checksums[index] if self.checksums else None

    def valid_checksum(self, index: int) -> str | None:
        """Return the recorded SHA-256 of a mask's file, None when there is none."""
        return self.valid_checksums[index] if self.valid_checksums else None

    @staticmethod
    def joined(sets: Iterable["ImageSet"]) -> "ImageSet":
        """Return the images of all sets, in order."""
        every = list(sets)
        return ImageSet(
            tuple(name for one in every for name in one.names),
            tuple(path for one in every for path in one.paths),
            tuple(path for one in every for path in one.valid_paths),
            np.concatenate([one.c2w for one in every]),
            np.concatenate([one.intrinsics for one in every]),
            np.concatenate([one.widths_px for one in every]),
            np.concatenate([one.heights_px for one in every]),
            any(one.find_borders for one in every),
            tuple(one.checksum(i) for one in every for i in range(len(one))),
            tuple(one.valid_checksum(i) for one in every for i in range(len(one))),
        )

    def subset(self, indices: Iterable[int] | NDArray[np.integer]) -> "ImageSet":
        """Return the images at these indices, in that order."""
        chosen = np.asarray(list(indices), dtype=np.int64)
        return ImageSet(
            tuple(self.names[i] for i in chosen),
            tuple(self.paths[i] for i in chosen),
            tuple(self.valid_paths[i] for i in chosen),
            self.c2w[chosen],
            self.intrinsics[chosen],
            self.widths_px[chosen],
            self.heights_px[chosen],
            self.find_borders,
            tuple(self.checksum(i) for i in chosen),
            tuple(self.valid_checksum(i) for i in chosen),
        )


@dataclass(frozen=True, eq=False)
class SparsePoints:
    """Triangulated points with their tracks.

    Attributes:
        xyz: f32[P, 3], world (scaled).
        rgb: u8[P, 3], sRGB.
        error_px: f32[P], mean reprojection error in px of the source photographs.
        track_lengths: i32[P], number of photographs in the source model that see the point.
        image_names: names the tracks' `image_ids` point into.
        image_ids, point_ids: i32[T], one entry per observation: which image sees which point.
        xy_px: f32[T, 2], where it sees it, in px of the stored photograph (pixel centres at +0.5).
    """

    xyz: NDArray[np.float32]
    rgb: NDArray[np.uint8]
    error_px: NDArray[np.float32]
    track_lengths: NDArray[np.int32]
    image_names: tuple[str, ...]
    image_ids: NDArray[np.int32]
    point_ids: NDArray[np.int32]
    xy_px: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.xyz)


@dataclass(frozen=True, eq=False)
class Batch:
    """Later imagery of the same place: images to adapt to, and images to score on.

    Attributes:
        points: sparse points that the adapt images see, None when the model had none.
    """

    name: str
    adapt: ImageSet
    heldout: ImageSet
    points: SparsePoints | None = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """A prepared dataset: frame, training and validation images, later batches, sparse points."""

    root: Path
    frame: SceneFrame
    train: ImageSet
    val: ImageSet
    batches: dict[str, Batch] = field(default_factory=dict)
    points: SparsePoints | None = None

    def batch(self, name: str) -> Batch:
        """Return the batch of this name.

        Raises:
            DataError: there is none.
        """
        if name not in self.batches:
            known = (
                ", ".join(sorted(self.batches)) or "none; add one with scripts/update_dataset.py"
            )
            raise DataError(f"batch: '{name}' is not in {self.root / 'continual'}; known: {known}")
        return self.batches[name]
