"""Owns reading datasets prepared for the reference system, as they are.

    coordinates.pt            origin_drb (m), pose_scale_factor (m per unit), altitude_range_enu,
                              enu_ref_coords (latitude, longitude, height, or None)
    mappings.txt              image name,000000.pt
    train|val/                metadata/000000.pt (H, W, c2w, intrinsics), rgbs/000000.jpg
    continual/<batch>/        as train/, with manifest.json for the names
    masks/<name>/             see `nerfcore.data.reference_partition`

Its world, camera axes and pixel centres are ours. Its photographs are undistorted already; the
black borders that left are found when they are read. It has no sparse points, and its batches no
held-out part: a quarter, evenly spaced, is held out here.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nerfcore.data.camera_limits import camera_fault
from nerfcore.data.records import Batch, Dataset, ImageSet, SceneFrame
from nerfcore.data.splitting import evenly_spaced
from nerfcore.data.storage import is_safe_relative
from nerfcore.data.tensor_file import load_tensors
from nerfcore.errors import DataError
from nerfcore.geometry.frames import roughness
from nerfcore.geometry.geodesy import GeoPoint

COORDINATES_FILE: Final = "coordinates.pt"
MANIFEST_FILE: Final = "manifest.json"
HELDOUT_SHARE: Final = 0.25
_MEND: Final = "copy the dataset again from where it was prepared"
_PHOTOGRAPHS: Final = (".jpg", ".png", ".jpeg")
_LISTED: Final = 10
_SHOWN: Final = 80  # characters of a wrong value
_TOLERANCE: Final = 1e-3  # how far a pose may be from a pure rotation


def is_reference_dataset(root: Path) -> bool:
    """Tell whether a folder was prepared for the reference system."""
    return (root / COORDINATES_FILE).is_file()


def is_reference_batch(folder: Path) -> bool:
    """Tell whether a batch's folder was made by the reference system."""
    return (folder / MANIFEST_FILE).is_file() and (folder / "metadata").is_dir()


def load_reference_dataset(root: Path, batches: dict[str, Batch]) -> Dataset:
    """Load a dataset prepared for the reference system.

    Args:
        root: holds coordinates.pt.
        batches: its later batches.

    Raises:
        DataError: a file is missing or damaged, holds more than tensors, or a field is wrong.
    """
    listing = root / "mappings.txt"
    names = _mapped_names(listing)
    train = _image_set(root / "train", names, listing)
    if len(train) == 0:
        raise DataError(f"{root / 'train' / 'metadata'}: no image; at least 1 is needed; {_MEND}")
    val = _image_set(root / "val", names, listing)
    _check_complete(listing, names, (train, val))
    return Dataset(root, _frame(root / COORDINATES_FILE), train, val, batches, None)


def load_reference_batch(folder: Path) -> Batch:
    """Load a batch of the reference system, a quarter of it held out.

    Raises:
        DataError: as `load_reference_dataset`.
    """
    file = folder / MANIFEST_FILE
    try:
        items = json.loads(file.read_text())["items"]
        listed = [(str(item["id"]), str(item["image_name"])) for item in items]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: unreadable ({error!r}); {_MEND}") from error
    names = _checked_names(file, listed)
    images = _image_set(folder, names, file)
    _check_complete(file, names, (images,))
    heldout = evenly_spaced(len(images), HELDOUT_SHARE)
    return Batch(
        folder.name,
        images.subset(np.flatnonzero(~heldout)),
        images.subset(np.flatnonzero(heldout)),
    )


def _frame(file: Path) -> SceneFrame:
    content = _mapping(file)
    scale_m = _number(file, content, "pose_scale_factor")
    if scale_m <= 0.0:
        raise DataError(f"{file}: pose_scale_factor is {scale_m} m, must be positive; {_MEND}")
    low_m, high_m = _array(file, content, "altitude_range_enu", (2,))
    place = content.get("enu_ref_coords")
    reference = None
    if place is not None:
        values = _array(file, content, "enu_ref_coords", (3,))
        if abs(values[0]) > 90.0 or abs(values[1]) > 180.0:
            raise DataError(
                f"{file}: enu_ref_coords {values.tolist()}: latitude must be within 90, longitude "
                f"within 180 degrees; {_MEND}"
            )
        reference = GeoPoint(float(values[0]), float(values[1]), float(values[2]))
    origin = _array(file, content, "origin_drb", (3,))
    return SceneFrame(scale_m, origin, reference, (float(low_m), float(high_m)))


def _mapped_names(file: Path) -> dict[str, str]:
    """Return the image name of each id."""
    try:
        lines = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: missing or unreadable; {_MEND}") from error
    listed = []
    for number, line in enumerate(lines, start=1):
        name, comma, stored = line.rpartition(",")
        if not comma or not stored.endswith(".pt") or not name:
            raise DataError(f"{file}: line {number} is {line!r}, not 'image,000000.pt'; {_MEND}")
        listed.append((stored.removesuffix(".pt"), name))
    return _checked_names(file, listed)


