"""Owns reconstructing a plain folder of photographs and placing it on the Earth by their GPS.

COLMAP's incremental mapping with SIFT, on the CPU. The result is turned into ECEF by the similarity
that brings the cameras to their EXIF positions (fitted in ENU around the mean position, outliers
left out). Everything is kept in a work folder, so that an interrupted run goes on from there.
"""

import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pycolmap
from numpy.typing import NDArray

from nerfcore.data.colmap import ColmapModel, read_model
from nerfcore.data.exif import camera_label, read_gps
from nerfcore.data.similarity import Similarity, fit_robustly
from nerfcore.errors import DataError
from nerfcore.geometry.geodesy import (
    GeoPoint,
    ecef_to_enu,
    ecef_to_enu_rotation,
    ecef_to_geodetic,
    geodetic_to_ecef,
)

Progress = Callable[[str, int, int], None]
Float64 = NDArray[np.float64]
ENDINGS: Final = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff"})
_LARGEST_SIDE_PX: Final = 2400  # SIFT gains nothing from more, but takes memory by the pixel
_ALL_PAIRS_UP_TO: Final = 60  # photographs; above, only near ones are matched
_NEIGHBOURS: Final = 30
_NEXT_BY_NAME: Final = 10
_AT_ONCE: Final = 8  # photographs between two reports of progress
_PAIRS_AT_ONCE: Final = 200
_LEAST_PLACED: Final = 3
_LEAST_WIDTH: Final = 0.02  # of a flight's length; a straight line leaves the roll open
_GPS_NOISE_M: Final = 5.0  # residuals up to this are no outliers
_SEED: Final = 0
_MATCHED_FILE, _MODEL_FOLDER, _ALIGNMENT_FILE = "matched.json", "model", "alignment.json"


@dataclass(frozen=True)
class Alignment:
    """How well a reconstruction fits its GPS positions.

    Attributes:
        photographs, reconstructed, with_gps: numbers of photographs.
        metres_per_unit: scale of the similarity.
        median_m, largest_m: distance between cameras and their GPS positions.
    """

    photographs: int
    reconstructed: int
    with_gps: int
    metres_per_unit: float
    median_m: float
    largest_m: float


def find_images(folder: Path) -> tuple[str, ...]:
    """Return the photographs below a folder, by relative name, sorted.

    Raises:
        DataError: there are fewer than three.
    """
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in ENDINGS and path.is_file()
    )
    if len(names) < _LEAST_PLACED:
        raise DataError(
            f"{folder}: {len(names)} photographs ({', '.join(sorted(ENDINGS))}); --sfm needs at "
            f"least {_LEAST_PLACED}"
        )
    spaced = [name for name in names if name.split() != [name]]
    if spaced:
        raise DataError(
            f"{folder}: {spaced[0]!r} holds a space ({len(spaced)} such names), at which COLMAP's "
            "list of pairs ends a name; rename the photographs"
        )
    return tuple(names)


def reconstruct(folder: Path, work: Path, on_progress: Progress) -> tuple[ColmapModel, Alignment]:
    """Reconstruct a folder of photographs as a model in ECEF.

    Args:
        folder: the photographs; at least three need GPS in their EXIF data.
        work: what a run leaves for the next one; made here.
        on_progress: called with (phase, done, total).

    Raises:
        DataError: too few photographs with GPS, no reconstruction, or positions that leave the
            placement open.
    """
    names = find_images(folder)
    places = {name: place for name in names if (place := read_gps(folder / name)) is not None}
    if len(places) < _LEAST_PLACED:
        raise DataError(
            f"{folder}: {len(places)} of {len(names)} photographs have GPS in their EXIF data, at "
            f"least {_LEAST_PLACED} are needed; use the originals, or bring a COLMAP model"
        )
    work.mkdir(parents=True, exist_ok=True)
    if not (work / _ALIGNMENT_FILE).is_file():
        pycolmap.logging.minloglevel = int(pycolmap.logging.ERROR)
        pycolmap.set_random_seed(_SEED)
        database = work / "database.db"
        _find_features(folder, names, database, on_progress)
        _match(work, names, places, database, on_progress)
        model = _map(folder, names, work, database, on_progress)
        _place(folder, model, len(names), places, work)
    return read_model(work), Alignment(**json.loads((work / _ALIGNMENT_FILE).read_text()))


def _find_features(
    folder: Path, names: Sequence[str], database: Path, on_progress: Progress
) -> None:
    """Photographs of one make, model and size share a camera."""
    groups: dict[tuple[str, int, int], list[str]] = {}
    for name in names:
        groups.setdefault(camera_label(folder / name), []).append(name)
    options = pycolmap.FeatureExtractionOptions()
    options.max_image_size = _LARGEST_SIDE_PX
    done = 0
    for group in groups.values():
        reader = pycolmap.ImageReaderOptions()
        for start in range(0, len(group), _AT_ONCE):
            chosen = group[start : start + _AT_ONCE]
            pycolmap.extract_features(
                database,
                folder,
                chosen,
                pycolmap.CameraMode.SINGLE,
                reader,
                options,
                pycolmap.Device.cpu,
            )
            reader.existing_camera_id = _camera_of(database, chosen[0])
            done += len(chosen)
            on_progress("finding features", done, len(names))


