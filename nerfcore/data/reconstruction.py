"""Owns reconstructing photographs with COLMAP: SIFT on the CPU, incremental mapping, GPS.

The same photographs give the same model: rows are numbered in the order of names before features
are found, every pair's RANSAC starts from one seed, and the mapper works on one thread, as its
sums depend on the order of its threads. A model that does not fit the GPS is tried again in other
ways, in a fixed order. Everything is kept in a work folder, so that a killed run goes on from
there; the alignment's file comes last.
"""

import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pycolmap

from nerfcore import atomic
from nerfcore.data.exif import camera_label
from nerfcore.data.georegistration import (
    GPS_NOISE_M,
    Placement,
    local_positions,
    misfit,
    place,
)
from nerfcore.errors import DataError
from nerfcore.geometry.geodesy import GeoPoint, geodetic_to_ecef
from nerfcore.machine import usable_cores

Progress = Callable[[str, int, int], None]
ALIGNMENT_FILE: Final = "alignment.json"
_MATCHED_FILE, _MODEL_FOLDER, _DATABASE_FILE = "matched.json", "model", "database.db"
_LARGEST_SIDE_PX: Final = 2400  # SIFT gains nothing from more, but takes memory by the pixel
_ALL_PAIRS_UP_TO: Final = 60  # photographs; above, only near ones are matched
_NEIGHBOURS: Final = 30
_NEXT_BY_NAME: Final = 10
_AT_ONCE: Final = 8  # photographs between two reports of progress
_PAIRS_AT_ONCE: Final = 200
_ENOUGH: Final = 0.5  # of the photographs; a try that places fewer is followed by another
_LISTED: Final = 10
_SEED: Final = 0


@dataclass(frozen=True)
class Request:
    """What to reconstruct.

    Attributes:
        folder: where the photographs lie.
        work: what a run leaves for the next one; exists.
        names: photographs, relative to the folder, sorted.
        places: GPS positions by name.
    """

    folder: Path
    work: Path
    names: tuple[str, ...]
    places: dict[str, GeoPoint]

    @property
    def database(self) -> Path:
        """COLMAP's database."""
        return self.work / _DATABASE_FILE


@dataclass(frozen=True)
class _Attempt:
    """One way to map.

    Attributes:
        seed: of everything random.
        focal_per_side: focal length to begin with, of the longer side, where EXIF data say none.
        focal_limits: what it may become, of the longer side.
        use_gps: let the adjustment hold the cameras near their GPS positions.
    """

    seed: int
    focal_per_side: float = 1.2
    focal_limits: tuple[float, float] = (0.1, 10.0)
    use_gps: bool = False


# Without a focal length in the EXIF data, a wide view from straight above also fits a far-away
# telephoto camera; narrower limits, another initial pair and at last the GPS rule that out.
_ATTEMPTS: Final = (
    _Attempt(seed=0),
    _Attempt(seed=1, focal_limits=(0.3, 3.0)),
    _Attempt(seed=2, focal_limits=(0.3, 3.0), focal_per_side=0.75, use_gps=True),
)


def reconstruct_photographs(request: Request, on_progress: Progress) -> None:
    """Leave a model in ECEF and its alignment in the work folder.

    Args:
        request: see there.
        on_progress: called with (phase, done, total).

    Raises:
        DataError: a photograph COLMAP cannot read, no reconstruction, or none that fits the GPS.
        OSError: the disk is full.
    """
    pycolmap.logging.minloglevel = int(pycolmap.logging.ERROR)
    pycolmap.set_random_seed(_SEED)
    cameras = _register(request)
    _find_features(request, cameras, on_progress)
    _match(request, on_progress)
    model, found = _map_until_it_fits(request, on_progress)
    model.transform(found.to_ecef)
    (request.work / _MODEL_FOLDER).mkdir(exist_ok=True)
    model.write_binary(str(request.work / _MODEL_FOLDER))
    atomic.write_text(request.work / ALIGNMENT_FILE, json.dumps(asdict(found.alignment)))


def _register(request: Request) -> dict[int, list[str]]:
    """Write cameras and images before their features, so that numbers follow names.

    Photographs of one make, model and size share a camera. Returns the names by camera.
    """
    groups: dict[tuple[str, int, int], list[str]] = {}
    for name in request.names:
        groups.setdefault(camera_label(request.folder / name), []).append(name)
    with pycolmap.Database.open(request.database) as database:
        if database.num_images() == 0:
            with pycolmap.DatabaseTransaction(database):
                _write_rows(request, database, list(groups.values()))
        by_camera: dict[int, list[str]] = {}
        for image in database.read_all_images():
            by_camera.setdefault(int(image.camera_id), []).append(image.name)
    return by_camera


