"""Owns the on-disk form of a prepared dataset: JSON + npz + images, no pickle.

    dataset.json                  format_version, frame, settings, every file with its checksum
    points.npz                    sparse points and tracks (absent without points)
    train/ val/                   cameras.npz, rgbs/000000.jpg ..., valid/000000.png (if needed)
    continual/batch_0001/         batch.json, points.npz, adapt/, heldout/ (as train/)
    masks/<name>/partition.json   see `nerfcore.data.partition`
    sparse/                       see `nerfcore.data.found_points`

Files are named relative to the folder of the JSON that lists them.
"""

import hashlib
import json
import zipfile
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from nerfcore.data.camera_limits import MOST_SIDE_PX
from nerfcore.data.records import ImageSet, SceneFrame, SparsePoints
from nerfcore.errors import DataError
from nerfcore.geometry.geodesy import GeoPoint

FORMAT_VERSION = 1
DATASET_FILE = "dataset.json"
BATCH_FILE = "batch.json"
REMAKE = "prepare the dataset again with scripts/prepare_dataset.py --overwrite"


def is_safe_relative(name: str) -> bool:
    """Tell whether a name is a relative path that stays below the folder it is joined to."""
    path = PurePosixPath(name)
    plain = bool(path.parts) and not path.is_absolute() and ".." not in path.parts
    return plain and "\\" not in name and "\0" not in name


def plain_name(name: str) -> str:
    """Return a relative name as it is compared: without `./` and doubled slashes."""
    return str(PurePosixPath(name))


def _safe(name: str) -> str:
    if not is_safe_relative(name):
        raise ValueError("must be a relative path without '..'")
    return name


SafeName = Annotated[str, AfterValidator(_safe)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileRecord(_Record):
    """One stored file: path relative to the listing JSON, size and SHA-256."""

    file: SafeName
    size_bytes: int = Field(ge=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class ImageRecord(_Record):
    """One photograph: name and SHA-256 of its source (with its mask's), stored files, size."""

    name: SafeName
    source_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    rgb: FileRecord
    valid: FileRecord | None
    width_px: int = Field(ge=1, le=MOST_SIDE_PX)
    height_px: int = Field(ge=1, le=MOST_SIDE_PX)


class SplitRecord(_Record):
    """One image set: the cameras file and the photographs in its order."""

    cameras: FileRecord
    images: list[ImageRecord]


class GeoRecord(_Record):
    """A WGS84 point."""

    lat_deg: float = Field(ge=-90, le=90)
    lon_deg: float = Field(ge=-180, le=180)
    alt_m: float


class FrameRecord(_Record):
    """`SceneFrame` as JSON."""

    pose_scale_factor_m: float = Field(gt=0)
    origin_drb_m: tuple[float, float, float]
    enu_ref: GeoRecord | None
    altitude_range_enu_m: tuple[float, float]

    def to_frame(self) -> SceneFrame:
        ref = self.enu_ref
        return SceneFrame(
            self.pose_scale_factor_m,
            np.asarray(self.origin_drb_m, np.float64),
            None if ref is None else GeoPoint(ref.lat_deg, ref.lon_deg, ref.alt_m),
            self.altitude_range_enu_m,
        )

    @staticmethod
    def from_frame(frame: SceneFrame) -> "FrameRecord":
        ref = frame.enu_ref
        east, south = float(frame.origin_drb_m[1]), float(frame.origin_drb_m[2])
        return FrameRecord(
            pose_scale_factor_m=frame.pose_scale_factor_m,
            origin_drb_m=(float(frame.origin_drb_m[0]), east, south),
            enu_ref=None
            if ref is None
            else GeoRecord(lat_deg=ref.lat_deg, lon_deg=ref.lon_deg, alt_m=ref.alt_m),
            altitude_range_enu_m=frame.altitude_range_enu_m,
        )


class _Listing(_Record):
    format_version: int
    points: FileRecord | None
    settings: dict[str, Any] = {}


class DatasetRecord(_Listing):
    """The content of dataset.json."""

    frame: FrameRecord
    train: SplitRecord
    val: SplitRecord


class BatchRecord(_Listing):
    """The content of continual/<name>/batch.json."""

    adapt: SplitRecord
    heldout: SplitRecord


class FoundPointsRecord(_Listing):
    """The content of sparse/points.json."""

    cameras_sha256: str = Field(pattern="^[0-9a-f]{64}$")


Listing = TypeVar("Listing", bound=_Listing)


def describe_file(folder: Path, file: str) -> FileRecord:
    """Return the record of a file that has just been written below the folder."""
    content = (folder / file).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return FileRecord(file=file, size_bytes=len(content), sha256=digest)


def write_listing(path: Path, listing: _Listing) -> None:
    """Write a listing as JSON (its folder is still a temporary one)."""
    path.write_text(serialised(listing))


def serialised(listing: _Listing) -> str:
    """Return a listing as JSON."""
    return json.dumps(listing.model_dump(mode="json"), indent=1) + "\n"


def read_listing(path: Path, kind: type[Listing]) -> Listing:
    """Read and check dataset.json, batch.json or points.json.

    Raises:
        DataError: missing, not JSON, of another format version, or a field is wrong.
    """
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing; {REMAKE}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: unreadable ({error}); {REMAKE}") from error
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path}: format_version is {version!r}, this version reads {FORMAT_VERSION}; {REMAKE}"
        )
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path}: {where}: {first['msg']}; {REMAKE}") from error