def _camera_of(database: Path, name: str) -> int:
    with pycolmap.Database.open(database) as opened:
        image = opened.read_image_with_name(name)
    if image is None:
        raise DataError(f"{name}: COLMAP could not read the photograph; restore or remove it")
    return int(image.camera_id)


def _match(
    work: Path,
    names: Sequence[str],
    places: dict[str, GeoPoint],
    database: Path,
    on_progress: Progress,
) -> None:
    pairs = _pairs(names, places)
    marker = work / _MATCHED_FILE
    first = json.loads(marker.read_text()) if marker.is_file() else 0
    listing = work / "pairs.txt"
    for start in range(first, len(pairs), _PAIRS_AT_ONCE):
        chosen = pairs[start : start + _PAIRS_AT_ONCE]
        listing.write_text("".join(f"{one} {other}\n" for one, other in chosen))
        pairing = pycolmap.ImportedPairingOptions()
        pairing.match_list_path = listing
        pycolmap.match_image_pairs(database, pairing_options=pairing, device=pycolmap.Device.cpu)
        marker.write_text(json.dumps(start + len(chosen)))
        on_progress("matching photographs", start + len(chosen), len(pairs))


def _pairs(names: Sequence[str], places: dict[str, GeoPoint]) -> list[tuple[str, str]]:
    """Return which photographs to match: all, or those near each other by GPS and by name."""
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


def _map(
    folder: Path, names: Sequence[str], work: Path, database: Path, on_progress: Progress
) -> pycolmap.Reconstruction:
    """Return the reconstruction that holds the most photographs."""
    unplaced = work / "unplaced"
    shutil.rmtree(unplaced, ignore_errors=True)
    unplaced.mkdir()
    added = itertools.count(3)
    options = pycolmap.IncrementalPipelineOptions(
        random_seed=_SEED, min_model_size=min(10, len(names))
    )
    models = pycolmap.incremental_mapping(
        database,
        folder,
        unplaced,
        options,
        next_image_callback=lambda: on_progress(
            "placing photographs", min(next(added), len(names)), len(names)
        ),
    )
    if not models:
        raise DataError(
            f"{folder}: COLMAP found no reconstruction of the {len(names)} photographs; they need "
            "to be sharp and to overlap by about two thirds"
        )
    on_progress("placing photographs", len(names), len(names))
    return max(models.values(), key=lambda model: model.num_reg_images())


def _place(
    folder: Path,
    model: pycolmap.Reconstruction,
    photographs: int,
    places: dict[str, GeoPoint],
    work: Path,
) -> None:
    """Turn the model into ECEF and write it; the alignment's file comes last."""
    posed = [image for image in model.images.values() if image.has_pose]
    used = [image for image in posed if image.name in places]
    if len(used) < _LEAST_PLACED:
        raise DataError(
            f"{folder}: {len(used)} reconstructed photographs have GPS, at least {_LEAST_PLACED} "
            "are needed; use the originals, or bring a COLMAP model"
        )
    ecef = np.array([geodetic_to_ecef(places[image.name]) for image in used])
    reference = GeoPoint(*(float(value) for value in ecef_to_geodetic(ecef.mean(axis=0))))
    target = ecef_to_enu(ecef, reference)
    _check_spread(folder, target)
    source = np.array([image.projection_center() for image in used])
    found, residuals_m = fit_robustly(source, target, _GPS_NOISE_M)
    model.transform(_to_ecef(found, reference))
    (work / _MODEL_FOLDER).mkdir(exist_ok=True)
    model.write_binary(str(work / _MODEL_FOLDER))
    alignment = {
        "photographs": photographs,
        "reconstructed": len(posed),
        "with_gps": len(used),
        "metres_per_unit": found.scale,
        "median_m": float(np.median(residuals_m)),
        "largest_m": float(residuals_m.max()),
    }
    (work / _ALIGNMENT_FILE).write_text(json.dumps(alignment))


def _check_spread(folder: Path, positions_m: Float64) -> None:
    """Refuse GPS positions on one line or in one place: they leave the placement open."""
    spread = np.linalg.svd(positions_m - positions_m.mean(axis=0), compute_uv=False)
    if spread[0] == 0.0 or spread[1] < _LEAST_WIDTH * spread[0]:
        raise DataError(
            f"{folder}: the GPS positions of the {len(positions_m)} reconstructed photographs lie "
            "in one place or on one line, which leaves the site's tilt open; use a flight with "
            "turns or a second line"
        )


def _to_ecef(found: Similarity, reference: GeoPoint) -> pycolmap.Sim3d:
    from_enu = ecef_to_enu_rotation(reference).T
    rotation = pycolmap.Rotation3d(from_enu @ found.rotation)
    return pycolmap.Sim3d(
        found.scale, rotation, from_enu @ found.shift + geodetic_to_ecef(reference)
    )
