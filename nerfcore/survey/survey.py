"""Owns surveying a prepared dataset: everything measured, every problem found, in one record.

Nothing is trained and nothing in the dataset is changed. Frame: ENU metres, see
`nerfcore.survey.roster`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nerfcore.data.partition import Partition
from nerfcore.data.records import Dataset
from nerfcore.data.routing import point_owners
from nerfcore.survey.coverage import Coverage, Extent, count_cameras, site_extent
from nerfcore.survey.experts import (
    Experts,
    check_experts,
    check_masks,
    choose_partition,
    count_work,
)
from nerfcore.survey.footprints import Views, look_down
from nerfcore.survey.mosaic import Mosaic
from nerfcore.survey.photo_checks import check_photographs
from nerfcore.survey.photographs import PhotoFacts, Unreadable, scan_photographs
from nerfcore.survey.pose_checks import check_poses
from nerfcore.survey.problems import Problem, in_order
from nerfcore.survey.roster import Roster, Tracks, make_roster, read_tracks
from nerfcore.survey.summary import KeyFigures, check_whole, key_figures
from nerfcore.survey.terrain import Terrain, fit_terrain, flat_terrain

OnProgress = Callable[[str, int, int], None]
_EXPERT_CELLS: Final = 400


@dataclass(frozen=True, eq=False)
class Survey:
    """A dataset as surveyed.

    Attributes:
        dataset: the dataset itself.
        roster, tracks, terrain, views: photographs, points, ground, and what is seen of it.
        extent: the map's.
        coverages: cameras per ground cell, one per flight.
        mosaics: u8[rows, columns, 4], rough pictures from above, one per flight.
        photos: what the pixels tell, one per photograph.
        experts: how a partition shares the work, None without one.
        figures: the key figures.
        problems: gravest first.
    """

    dataset: Dataset
    roster: Roster
    tracks: Tracks
    terrain: Terrain
    views: Views
    extent: Extent
    coverages: tuple[Coverage, ...]
    mosaics: tuple[NDArray[np.uint8], ...]
    photos: tuple[PhotoFacts | Unreadable, ...]
    experts: Experts | None
    figures: KeyFigures
    problems: tuple[Problem, ...]


def survey_dataset(
    dataset: Dataset,
    clusters: str | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> Survey:
    """Measure a dataset and look for problems.

    Args:
        dataset: a prepared dataset.
        clusters: name of a partition below masks/; None = the newest.
        on_progress: called with (phase, done, total).

    Raises:
        DataError: the partition is missing or wrong, or a mask is unreadable.
    """
    partition, others = choose_partition(dataset, clusters)
    roster = make_roster(dataset)
    tracks = read_tracks(dataset, roster)
    terrain = _terrain(dataset, tracks)
    views = look_down(roster, terrain)
    extent = site_extent(roster, views, tracks)
    flights = range(len(roster.flight_names))
    coverages = tuple(count_cameras(extent, views.corners_m[roster.flights == k]) for k in flights)
    mosaics = [Mosaic(extent, terrain) for _ in flights]
    photos = scan_photographs(
        roster.images,
        lambda done, total: on_progress("photographs", done, total),
        lambda i, picture: mosaics[roster.flights[i]].add(picture, roster, views, i),
    )
    experts, masks = None, []
    if partition is not None:
        on_progress("experts", 0, 1)
        ground = _ground_owners(dataset, partition, extent, terrain)
        experts = Experts(partition, count_work(dataset, partition), *ground, tuple(others))
        masks = check_masks(dataset, partition)
        on_progress("experts", 1, 1)
    figures = key_figures(
        roster, views, tracks, coverages[0], dataset.frame, float(np.median(terrain.ground_up_m))
    )
    problems = in_order(
        check_photographs(roster, views, photos)
        + check_poses(roster, views, tracks)
        + check_experts(experts)
        + masks
        + check_whole(figures)
    )
    return Survey(
        dataset, roster, tracks, terrain, views, extent, coverages,
        tuple(mosaic.rgba for mosaic in mosaics), tuple(photos), experts, figures, problems,
    )  # fmt: skip


def _terrain(dataset: Dataset, tracks: Tracks) -> Terrain:
    """Fit the first flight's points; without them, all points; without any, level ground."""
    first = tracks.points_m[tracks.point_flights == 0]
    points = first if len(first) else tracks.points_m
    return fit_terrain(points) if len(points) else flat_terrain(
        dataset.frame.altitude_range_enu_m[0])  # fmt: skip


def _ground_owners(
    dataset: Dataset, partition: Partition, extent: Extent, terrain: Terrain
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return who owns the ground, and who is nearest to it, each bool[rows, columns, K]."""
    centres = extent.cell_centres(_EXPERT_CELLS)
    places = np.dstack([centres, terrain.ground_at(centres)])
    world = dataset.frame.enu_m_to_world(places.reshape(-1, 3))
    box = partition.aabb[:, 1:].astype(np.float64)
    inside = ((world[:, 1:] >= box[0]) & (world[:, 1:] <= box[1])).all(axis=1)
    owned, nearest = (
        point_owners(
            world, partition.centroids, boundary_margin=margin, cluster_2d=partition.cluster_2d
        )
        & inside[:, None]
        for margin in (partition.boundary_margin, 1.0)
    )
    return owned.reshape(*centres.shape[:2], -1), nearest.reshape(*centres.shape[:2], -1)