def _write_rows(
    request: Request, database: pycolmap.Database, groups: Sequence[Sequence[str]]
) -> None:
    """Write a camera and its rig for each group, then an image and its frame for each name."""
    owners: dict[str, tuple[int, int]] = {}
    for group in groups:
        camera = pycolmap.infer_camera_from_image(request.folder / group[0])
        camera.camera_id = database.write_camera(camera)
        rig = pycolmap.Rig()
        rig.add_ref_sensor(camera.sensor_id)
        rig_id = database.write_rig(rig)
        owners |= {name: (camera.camera_id, rig_id) for name in group}
    for name in request.names:
        camera_id, rig_id = owners[name]
        image = pycolmap.Image(name=name, camera_id=camera_id)
        image.image_id = database.write_image(image)
        frame = pycolmap.Frame()
        frame.rig_id = rig_id
        frame.add_data_id(image.data_id)
        database.write_frame(frame)


def _find_features(
    request: Request, by_camera: dict[int, list[str]], on_progress: Progress
) -> None:
    options = pycolmap.FeatureExtractionOptions()
    options.max_image_size = _LARGEST_SIDE_PX
    options.num_threads = usable_cores()
    done = 0
    for camera_id, group in by_camera.items():
        reader = pycolmap.ImageReaderOptions(existing_camera_id=camera_id)
        for start in range(0, len(group), _AT_ONCE):
            chosen = group[start : start + _AT_ONCE]
            pycolmap.extract_features(
                request.database,
                request.folder,
                chosen,
                pycolmap.CameraMode.SINGLE,
                reader,
                options,
                pycolmap.Device.cpu,
            )
            done += len(chosen)
            on_progress("finding features", done, len(request.names))
    _require_features(request)


def _require_features(request: Request) -> None:
    """Refuse photographs that COLMAP passed over."""
    with pycolmap.Database.open(request.database) as database:
        images = database.read_all_images()
        missing = [one.name for one in images if not database.exists_keypoints(one.image_id)]
    if missing:
        shown = ", ".join(missing[:_LISTED]) + (", ..." if len(missing) > _LISTED else "")
        raise DataError(
            f"{request.folder}: COLMAP could not read {len(missing)} of {len(request.names)} "
            f"photographs: {shown}; save them as ordinary JPEG or PNG, or remove them"
        )


def _match(request: Request, on_progress: Progress) -> None:
    pairs = choose_pairs(request.names, request.places)
    marker = request.work / _MATCHED_FILE
    first = json.loads(marker.read_text()) if marker.is_file() else 0
    matching = pycolmap.FeatureMatchingOptions(num_threads=usable_cores())
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = _SEED
    listing = request.work / "pairs.txt"
    for start in range(first, len(pairs), _PAIRS_AT_ONCE):
        chosen = pairs[start : start + _PAIRS_AT_ONCE]
        listing.write_text("".join(f"{one} {other}\n" for one, other in chosen))
        pairing = pycolmap.ImportedPairingOptions(match_list_path=listing)
        pycolmap.match_image_pairs(
            request.database, matching, pairing, verification, pycolmap.Device.cpu
        )
        atomic.write_text(marker, json.dumps(start + len(chosen)))
        on_progress("matching photographs", start + len(chosen), len(pairs))


def choose_pairs(names: Sequence[str], places: dict[str, GeoPoint]) -> list[tuple[str, str]]:
    """Return which photographs to match: all, or those near each other by GPS and by name.

    Args:
        names: photographs, sorted.
        places: GPS positions by name; need not hold all.
    """
    if len(names) <= _ALL_PAIRS_UP_TO:
        return list(itertools.combinations(names, 2))
    located = sorted(places)
    ecef = np.array([geodetic_to_ecef(places[name]) for name in located])
    chosen: set[tuple[str, str]] = set()
    for index, name in enumerate(located):
        nearest = np.argsort(np.linalg.norm(ecef - ecef[index], axis=1))[1 : _NEIGHBOURS + 1]
        chosen |= {(min(name, located[j]), max(name, located[j])) for j in nearest}
    for index, name in enumerate(names):
        followers = names[index + 1 : index + 1 + _NEXT_BY_NAME]
        chosen |= {(name, other) for other in followers if not {name, other} <= places.keys()}
    return sorted(chosen)


