"""Owns reading a COLMAP model (binary or text, old and new layouts) through pycolmap.

Poses are COLMAP's: world-to-camera, camera axes RDF, the model's own world (ECEF or local), float64
metres. Pixel centres lie at +0.5. Other sources (transforms.json) give the same records.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pycolmap
from numpy.typing import NDArray

from nerfcore.data.camera_limits import FARTHEST_M, camera_fault
from nerfcore.data.colmap_check import check_model_files, find_model, is_binary
from nerfcore.data.colmap_text import RESTORE
from nerfcore.data.observations import read_observations
from nerfcore.data.storage import is_safe_relative, plain_name
from nerfcore.data.undistort import pinhole_for
from nerfcore.errors import DataError

_SHORTEST_QUATERNION: Final = 1e-6


@dataclass(frozen=True, eq=False)
class ColmapPoints:
    """Sparse points in the model's world.

    Attributes:
        xyz_m: f64[P, 3].
        rgb: u8[P, 3].
        error_px: f64[P], mean reprojection error; -1 where the source lists none.
        track_lengths: i32[P].
        image_ids, point_ids: i32[T], rows of `ColmapModel.names` (ascending) and of `xyz_m`.
        xy_px: f64[T, 2], observed pixels in the source photographs.
    """

    xyz_m: NDArray[np.float64]
    rgb: NDArray[np.uint8]
    error_px: NDArray[np.float64]
    track_lengths: NDArray[np.int32]
    image_ids: NDArray[np.int32]
    point_ids: NDArray[np.int32]
    xy_px: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ColmapModel:
    """Posed photographs of a COLMAP model, sorted by name.

    Attributes:
        folder: where the model was read from, for errors.
        names: image names.
        cam_from_world: f64[N, 3, 4].
        cameras: the camera of each image.
        points: sparse points with the tracks of these images.
        unposed: number of images that COLMAP could not place (left out).
    """

    folder: Path
    names: tuple[str, ...]
    cam_from_world: NDArray[np.float64]
    cameras: tuple[pycolmap.Camera, ...]
    points: ColmapPoints
    unposed: int


def read_model(data_path: Path) -> ColmapModel:
    """Read the COLMAP model below a flight's folder.

    Args:
        data_path: folder that holds model/ (or model/0, sparse/, sparse/0).

    Raises:
        DataError: files missing, empty or cut off; no posed image; duplicate or unsafe names;
            non-finite poses, cameras or points.
    """
    folder = find_model(data_path)
    check_model_files(folder)
    try:
        model = pycolmap.Reconstruction(str(folder))
    except IndexError as error:
        raise DataError(
            f"{folder}: a track in points3D names an observation that images does not hold, so one "
            f"of the two files lost a part; {RESTORE}"
        ) from error
    except (ValueError, KeyError, RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{folder}: not a consistent COLMAP model ({reason}); {RESTORE}") from error
    for image in model.images.values():
        image.name = plain_name(image.name)
    posed = sorted(
        (image for image in model.images.values() if image.has_pose), key=lambda image: image.name
    )
    names = tuple(image.name for image in posed)
    cam_from_world = np.array([_pose(folder, image) for image in posed], np.float64)
    cameras = tuple(model.cameras[image.camera_id] for image in posed)
    check_views(folder, names, cam_from_world.reshape(-1, 3, 4), cameras)
    points = _read_points(folder, model, posed)
    return ColmapModel(
        folder, names, cam_from_world, cameras, points, model.num_images() - len(posed)
    )


def check_views(
    source: Path,
    names: tuple[str, ...],
    cam_from_world: NDArray[np.float64],
    cameras: Sequence[pycolmap.Camera],
) -> None:
    """Check names, poses f64[N, 3, 4] and cameras of a source.

    Raises:
        DataError: none at all; duplicate or unsafe names; non-finite poses or cameras.
    """
    _check_names(source, names)
    _check_finite(source, names, cam_from_world, tuple(cameras))


def _pose(folder: Path, image: pycolmap.Image) -> NDArray[np.float64]:
    """Return the pose f64[3, 4]; the quaternion is normalised, which pycolmap leaves to us."""
    pose = image.cam_from_world()
    quaternion = np.asarray(pose.rotation.quat, np.float64)
    length = float(np.linalg.norm(quaternion))
    if length < _SHORTEST_QUATERNION:
        raise DataError(
            f"{folder}: the pose of '{image.name}' has a quaternion of length {length:g}, which "
            "is no rotation; remove the image from the model or register it again"
        )
    rotation = pycolmap.Rotation3d(quaternion / length).matrix()
    return np.column_stack([rotation, pose.translation])


def _check_names(folder: Path, names: tuple[str, ...]) -> None:
    if not names:
        raise DataError(f"{folder}: 0 posed images; at least 2 are needed; {RESTORE}")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(
            f"{folder}: image name '{twice[0]}' occurs more than once ({len(twice)} such names); "
            "names must be unique"
        )
    unsafe = [name for name in names if not is_safe_relative(name)]
    if unsafe:
        raise DataError(
            f"{folder}: image name {unsafe[0]!r} is absolute or leaves the image folder "
            f"({len(unsafe)} such names); use names relative to images/ without '..'"
        )


def _check_finite(
    folder: Path,
    names: tuple[str, ...],
    cam_from_world: NDArray[np.float64],
    cameras: tuple[pycolmap.Camera, ...],
) -> None:
    bad_poses = ~np.isfinite(cam_from_world).all(axis=(1, 2))
    if bad_poses.any():
        first = names[int(np.argmax(bad_poses))]
        raise DataError(
            f"{folder}: the pose of '{first}' is not finite ({int(bad_poses.sum())} such images); "
            "remove the image from the model or register it again"
        )
    far_m = np.abs(cam_from_world[:, :, 3]).max(axis=1)
    if far_m.max() > FARTHEST_M:
        raise DataError(
            f"{folder}: the camera of '{names[int(far_m.argmax())]}' is {far_m.max():.3g} m from "
            f"the origin (at most {FARTHEST_M:g} m); correct its pose or remove the image"
        )
    for name, camera in zip(names, cameras, strict=True):
        if not np.isfinite(camera.params).all():
            raise DataError(
                f"{folder}: the camera of '{name}' is unusable ({camera.width}x{camera.height} px, "
                f"parameters {camera.params_to_string()}); {RESTORE}"
            )
        if (fault := _camera_fault(camera)) is not None:
            raise DataError(
                f"{folder}: the camera of '{name}' cannot be: {fault}; correct the camera"
            )
    images_of = {
        (camera.model_name, camera.width, camera.height, camera.params_to_string()): (name, camera)
        for name, camera in zip(reversed(names), reversed(cameras), strict=True)
    }
    for name, camera in images_of.values():
        try:
            pinhole_for(camera)
        except DataError as error:
            raise DataError(f"{folder}: image '{name}', {error}") from error


def _camera_fault(camera: pycolmap.Camera) -> str | None:
    params = camera.params
    centre = [float(params[i]) for i in camera.principal_point_idxs()]
    if not centre:  # a panorama has none
        centre = [camera.width / 2.0, camera.height / 2.0]
    return camera_fault(
        (camera.width, camera.height),
        [float(params[i]) for i in camera.focal_length_idxs()],
        (centre[0], centre[1]),
        [float(params[i]) for i in camera.extra_params_idxs()],
    )


def _read_points(
    folder: Path, model: pycolmap.Reconstruction, posed: list[pycolmap.Image]
) -> ColmapPoints:
    if any(not point.has_error() for point in model.points3D.values()):
        model.update_point_3d_errors()
    ids = list(model.points3D.keys())
    points = [model.points3D[point_id] for point_id in ids]
    xyz_m = np.array([point.xyz for point in points], np.float64).reshape(-1, 3)
    error_px = np.array([point.error for point in points], np.float64)
    unusable = ~((np.abs(xyz_m) <= FARTHEST_M).all(axis=1) & np.isfinite(error_px))
    if unusable.any():
        raise DataError(
            f"{folder}: {int(unusable.sum())} sparse points are not finite or beyond "
            f"{FARTHEST_M:g} m (first: point {ids[int(np.argmax(unusable))]}); {RESTORE}"
        )
    point_numbers = np.array(ids, np.uint64)
    image_ids, point_ids, xy_px = _read_tracks(folder, posed, point_numbers)
    track_lengths = np.array([point.track.length() for point in points], np.int32)
    if not is_binary(folder) and len(posed) == model.num_images():
        _check_tracks(folder, point_numbers, track_lengths, point_ids)
    return ColmapPoints(
        xyz_m,
        np.array([point.color for point in points], np.uint8).reshape(-1, 3),
        error_px,
        track_lengths,
        image_ids,
        point_ids,
        xy_px,
    )


def _read_tracks(
    folder: Path, posed: list[pycolmap.Image], ids: NDArray[np.uint64]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    rows = {image.image_id: row for row, image in enumerate(posed)}
    return read_observations(
        folder / ("images.bin" if is_binary(folder) else "images.txt"), rows, ids
    )


def _check_tracks(
    folder: Path, ids: NDArray[np.uint64], lengths: NDArray[np.int32], point_ids: NDArray[np.int32]
) -> None:
    """Check that tracks and observations tell the same, which a cut within a line breaks.

    Models of other programs may list tracks without any observation: those pass.
    """
    observed = np.bincount(point_ids, minlength=len(ids))
    wrong = np.flatnonzero(observed != lengths)
    if len(point_ids) and len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{folder / 'points3D.txt'}: point {ids[first]} has a track of {lengths[first]} "
            f"photographs, but {observed[first]} in images.txt see it ({len(wrong)} such points): "
            f"a line was cut off; {RESTORE}"
        )
