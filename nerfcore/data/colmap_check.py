"""Owns the check that COLMAP model files are whole, before pycolmap reads them.

pycolmap trusts the counts inside binary files: a cut-off cameras.bin gives garbage parameters
without an error, and a cut-off points3D.bin is read for ever. So each binary file's records are
walked here; text files are checked by `nerfcore.data.colmap_text`.
"""

import struct
from collections.abc import Callable
from pathlib import Path

import pycolmap

from nerfcore.data.colmap_text import RESTORE, check_text_file
from nerfcore.errors import DataError

_FOLDERS = ("model", "model/0", "sparse", "sparse/0")
_NEEDED = ("cameras", "images", "points3D")
_NEW_LAYOUT = ("rigs", "frames")
_Walker = Callable[[bytes], int]


def find_model(data_path: Path) -> Path:
    """Return the folder of the COLMAP model of a flight: model/, model/0, sparse/ or sparse/0.

    Raises:
        DataError: none of them holds cameras.bin or cameras.txt; several numbered ones do.
    """
    if not data_path.is_dir():
        raise DataError(f"{data_path}: no such folder; it must hold model/ and images/")
    for name in _FOLDERS:
        if _has_files(data_path / name):
            _check_only_one(data_path / name, data_path)
            return data_path / name
    raise DataError(
        f"{data_path / 'model'}: no COLMAP model (cameras, images and points3D as .bin or .txt; "
        "model/0, sparse and sparse/0 were tried too) and no transforms.json; put one there, or "
        "add --sfm for photographs with GPS"
    )


def _check_only_one(folder: Path, data_path: Path) -> None:
    """Refuse to choose among the models that COLMAP leaves when it cannot connect all images."""
    if folder.name != "0":
        return
    others = sorted(
        path.name for path in folder.parent.iterdir() if path.name.isdigit() and _has_files(path)
    )
    if len(others) > 1:
        raise DataError(
            f"{folder.parent}: holds {len(others)} models ({', '.join(others)}), parts that COLMAP "
            f"could not connect; copy the one to use to {data_path / 'model'}"
        )


def has_model(data_path: Path) -> bool:
    """Tell whether `find_model` would find one."""
    return any(_has_files(data_path / name) for name in _FOLDERS)


def _has_files(folder: Path) -> bool:
    return any((folder / f"{stem}{end}").is_file() for stem in _NEEDED for end in (".bin", ".txt"))


def is_binary(folder: Path) -> bool:
    """Tell whether pycolmap reads the folder's binary files (it prefers them to text)."""
    return all((folder / f"{stem}.bin").is_file() for stem in _NEEDED)


def check_model_files(folder: Path) -> None:
    """Check that the model's files are there and whole.

    Raises:
        DataError: a file is missing, empty, cut off or longer than its records.
    """
    end = ".bin" if is_binary(folder) else ".txt"
    if end == ".txt" and not any((folder / f"{stem}.txt").is_file() for stem in _NEEDED):
        end = ".bin"
    for stem in _NEEDED:
        path = folder / f"{stem}{end}"
        if not path.is_file():
            raise DataError(f"{path}: missing from the COLMAP model; {RESTORE}")
        if path.stat().st_size == 0:
            raise DataError(f"{path}: empty; {RESTORE}")
    _check_pair(folder, end)
    for stem, walker in _WALKERS.items():
        path = folder / f"{stem}{end}"
        if not path.is_file():
            continue
        if end == ".txt":
            check_text_file(path)
        else:
            _check_binary(path, walker)


def _check_pair(folder: Path, end: str) -> None:
    """The new layout has rigs and frames, the old one neither."""
    missing = [stem for stem in _NEW_LAYOUT if not (folder / f"{stem}{end}").is_file()]
    if len(missing) == 1:
        raise DataError(f"{folder / missing[0]}{end}: missing from the COLMAP model; {RESTORE}")


def _check_binary(path: Path, walker: _Walker) -> None:
    content = path.read_bytes()
    try:
        needed = walker(content)
    except (struct.error, ValueError, IndexError) as error:
        raise DataError(f"{path}: cut off or damaged at {len(content)} bytes; {RESTORE}") from error
    if needed != len(content):
        state = "cut off" if needed > len(content) else "damaged"
        raise DataError(
            f"{path}: {state}, {len(content)} bytes where its records need {needed}; {RESTORE}"
        )


def _walk_cameras(content: bytes) -> int:
    (count,) = struct.unpack_from("<Q", content)
    position = 8
    parameter_counts: dict[int, int] = {}
    for _ in range(count):
        _, model, _, _ = struct.unpack_from("<IiQQ", content, position)
        if model not in parameter_counts:
            known = pycolmap.CameraModelId(model)
            camera = pycolmap.Camera.create_from_model_id(1, known, 1.0, 1, 1)
            parameter_counts[model] = len(camera.params)
        position += 24 + 8 * parameter_counts[model]
    return position


def _walk_images(content: bytes) -> int:
    (count,) = struct.unpack_from("<Q", content)
    position = 8
    for _ in range(count):
        position = content.index(b"\0", position + 64) + 1
        (observations,) = struct.unpack_from("<Q", content, position)
        position += 8 + 24 * observations
    return position


def _walk_points(content: bytes) -> int:
    (count,) = struct.unpack_from("<Q", content)
    position = 8
    read_length = struct.Struct("<Q").unpack_from
    for _ in range(count):
        position += 51 + 8 * read_length(content, position + 43)[0]
    return position


def _walk_rigs(content: bytes) -> int:
    (count,) = struct.unpack_from("<Q", content)
    position = 8
    for _ in range(count):
        _, sensors = struct.unpack_from("<II", content, position)
        position += 16 if sensors else 8
        for _ in range(max(0, sensors - 1)):
            (has_pose,) = struct.unpack_from("<?", content, position + 8)
            position += 9 + (56 if has_pose else 0)
    return position


def _walk_frames(content: bytes) -> int:
    (count,) = struct.unpack_from("<Q", content)
    position = 8
    for _ in range(count):
        (data_ids,) = struct.unpack_from("<I", content, position + 64)
        position += 68 + 16 * data_ids
    return position


_WALKERS: dict[str, _Walker] = {
    "cameras": _walk_cameras,
    "images": _walk_images,
    "points3D": _walk_points,
    "rigs": _walk_rigs,
    "frames": _walk_frames,
}
