"""Owns reading a transforms.json, as nerfstudio and instant-ngp write it.

Its poses are camera-to-world with OpenGL axes (right, up, back). `applied_transform` and
`applied_scale` say how its writer moved the source's world; both are undone, so that the same
flight gives the same dataset whether it comes as a COLMAP model or as transforms.json. Without
them the world is taken as it stands: ENU metres, Up along +Z (or ECEF).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pycolmap
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import ConfigDict, Field, ValidationError

from nerfcore.data.camera_limits import FARTHEST_M
from nerfcore.data.colmap import ColmapModel, ColmapPoints, check_views
from nerfcore.data.ply import read_ply_points
from nerfcore.data.storage import is_safe_relative, plain_name
from nerfcore.data.transforms_camera import CameraFields, camera_from, merged
from nerfcore.errors import DataError
from nerfcore.geometry.frames import RDF_TO_RUB, roughness

TRANSFORMS_FILE: Final = "transforms.json"
_ENDINGS: Final = ("", ".png", ".jpg", ".jpeg", ".JPG", ".PNG")
_TOLERANCE: Final = 1e-3  # how far a pose may be from a pure rotation
_NO_ERROR: Final = -1.0  # as COLMAP writes an error that was never computed
Float64 = NDArray[np.float64]


class _Frame(CameraFields):
    file_path: str
    mask_path: str | None = None
    transform_matrix: list[list[float]]


class _Transforms(CameraFields):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    frames: list[_Frame] = Field(min_length=1)
    applied_transform: list[list[float]] | None = None
    applied_scale: float = Field(default=1.0, ge=1e-9, le=1e9)
    ply_file_path: str | None = None


@dataclass(frozen=True)
class TransformsFlight:
    """What a transforms.json describes.

    Attributes:
        model: poses, cameras and points, in the world before `applied_transform`.
        folder: the folder that `model.names` are relative to.
        paths: photographs, in the order of `model.names`.
        masks: 0 = leave this pixel out; None = all of them count.
    """

    model: ColmapModel
    folder: Path
    paths: tuple[Path, ...]
    masks: tuple[Path | None, ...]


def read_transforms(file: Path) -> TransformsFlight:
    """Read a transforms.json.

    Raises:
        DataError: unreadable, a field is wrong, a name is unsafe or occurs twice, a pose is not
            finite or not rigid, a lens is unknown, or the point file is damaged.
    """
    raw = _parsed(file)
    order = sorted(range(len(raw.frames)), key=lambda index: raw.frames[index].file_path)
    frames = [raw.frames[index] for index in order]
    for frame in frames:
        _check_path(file, "file_path", frame.file_path)
        if frame.mask_path is not None:
            _check_path(file, "mask_path", frame.mask_path)
    undo = _undoing(file, raw)
    paths = [_photograph(file.parent / plain_name(frame.file_path)) for frame in frames]
    names, folder = _names(file.parent, paths)
    cam_from_world = np.array([_pose(file, frame, undo) for frame in frames])
    cameras = tuple(
        _camera(file, raw, frame, path) for frame, path in zip(frames, paths, strict=True)
    )
    check_views(file, names, cam_from_world, cameras)
    masks = tuple(
        None if frame.mask_path is None else file.parent / plain_name(frame.mask_path)
        for frame in frames
    )
    model = ColmapModel(file, names, cam_from_world, cameras, _points(file, raw, undo), 0)
    return TransformsFlight(model, folder, tuple(paths), masks)


def _parsed(file: Path) -> _Transforms:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: unreadable ({error}); export it again") from error
    try:
        return _Transforms.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "content"
        raise DataError(
            f"{file}: {where}: {first['msg']}{_of_frame(content, first['loc'])}; correct it"
        ) from error


def _of_frame(content: object, place: tuple[int | str, ...]) -> str:
    """Name the photograph of the frame that an error is about."""
    match content, place:
        case {"frames": list(frames)}, ("frames", int(index), *_):
            frame = frames[index]
            name = frame.get("file_path") if isinstance(frame, dict) else None
            return f" (frame of {name!r})"
    return ""


def _check_path(file: Path, field: str, name: str) -> None:
    if not is_safe_relative(name):
        raise DataError(
            f"{file}: {field} {name!r} is absolute or leaves the folder; use paths relative to "
            f"{file.name} without '..'"
        )


def _photograph(path: Path) -> Path:
    """Return the photograph; Blender's files leave the ending out."""
    for ending in _ENDINGS:
        if (found := path.with_name(path.name + ending)).is_file():
            return found
    return path