def check_file(folder: Path, record: FileRecord, *, checksum: bool) -> Path:
    """Return the file's path after checking its size and, if asked, its checksum.

    Raises:
        DataError: missing or changed.
    """
    path = folder / record.file
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: missing though listed; {REMAKE}") from error
    if size_bytes != record.size_bytes:
        raise DataError(f"{path}: {size_bytes} bytes, listed {record.size_bytes}; {REMAKE}")
    if checksum:
        check_content(path, path.read_bytes(), record.sha256)
    return path


def check_content(path: Path, content: bytes, sha256: str) -> None:
    """Check that a file's content is what was listed.

    Raises:
        DataError: it has changed.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(
            f"{path}: content changed since it was prepared (SHA-256 {found[:12]}..., listed "
            f"{sha256[:12]}...); {REMAKE}"
        )


def _read_arrays(
    path: Path, shapes: dict[str, tuple[str, tuple[int | None, ...]]]
) -> dict[str, NDArray[Any]]:
    """Read an npz and check each array's dtype kind and shape (None = any length)."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in shapes}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: unreadable ({error}); {REMAKE}") from error
    for name, (dtype, shape) in shapes.items():
        array = arrays[name]
        fits = array.ndim == len(shape) and all(
            want is None or want == have for want, have in zip(shape, array.shape, strict=True)
        )
        if not fits or not (array.dtype == dtype or (dtype == "U" and array.dtype.kind == "U")):
            raise DataError(
                f"{path}: {name} is {array.dtype}{list(array.shape)}, expected {dtype}"
                f"{list(shape)}; {REMAKE}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"{path}: {name} holds NaN or infinity; {REMAKE}")
    return arrays


def write_cameras(path: Path, c2w: NDArray[np.floating], intrinsics: NDArray[np.floating]) -> None:
    """Write poses [N, 3, 4] and intrinsics [N, 4] as float32."""
    np.savez(path, c2w=c2w.astype(np.float32), intrinsics=intrinsics.astype(np.float32))


def read_image_set(folder: Path, split: SplitRecord, *, checksum: bool = False) -> ImageSet:
    """Read one image set and check its files.

    Args:
        folder: where the listing JSON lies.
        split: the listed files.
        checksum: read the photographs whole and compare checksums now (the cameras' always is, the
            photographs' is when they are read).

    Raises:
        DataError: a file is missing, changed or of a wrong shape.
    """
    count = len(split.images)
    cameras = check_file(folder, split.cameras, checksum=True)
    arrays = _read_arrays(
        cameras, {"c2w": ("float32", (count, 3, 4)), "intrinsics": ("float32", (count, 4))}
    )
    return ImageSet(
        tuple(image.name for image in split.images),
        tuple(check_file(folder, image.rgb, checksum=checksum) for image in split.images),
        tuple(
            None if image.valid is None else check_file(folder, image.valid, checksum=checksum)
            for image in split.images
        ),
        arrays["c2w"],
        arrays["intrinsics"],
        np.array([image.width_px for image in split.images], np.int32),
        np.array([image.height_px for image in split.images], np.int32),
        checksums=tuple(image.rgb.sha256 for image in split.images),
        valid_checksums=tuple(
            None if image.valid is None else image.valid.sha256 for image in split.images
        ),
    )


def write_points(path: Path, points: SparsePoints) -> None:
    """Write sparse points as npz."""
    np.savez_compressed(
        path,
        xyz=points.xyz,
        rgb=points.rgb,
        error_px=points.error_px,
        track_lengths=points.track_lengths,
        image_names=np.array(points.image_names, dtype=np.str_),
        image_ids=points.image_ids,
        point_ids=points.point_ids,
        xy_px=points.xy_px,
    )


def read_points(folder: Path, record: FileRecord | None) -> SparsePoints | None:
    """Read sparse points (None when none are listed).

    Raises:
        DataError: missing, changed or inconsistent.
    """
    if record is None:
        return None
    path = check_file(folder, record, checksum=True)
    arrays = _read_arrays(
        path,
        {
            "xyz": ("float32", (None, 3)),
            "rgb": ("uint8", (None, 3)),
            "error_px": ("float32", (None,)),
            "track_lengths": ("int32", (None,)),
            "image_names": ("U", (None,)),
            "image_ids": ("int32", (None,)),
            "point_ids": ("int32", (None,)),
            "xy_px": ("float32", (None, 2)),
        },
    )
    names = tuple(str(name) for name in arrays.pop("image_names"))
    points = SparsePoints(image_names=names, **arrays)
    per_point = {len(points.xyz), len(points.rgb), len(points.error_px), len(points.track_lengths)}
    per_track = {len(points.image_ids), len(points.point_ids), len(points.xy_px)}
    if len(per_point) != 1 or len(per_track) != 1:
        raise DataError(f"{path}: arrays of different lengths; {REMAKE}")
    _check_ids(path, "image_ids", points.image_ids, len(names))
    _check_ids(path, "point_ids", points.point_ids, len(points))
    return points


def _check_ids(path: Path, name: str, ids: NDArray[np.int32], count: int) -> None:
    if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= count):
        raise DataError(f"{path}: {name} lie outside 0..{count - 1}; {REMAKE}")
