"""Owns finding sparse points for photographs whose poses are known.

COLMAP's SIFT features, matched between near photographs on the CPU and triangulated with the poses
as they are. Nothing is written beside the dataset here: the work folder is a temporary one.
"""

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pycolmap
from numpy.typing import NDArray
from scipy.spatial import KDTree

from nerfcore.data.colmap import ColmapModel, read_model
from nerfcore.data.placing import near_ground
from nerfcore.data.records import ImageSet, SceneFrame, SparsePoints
from nerfcore.data.writing import sparse_points, undistortions
from nerfcore.errors import DataError
from nerfcore.geometry.frames import c2w_to_colmap

Progress = Callable[[str, int, int], None]
Cameras = dict[tuple[float, ...], list[int]]
_LARGEST_SIDE_PX: Final = 2400  # SIFT gains nothing from more, but takes memory by the pixel
_ALL_PAIRS_UP_TO: Final = 60  # photographs; above, only near ones are matched
_NEIGHBOURS: Final = 30
_AT_ONCE: Final = 8  # photographs between two reports of progress
_PAIRS_AT_ONCE: Final = 200
_LOW_QUANTILE: Final = 0.01
_MAX_HEIGHT_M: Final = 200.0
_LEAST_TRACK: Final = 3  # two photographs agree on a wrong match too easily
_SEED: Final = 0


def triangulate(
    images: ImageSet, frame: SceneFrame, on_progress: Progress = lambda *_: None
) -> SparsePoints | None:
    """Find the points that at least three of the photographs see.

    Args:
        images: pinhole photographs with their poses.
        frame: the world they are posed in.
        on_progress: called with (phase, done, total).

    Returns:
        The points, further than 200 m above or below the ground left out; None when the photographs
        show nothing in common.
    """
    if len(images) < _LEAST_TRACK:
        return None
    pycolmap.logging.minloglevel = int(pycolmap.logging.ERROR)
    pycolmap.set_random_seed(_SEED)
    with tempfile.TemporaryDirectory(prefix="skyline-points-") as name:
        work = Path(name)
        _link(images, work / "images")
        database = work / "database.db"
        _find_features(images, work, database, on_progress)
        _match(images, work, database, on_progress)
        on_progress("triangulating", 0, 1)
        posed = _posed(images, frame, database)
        (work / "model").mkdir()
        found = pycolmap.triangulate_points(posed, database, work / "images", work / "model")
        found.write_binary(str(work / "model"))
        on_progress("triangulating", 1, 1)
        return _kept(read_model(work), images, frame)


def _link(images: ImageSet, folder: Path) -> None:
    """Name the photographs by their number: COLMAP's lists of pairs allow no spaces."""
    folder.mkdir()
    for index, path in enumerate(images.paths):
        (folder / _stem(index)).symlink_to(path.resolve())


def _stem(index: int) -> str:
    return f"{index:06d}"


def _cameras(images: ImageSet) -> Cameras:
    """Return the photographs of each camera: width, height, fx, fy, cx, cy."""
    groups: Cameras = {}
    for index in range(len(images)):
        size = float(images.widths_px[index]), float(images.heights_px[index])
        groups.setdefault((*size, *map(float, images.intrinsics[index])), []).append(index)
    return groups


def _find_features(images: ImageSet, work: Path, database: Path, on_progress: Progress) -> None:
    options = pycolmap.FeatureExtractionOptions()
    options.max_image_size = _LARGEST_SIDE_PX
    done = 0
    for camera, members in _cameras(images).items():
        reader = pycolmap.ImageReaderOptions()
        reader.camera_model = "PINHOLE"
        reader.camera_params = ",".join(f"{value:.9g}" for value in camera[2:])
        for start in range(0, len(members), _AT_ONCE):
            chosen = [_stem(index) for index in members[start : start + _AT_ONCE]]
            pycolmap.extract_features(
                database, work / "images", chosen, pycolmap.CameraMode.SINGLE, reader, options,
                pycolmap.Device.cpu,
            )  # fmt: skip
            with pycolmap.Database.open(database) as opened:
                listed = opened.read_image_with_name(chosen[0])
            if listed is None:
                raise DataError(
                    f"{images.paths[members[start]]}: COLMAP could not read the photograph; "
                    "restore the file"
                )
            reader.existing_camera_id = listed.camera_id
            done += len(chosen)
            on_progress("finding features", done, len(images))


def near_pairs(positions: NDArray[np.floating]) -> list[tuple[int, int]]:
    """Return which photographs to match: all of a few, else each with its nearest ones.

    Args:
        positions: [N, 3], where the photographs were taken.
    """
    count = len(positions)
    if count <= _ALL_PAIRS_UP_TO:
        return list(itertools.combinations(range(count), 2))
    nearest = np.asarray(KDTree(positions).query(positions, k=_NEIGHBOURS + 1)[1])
    pairs = {
        (min(one, int(other)), max(one, int(other)))
        for one, others in enumerate(nearest)
        for other in others
        if int(other) != one
    }
    return sorted(pairs)


def _match(images: ImageSet, work: Path, database: Path, on_progress: Progress) -> None:
    pairs = near_pairs(images.c2w[:, :, 3])
    listing = work / "pairs.txt"
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        chosen = pairs[start : start + _PAIRS_AT_ONCE]
        listing.write_text("".join(f"{_stem(one)} {_stem(other)}\n" for one, other in chosen))
        pairing = pycolmap.ImportedPairingOptions()
        pairing.match_list_path = listing
        pycolmap.match_image_pairs(database, pairing_options=pairing, device=pycolmap.Device.cpu)
        on_progress("matching photographs", start + len(chosen), len(pairs))


def _posed(images: ImageSet, frame: SceneFrame, database: Path) -> pycolmap.Reconstruction:
    """Return the photographs with their poses in ENU metres, under the database's numbers."""
    rotations, centres = c2w_to_colmap(images.c2w, frame.origin_drb_m, frame.pose_scale_factor_m)
    model = pycolmap.Reconstruction()
    with pycolmap.Database.open(database) as opened:
        for camera in opened.read_all_cameras():
            model.add_camera_with_trivial_rig(camera)
        for listed in opened.read_all_images():
            index = int(listed.name)
            turn = rotations[index].T
            image = pycolmap.Image(
                name=listed.name, camera_id=listed.camera_id, image_id=listed.image_id
            )
            pose = pycolmap.Rigid3d(pycolmap.Rotation3d(turn), -turn @ centres[index])
            model.add_image_with_trivial_frame(image, pose)
    return model


def _kept(model: ColmapModel, images: ImageSet, frame: SceneFrame) -> SparsePoints | None:
    """Return the points that enough photographs agree on, with the photographs' own names."""
    points_m = model.points.xyz_m
    keep = model.points.track_lengths >= _LEAST_TRACK
    if not keep.any():
        return None
    keep[keep] = near_ground(points_m[keep], _LOW_QUANTILE, _MAX_HEIGHT_M)
    found = sparse_points(
        model, points_m, frame, undistortions(model.cameras), keep,
        np.ones(len(model.names), np.bool_),
    )  # fmt: skip
    if found is None:
        return None
    return replace(found, image_names=tuple(images.names[int(name)] for name in found.image_names))