def _names(root: Path, paths: list[Path]) -> tuple[tuple[str, ...], Path]:
    """Return names as COLMAP has them (relative to images/, where all lie there), and to what."""
    inside = root / "images"
    folder = inside if all(path.is_relative_to(inside) for path in paths) else root
    return tuple(path.relative_to(folder).as_posix() for path in paths), folder


def _undoing(file: Path, raw: _Transforms) -> tuple[Float64, Float64, float]:
    """Return rotation f64[3, 3], shift f64[3] and scale of the inverse of what was applied."""
    if raw.applied_transform is None:
        return np.eye(3), np.zeros(3), 1.0 / raw.applied_scale
    applied = _matrix(file, "applied_transform", raw.applied_transform)
    scale = float(np.cbrt(np.linalg.det(applied[:, :3])))
    if scale <= 0.0 or roughness(applied[:, :3] / scale) > _TOLERANCE:
        raise DataError(
            f"{file}: applied_transform is no rotation with uniform scale; correct it or take it "
            "out"
        )
    rotation = applied[:, :3].T / scale
    return rotation, -rotation @ applied[:, 3] / scale, 1.0 / (raw.applied_scale * scale)


def _matrix(file: Path, field: str, rows: list[list[float]]) -> Float64:
    """Return the upper three rows f64[3, 4]."""
    if len(rows) not in (3, 4) or any(len(row) != 4 for row in rows):
        raise DataError(f"{file}: {field} must be 3 x 4 or 4 x 4; correct it")
    if len(rows) == 4 and rows[3] != [0.0, 0.0, 0.0, 1.0]:
        raise DataError(f"{file}: {field} ends in {rows[3]}, must end in [0, 0, 0, 1]; correct it")
    return np.array(rows[:3], np.float64)


def _pose(file: Path, frame: _Frame, undo: tuple[Float64, Float64, float]) -> Float64:
    """Return COLMAP's pose f64[3, 4] in the world before `applied_transform`."""
    c2w = _matrix(file, f"transform_matrix of {frame.file_path!r}", frame.transform_matrix)
    if roughness(c2w[:, :3]) > _TOLERANCE:
        raise DataError(
            f"{file}: transform_matrix of {frame.file_path!r} holds no rotation (camera-to-world, "
            "OpenGL axes, without scale, is expected); correct it"
        )
    turn, shift, scale = undo
    left, _, right = np.linalg.svd(turn @ c2w[:, :3])
    rotation = RDF_TO_RUB.T @ (left @ right).T
    centre = scale * (turn @ c2w[:, 3]) + shift
    return np.column_stack([rotation, -rotation @ centre])


def _camera(file: Path, raw: _Transforms, frame: _Frame, path: Path) -> pycolmap.Camera:
    where = f"{file}: frame of {frame.file_path!r}"
    fields = merged(raw, frame)
    if fields.w is not None and fields.h is not None:
        return camera_from(fields, (round(fields.w), round(fields.h)), where)
    try:
        with Image.open(path) as picture:
            return camera_from(fields, picture.size, where)
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(
            f"{path}: missing or unreadable photograph, and {file.name} gives no w, h for it; "
            "restore the file"
        ) from error


def _points(file: Path, raw: _Transforms, undo: tuple[Float64, Float64, float]) -> ColmapPoints:
    """Return the point file's points; it has neither errors nor tracks."""
    xyz, rgb = np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
    if raw.ply_file_path is not None:
        _check_path(file, "ply_file_path", raw.ply_file_path)
        xyz, rgb = read_ply_points(file.parent / plain_name(raw.ply_file_path))
    turn, shift, scale = undo
    xyz_m = scale * (xyz @ turn.T) + shift
    if not (np.abs(xyz_m) <= FARTHEST_M).all():
        raise DataError(
            f"{file}: ply_file_path {raw.ply_file_path!r} holds points beyond {FARTHEST_M:g} m; "
            "correct it or take it out"
        )
    return ColmapPoints(
        xyz_m,
        rgb,
        np.full(len(xyz), _NO_ERROR),
        np.zeros(len(xyz), np.int32),
        np.empty(0, np.int32),
        np.empty(0, np.int32),
        np.empty((0, 2)),
    )
