"""Owns writing the flights as a genuine COLMAP model in ECEF (WGS 84, metres)."""

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
import pymap3d
from numpy.typing import NDArray

from nerfcore.city.flight import Flight, Shot
from nerfcore.city.plan import Plan
from nerfcore.city.sparse import Points, Sightings
from nerfcore.data.colmap_check import check_model_files
from nerfcore.errors import DataError


@dataclass(frozen=True)
class Place:
    """The geographic reference: ENU's origin. Degrees and metres above the ellipsoid."""

    latitude_deg: float
    longitude_deg: float
    height_m: float

    def ecef_from_enu(self) -> NDArray[np.float64]:
        """Return f64[3, 3] that turns ENU directions into ECEF."""
        columns = [
            pymap3d.enu2uvw(float(e), float(n), float(u), self.latitude_deg, self.longitude_deg)
            for e, n, u in np.eye(3)
        ]
        return np.array(columns, dtype=np.float64).T

    def to_ecef(self, enu_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return ECEF coordinates, f64[N, 3], of ENU points f64[N, 3]."""
        axes = pymap3d.enu2ecef(
            enu_m[:, 0], enu_m[:, 1], enu_m[:, 2],
            self.latitude_deg, self.longitude_deg, self.height_m,
        )  # fmt: skip
        return np.stack([np.asarray(axis, np.float64) for axis in axes], axis=1)


def cam_from_ecef(shot: Shot, place: Place) -> pycolmap.Rigid3d:
    """Return a shot's world-to-camera pose with ECEF as the world."""
    turn = shot.axes @ place.ecef_from_enu().T
    centre = place.to_ecef(shot.centre_m[None, :])[0]
    return pycolmap.Rigid3d(pycolmap.Rotation3d(turn), -turn @ centre)


def point_colours(
    photographs: Sequence[NDArray[np.uint8]], sightings: list[Sightings], count: int
) -> NDArray[np.uint8]:
    """Return each point's mean colour over the photographs that observe it, u8[P, 3].

    Args:
        photographs: u8[H, W, 3] each, in the order of the sightings.
        sightings: per photograph.
        count: number of points.
    """
    total, seen = np.zeros((count, 3)), np.zeros(count)
    for photograph, sighting in zip(photographs, sightings, strict=True):
        column, row = sighting.pixels.astype(int).T
        total[sighting.points] += photograph[row, column]
        seen[sighting.points] += 1
    return np.round(total / np.maximum(seen, 1)[:, None]).astype(np.uint8)


def write_model(
    folder: Path, flights: Sequence[Flight], sightings: list[Sightings], points: Points,
    colours: NDArray[np.uint8], plan: Plan, place: Place,
) -> float:  # fmt: skip
    """Write a COLMAP binary model.

    Args:
        folder: made here.
        flights: each camera with its shots; images are numbered from 1 in this order.
        sightings: per photograph, in the same order.
        points: all points, each with a track of at least two sightings.
        colours: u8[P, 3].
        plan: the city's, for the turn to ENU.
        place: the geographic reference.

    Returns:
        The mean reprojection error, px.
    """
    model = pycolmap.Reconstruction()
    tracks: list[list[pycolmap.TrackElement]] = [[] for _ in range(len(points.xyz))]
    image_id = 0
    for flight in flights:
        model.add_camera_with_trivial_rig(flight.camera)
        for shot in flight.shots:
            seen = sightings[image_id]
            image_id += 1
            image = pycolmap.Image(
                name=shot.name, keypoints=seen.pixels, camera_id=flight.camera.camera_id,
                image_id=image_id,
            )  # fmt: skip
            model.add_image_with_trivial_frame(image, cam_from_ecef(shot, place))
            for slot, point in enumerate(seen.points):
                tracks[point].append(pycolmap.TrackElement(image_id, slot))
    ecef = place.to_ecef(points.xyz @ plan.enu_from_city().T)
    for xyz, track, colour in zip(ecef, tracks, colours, strict=True):
        model.add_point3D(xyz, pycolmap.Track(track), colour)
    model.update_point_3d_errors()
    folder.mkdir()
    model.write_binary(folder)
    _check_written(folder)
    return float(model.compute_mean_reprojection_error())


def _check_written(folder: Path) -> None:
    """Check that the model is whole: COLMAP does not notice that a disk is full.

    Raises:
        OSError: it is not.
    """
    try:
        check_model_files(folder)
    except DataError as error:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
