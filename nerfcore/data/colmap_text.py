"""Owns the check that a text model's lines are whole, and the reading of its observations.

pycolmap takes a line that lost its end for what is left of it, or refuses it without a file's name.
Every line's fields are counted here. A number that lost its last digits is still a number: only
what the lines say of each other (tracks and observations, counts in headers) shows such a cut.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pycolmap
from numpy.typing import NDArray

from nerfcore.errors import DataError

RESTORE: Final = "copy the model again or export it anew from COLMAP"
_POSE_FIELDS: Final = 10  # id, quaternion, translation, camera, name
_POINT_FIELDS: Final = 8  # id, position, colour, error; then the track
_FRAME_FIELDS: Final = 10  # id, rig, pose, number of data ids; then three each
_SENSOR_POSE_FIELDS: Final = 7
Row = tuple[int, list[str]]


def check_text_file(path: Path) -> None:
    """Check that cameras.txt, images.txt, points3D.txt, rigs.txt or frames.txt is whole.

    Raises:
        DataError: the end is missing, a line lost fields, a pose is not finite, or there are fewer
            entries than the header says.
    """
    content = path.read_text(errors="replace")
    if not content.endswith("\n"):
        raise DataError(f"{path}: cut off, its last line has no end; {RESTORE}")
    rows = list(_rows(path.stem, content))
    for position, (number, fields) in enumerate(rows):
        if not _is_whole(path.stem, position, fields):
            raise DataError(
                f"{path}: line {number} is cut off or damaged ({len(fields)} fields); {RESTORE}"
            )
    if path.stem == "images":
        _check_poses(path, rows)
    _check_count(path, content, len(rows) // 2 if path.stem == "images" else len(rows))


def read_text_observations(
    images_txt: Path,
) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.int64]]]:
    """Yield each image's id, observed pixels f64[n, 2] and point ids i64[n] (-1 = no point).

    Args:
        images_txt: a whole images.txt, see `check_text_file`.
    """
    rows = _rows("images", images_txt.read_text(errors="replace"))
    for (_, pose), (_, seen) in zip(rows, rows, strict=True):
        # Ids pass through float64, which is exact below 2^53.
        values = np.array(seen, np.float64).reshape(-1, 3)
        yield int(pose[0]), values[:, :2], values[:, 2].astype(np.int64)


def _rows(stem: str, content: str) -> Iterator[Row]:
    """Yield line numbers and fields of the entries, as COLMAP finds them.

    An image has two lines, of which the second is empty when nothing was observed.
    """
    is_second = False
    for number, line in enumerate(content.splitlines(), start=1):
        fields = line.split()
        if is_second:
            is_second = False
        elif not fields or line.startswith("#"):
            continue
        else:
            is_second = stem == "images"
        yield number, fields
    if is_second:
        yield len(content.splitlines()) + 1, []


def _is_whole(stem: str, position: int, fields: list[str]) -> bool:
    """Tell whether a line has all fields that it says it has."""
    try:
        return _FIELDS[stem](position, fields)
    except (ValueError, IndexError):
        return False


def _whole_camera(_: int, fields: list[str]) -> bool:
    kind = pycolmap.CameraModelId.__members__.get(fields[1])
    if kind is None:
        return True  # pycolmap names the unknown model
    camera = pycolmap.Camera.create_from_model_id(1, kind, 1.0, 1, 1)
    return len(fields) == 4 + len(camera.params)


def _whole_image(position: int, fields: list[str]) -> bool:
    return len(fields) % 3 == 0 if position % 2 else len(fields) >= _POSE_FIELDS


def _whole_point(_: int, fields: list[str]) -> bool:
    return len(fields) >= _POINT_FIELDS and len(fields) % 2 == 0


def _whole_frame(_: int, fields: list[str]) -> bool:
    return len(fields) == _FRAME_FIELDS + 3 * int(fields[_FRAME_FIELDS - 1])


def _whole_rig(_: int, fields: list[str]) -> bool:
    sensors = int(fields[1])
    needed = 2 + 2 * min(sensors, 1)
    for _sensor in range(sensors - 1):
        needed += 3 + _SENSOR_POSE_FIELDS * int(fields[needed + 2])
    return len(fields) == needed


_FIELDS: Final[dict[str, Callable[[int, list[str]], bool]]] = {
    "cameras": _whole_camera,
    "images": _whole_image,
    "points3D": _whole_point,
    "rigs": _whole_rig,
    "frames": _whole_frame,
}


def _check_poses(path: Path, rows: list[Row]) -> None:
    """Check the poses that pycolmap would refuse without naming the photograph."""
    for _, fields in rows[::2]:
        wrong = [one for one in fields[1:8] if "nan" in one.lower() or "inf" in one.lower()]
        if wrong:
            raise DataError(
                f"{path}: photograph {fields[9]!r} has a pose with {wrong[0]!r}, which is not "
                "finite; remove it from the model or run the reconstruction again"
            )


def _check_count(path: Path, content: str, found: int) -> None:
    header = "\n".join(line for line in content.splitlines() if line.startswith("#"))
    listed = re.search(r"# Number of \w+: (\d+)", header)
    if listed is not None and found != int(listed[1]):
        raise DataError(
            f"{path}: cut off, {found} entries where its header says {listed[1]}; {RESTORE}"
        )