def _map_until_it_fits(
    request: Request, on_progress: Progress
) -> tuple[pycolmap.Reconstruction, Placement]:
    """Return the first model that fits the GPS and holds enough, else the largest that fits.

    Raises:
        DataError: there is none, or none that fits.
    """
    fitting: list[tuple[pycolmap.Reconstruction, Placement]] = []
    refusals: list[tuple[int, DataError]] = []
    for number, attempt in enumerate(_ATTEMPTS, start=1):
        phase = "placing photographs" + (f", try {number}" if number > 1 else "")
        for model in _map(request, attempt, phase, on_progress):
            try:
                found = place(request.folder, model, len(request.names), request.places)
            except DataError as error:
                refusals.append((model.num_reg_images(), error))
                continue
            if found.alignment.fits:
                fitting.append((model, found))
            else:
                refusal = misfit(request.folder, found.alignment, len(_ATTEMPTS))
                refusals.append((model.num_reg_images(), refusal))
        best = max(fitting, key=lambda one: one[1].alignment.reconstructed, default=None)
        if best is not None and _is_enough(best[1], len(request.names)):
            return best
    if fitting:
        return max(fitting, key=lambda one: one[1].alignment.reconstructed)
    if refusals:
        raise max(refusals, key=lambda one: one[0])[1]
    raise DataError(
        f"{request.folder}: COLMAP found no reconstruction of the {len(request.names)} "
        "photographs; they need to be sharp and to overlap by about two thirds"
    )


def _is_enough(found: Placement, photographs: int) -> bool:
    return found.alignment.reconstructed >= _ENOUGH * photographs


def _map(
    request: Request, attempt: _Attempt, phase: str, on_progress: Progress
) -> list[pycolmap.Reconstruction]:
    """Return the models of one try."""
    unplaced = request.work / "unplaced"
    shutil.rmtree(unplaced, ignore_errors=True)
    unplaced.mkdir()
    _set_focal_lengths(request, attempt)
    if attempt.use_gps:
        _write_priors(request)
    count = len(request.names)
    added = itertools.count(3)
    models = pycolmap.incremental_mapping(
        request.database,
        request.folder,
        unplaced,
        _options(attempt, count),
        next_image_callback=lambda: on_progress(phase, min(next(added), count), count),
    )
    on_progress(phase, count, count)
    return [models[number] for number in sorted(models)]


def _options(attempt: _Attempt, photographs: int) -> pycolmap.IncrementalPipelineOptions:
    options = pycolmap.IncrementalPipelineOptions(
        random_seed=attempt.seed,
        num_threads=1,
        min_model_size=min(10, photographs),
        use_prior_position=attempt.use_gps,
        use_robust_loss_on_prior_position=attempt.use_gps,
    )
    for part in (options, options.mapper, options.triangulation):
        part.min_focal_length_ratio, part.max_focal_length_ratio = attempt.focal_limits
    return options


def _set_focal_lengths(request: Request, attempt: _Attempt) -> None:
    """Begin with the attempt's focal length, whatever an earlier one began with."""
    with pycolmap.Database.open(request.database) as database:
        for camera in database.read_all_cameras():
            if not camera.has_prior_focal_length:
                side_px = max(camera.width, camera.height)
                camera.focal_length = attempt.focal_per_side * side_px
                database.update_camera(camera)


def _write_priors(request: Request) -> None:
    """Write the GPS positions as priors, in ENU metres."""
    names = sorted(request.places)
    positions_m, _ = local_positions([request.places[name] for name in names])
    with pycolmap.Database.open(request.database) as database:
        database.clear_pose_priors()
        for name, position_m in zip(names, positions_m, strict=True):
            image = database.read_image_with_name(name)
            if image is None:
                raise DataError(f"{name}: not among the photographs; begin anew without --resume")
            prior = pycolmap.PosePrior()
            prior.corr_data_id = image.data_id
            prior.position = position_m
            prior.position_covariance = GPS_NOISE_M**2 * np.eye(3)
            prior.coordinate_system = pycolmap.PosePriorCoordinateSystem.CARTESIAN
            database.write_pose_prior(prior)
