"""Owns the one list of all photographs of a dataset, in metres, that every measurement indexes.

Frame: ENU metres around the dataset's reference (East, North, Up), float64; camera axes RUB (a
camera looks along its -Z). Image `i` is the same photograph in every array of `nerfcore.survey`.
Flight 0 is the one the dataset was prepared from, flight k its k-th later batch.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nerfcore.data.records import Dataset, ImageSet, SparsePoints
from nerfcore.geometry.frames import ENU_TO_DRB, project

Float64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Roster:
    """All photographs of a dataset, those of later batches last.

    Attributes:
        images: names, files, poses (world) and intrinsics.
        splits: per image: "train", "validation", "batch_0001" or "batch_0001, held out".
        flights: i64[N], 0 = first flight, k = k-th batch.
        flight_names: "first flight", then the batches' names.
        positions_m: f64[N, 3], camera centres.
        rotations: f64[N, 3, 3], camera (RUB) to ENU.
    """

    images: ImageSet
    splits: tuple[str, ...]
    flights: NDArray[np.int64]
    flight_names: tuple[str, ...]
    positions_m: Float64
    rotations: Float64

    def __len__(self) -> int:
        return len(self.images)

    @property
    def names(self) -> tuple[str, ...]:
        """Image names in the source model."""
        return self.images.names


@dataclass(frozen=True, eq=False)
class Tracks:
    """What the sparse points say about each photograph.

    Attributes:
        points_m: f64[P, 3], all sparse points, ENU.
        point_flights: i64[P], the flight whose model holds the point.
        observations: i64[N], points the photograph sees; -1 where the model tells nothing (a
            photograph held out of a batch).
        errors_px: f64[N], median distance between a point's projection and where it was seen; NaN
            without observations.
    """

    points_m: Float64
    point_flights: NDArray[np.int64]
    observations: NDArray[np.int64]
    errors_px: Float64


def make_roster(dataset: Dataset) -> Roster:
    """List all photographs of a dataset.

    Args:
        dataset: a prepared dataset.
    """
    parts: list[tuple[ImageSet, str, int]] = [
        (dataset.train, "train", 0),
        (dataset.val, "validation", 0),
    ]
    for flight, (name, batch) in enumerate(dataset.batches.items(), start=1):
        parts += [(batch.adapt, name, flight), (batch.heldout, f"{name}, held out", flight)]
    sets = [images for images, _, _ in parts]
    images = ImageSet.joined(sets)
    poses = images.c2w.astype(np.float64)
    return Roster(
        images,
        tuple(split for part, split, _ in parts for _ in range(len(part))),
        np.repeat([flight for _, _, flight in parts], [len(part) for part in sets]),
        ("first flight", *dataset.batches),
        dataset.frame.world_to_enu_m(poses[:, :, 3]),
        ENU_TO_DRB.T @ poses[:, :, :3],
    )


def read_tracks(dataset: Dataset, roster: Roster) -> Tracks:
    """Count what each photograph sees, and how well its pose fits it.

    Args:
        dataset: a prepared dataset.
        roster: its photographs.
    """
    observations = np.full(len(roster), -1, np.int64)
    errors_px = np.full(len(roster), np.nan)
    positions, flights = [np.zeros((0, 3))], [np.zeros(0, np.int64)]
    clouds = [dataset.points, *(batch.points for batch in dataset.batches.values())]
    for flight, points in enumerate(clouds):
        if points is None:
            continue
        positions.append(dataset.frame.world_to_enu_m(points.xyz))
        flights.append(np.full(len(points), flight, np.int64))
        mine = np.flatnonzero(roster.flights == flight)
        _add_tracks(points, roster, mine, observations, errors_px)
    return Tracks(np.concatenate(positions), np.concatenate(flights), observations, errors_px)


def _add_tracks(
    points: SparsePoints,
    roster: Roster,
    mine: NDArray[np.int64],
    observations: NDArray[np.int64],
    errors_px: Float64,
) -> None:
    """Fill in the counts and errors of one flight's photographs `mine`."""
    row_of = {roster.names[i]: i for i in mine}
    rows = np.array([row_of.get(name, -1) for name in points.image_names], np.int64)
    observations[rows[rows >= 0]] = 0
    if len(points.image_ids) == 0:
        return
    image_rows = rows[points.image_ids]
    known = image_rows >= 0
    image_rows = image_rows[known]
    pixels, depths = project(
        points.xyz[points.point_ids[known]],
        roster.images.c2w[image_rows],
        roster.images.intrinsics[image_rows],
    )
    apart = np.linalg.norm(pixels - points.xy_px[known], axis=1)
    # A point behind its camera is as wrong as a point can be; its mirrored pixel says nothing.
    apart[depths <= 0.0] = np.inf
    order = np.argsort(image_rows, kind="stable")
    starts = np.flatnonzero(np.diff(image_rows[order], prepend=-1))
    for row, seen in zip(
        image_rows[order][starts], np.split(apart[order], starts[1:]), strict=True
    ):
        observations[row] = len(seen)
        errors_px[row] = np.median(seen)