def _checked_names(file: Path, listed: list[tuple[str, str]]) -> dict[str, str]:
    """Return the image name of each id, after checking that both are plain and listed once."""
    for what, values in (("id", [one for one, _ in listed]), ("image", [one for _, one in listed])):
        unsafe = next((value for value in values if not is_safe_relative(value)), None)
        if unsafe is not None:
            raise DataError(
                f"{file}: {what} {unsafe!r} is absolute or leaves the folder; use names without "
                "'..'"
            )
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise DataError(
                f"{file}: {what} {twice[0]!r} is listed more than once ({len(twice)} such); {_MEND}"
            )
    return dict(listed)


def _check_complete(file: Path, names: Mapping[str, str], sets: tuple[ImageSet, ...]) -> None:
    """Check that each listed image has metadata, in one split only."""
    found = Counter(name for images in sets for name in images.names)
    missing = [f"{name} ({stem}.pt)" for stem, name in names.items() if not found[name]]
    if missing:
        raise DataError(
            f"{file}: {_first(missing)}: no metadata ({len(missing)} of {len(names)} images); "
            f"{_MEND}"
        )
    twice = [name for name, count in found.items() if count > 1]
    if twice:
        raise DataError(f"{file}: {_first(twice)}: in train/ and in val/; remove one of the two")


def _first(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")


def _image_set(folder: Path, names: Mapping[str, str], listing: Path) -> ImageSet:
    """Read the cameras of a split's images, sorted by name."""
    files = sorted((folder / "metadata").glob("*.pt"))
    unnamed = [file.stem for file in files if file.stem not in names]
    if unnamed:
        raise DataError(f"{listing}: names no image for {unnamed[0]}.pt; {_MEND}")
    _check_photographs(folder / "rgbs", {file.stem for file in files})
    files.sort(key=lambda file: names[file.stem])
    cameras = [_camera(file) for file in files]
    return ImageSet(
        tuple(names[file.stem] for file in files),
        tuple(_photograph(folder / "rgbs", file.stem) for file in files),
        (None,) * len(files),
        np.array([camera[0] for camera in cameras], np.float32).reshape(-1, 3, 4),
        np.array([camera[1] for camera in cameras], np.float32).reshape(-1, 4),
        np.array([camera[2][0] for camera in cameras], np.int32),
        np.array([camera[2][1] for camera in cameras], np.int32),
        find_borders=True,
    )


def _check_photographs(folder: Path, stems: set[str]) -> None:
    """Check that no photograph lacks its metadata."""
    stored = (path for path in folder.glob("*") if path.suffix in _PHOTOGRAPHS)
    alone = sorted(path.name for path in stored if path.stem not in stems)
    if alone:
        raise DataError(
            f"{folder}: {_first(alone)}: no metadata for these photographs ({len(alone)}); {_MEND}"
        )


def _camera(file: Path) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[int, int]]:
    """Return c2w f64[3, 4], intrinsics f64[4], and width and height, px."""
    content = _mapping(file)
    width, height = (_number(file, content, name) for name in ("W", "H"))
    intrinsics = _array(file, content, "intrinsics", (4,))
    fx, fy, cx, cy = map(float, intrinsics)
    if (fault := camera_fault((width, height), (fx, fy), (cx, cy))) is not None:
        raise DataError(f"{file}: W, H, intrinsics: {fault}; {_MEND}")
    c2w = _array(file, content, "c2w", (3, 4))
    if roughness(c2w[:, :3]) > _TOLERANCE:
        raise DataError(f"{file}: c2w holds no rotation (scaled, skewed or mirrored); {_MEND}")
    return c2w, intrinsics, (int(width), int(height))


def _photograph(folder: Path, stem: str) -> Path:
    for ending in _PHOTOGRAPHS:
        if (folder / f"{stem}{ending}").is_file():
            return folder / f"{stem}{ending}"
    raise DataError(f"{folder / stem}.jpg: missing although its metadata is there; {_MEND}")


def _mapping(file: Path) -> dict[str, Any]:
    content = load_tensors(file)
    if not isinstance(content, dict):
        raise DataError(f"{file}: holds {type(content).__name__}, not named values; {_MEND}")
    return content


def _number(file: Path, content: dict[str, Any], name: str) -> float:
    return float(_array(file, content, name, ()))


def _array(
    file: Path, content: dict[str, Any], name: str, shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Return a tensor, number or tuple of a file as f64 of this shape."""
    found = content.get(name)
    try:
        if found is not None and np.iscomplexobj(found):
            raise TypeError("complex")
        values = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError) as error:
        shown = " ".join(repr(found).split())[:_SHOWN]
        raise DataError(f"{file}: {name} is {shown}, not numbers; {_MEND}") from error
    if found is None or values.shape != shape or not np.isfinite(values).all():
        raise DataError(
            f"{file}: {name} must be finite numbers of shape {list(shape)}, is "
            f"{'missing' if found is None else list(values.shape)}; {_MEND}"
        )
    return values
