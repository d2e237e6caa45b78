"""Owns writing image sets: photographs, masks, cameras, and their records.

Work is spread over cores by threads: decoding, warping and hashing release the interpreter's lock.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import pycolmap
from numpy.typing import NDArray

from nerfcore import atomic
from nerfcore.data.borders import border_mask
from nerfcore.data.colmap import ColmapModel, ColmapPoints
from nerfcore.data.images import PhotographError, decode_undamaged, read_photograph
from nerfcore.data.records import SceneFrame, SparsePoints
from nerfcore.data.sources import source_digest
from nerfcore.data.staging import Stage
from nerfcore.data.storage import (
    FileRecord,
    ImageRecord,
    SplitRecord,
    describe_file,
    write_cameras,
    write_points,
)
from nerfcore.data.undistort import Undistortion
from nerfcore.errors import DataError
from nerfcore.machine import usable_cores

Progress = Callable[[str, int, int], None]
_LISTED: Final = 10
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 97, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111]


@dataclass(frozen=True, eq=False)
class Photograph:
    """A source photograph.

    Attributes:
        name: in the source.
        path: its file.
        mask: a picture of the same size, 0 = leave this pixel out; None = all of them count.
        undistortion: how it becomes a pinhole's.
        c2w: f64[3, 4], pose in the world.
    """

    name: str
    path: Path
    mask: Path | None
    undistortion: Undistortion
    c2w: NDArray[np.float64]

    def state(self) -> str:
        """Return sizes and times of the files, which tell whether they were changed."""
        files = [self.path] if self.mask is None else [self.path, self.mask]
        stats = [file.stat() for file in files]
        return f"{self.name} " + " ".join(f"{one.st_size}:{one.st_mtime_ns}" for one in stats)

    def digest(self, content: bytes | None = None) -> str:
        """Return what tells the source's content: its SHA-256, or that of both with a mask.

        Args:
            content: the photograph's file, where it is at hand.
        """
        return source_digest(self.path, self.mask, content)

    def stored_suffix(self) -> str:
        """Return the ending of the stored photograph's file."""
        suffix = self.path.suffix.lower()
        if self.undistortion.is_identity:
            return suffix
        return ".jpg" if suffix in (".jpg", ".jpeg") else ".png"


def undistortions(cameras: Sequence[pycolmap.Camera]) -> list[Undistortion]:
    """Return one undistortion per image; images of the same camera share it."""
    keys = [(one.model_name, one.width, one.height, one.params_to_string()) for one in cameras]
    uses = Counter(keys)
    made: dict[tuple[str, int, int, str], Undistortion] = {}
    for key, camera in zip(keys, cameras, strict=True):
        if key not in made:
            made[key] = Undistortion(camera, keep_maps=uses[key] > 1)
    return [made[key] for key in keys]


def write_image_sets(
    stage: Stage, sets: Mapping[str, Sequence[Photograph]], on_progress: Progress
) -> dict[str, SplitRecord]:
    """Write photographs, masks and cameras below `stage.root`, a folder for each set.

    Args:
        stage: where the listing JSON will lie; photographs it has already are kept.
        sets: photographs in order, by the set's name, which is its folder's.
        on_progress: called with (phase, done, total) for each photograph done.

    Raises:
        DataError: photographs are unreadable or not of their camera's size (the first ten and
            their number), or a mask is.
    """
    failures: list[PhotographError] = []
    records = {
        name: _write_image_set(stage, name, photographs, on_progress, failures)
        for name, photographs in sets.items()
    }
    if len(failures) == 1:
        raise failures[0]
    if failures:
        shown = ", ".join(f"{one.path.name} ({one.reason})" for one in failures[:_LISTED])
        total = sum(map(len, sets.values()))
        raise DataError(
            f"{failures[0].path.parent}: {len(failures)} of {total} photographs cannot be used: "
            f"{shown}{', ...' if len(failures) > _LISTED else ''}; restore the files"
        ) from failures[0]
    return records


def _write_image_set(
    stage: Stage,
    folder: str,
    photographs: Sequence[Photograph],
    on_progress: Progress,
    failures: list[PhotographError],
) -> SplitRecord:
    """Write one set; photographs that cannot be used are added to `failures`."""
    root = stage.root
    for part in ("rgbs", "valid"):
        (root / folder / part).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(usable_cores()) as pool:
        jobs = [
            pool.submit(_write_or_keep, stage, f"{folder}/%s/{index:06d}", photograph)
            for index, photograph in enumerate(photographs)
        ]
        images = []
        try:
            for done, job in enumerate(jobs, start=1):
                try:
                    images.append(job.result())
                except PhotographError as error:
                    failures.append(error)
                on_progress(f"{folder} photographs", done, len(jobs))
        finally:
            for job in jobs:
                job.cancel()
    if not any(image.valid for image in images):
        shutil.rmtree(root / folder / "valid")
    write_cameras(
        root / folder / "cameras.npz",
        np.array([photograph.c2w for photograph in photographs]).reshape(-1, 3, 4),
        np.array([one.undistortion.intrinsics for one in photographs]).reshape(-1, 4),
    )
    return SplitRecord(cameras=describe_file(root, f"{folder}/cameras.npz"), images=images)


def _write_or_keep(stage: Stage, pattern: str, photograph: Photograph) -> ImageRecord:
    source = photograph.state()
    record = stage.finished(pattern, source)
    if record is None:
        record = write_photograph(stage.root, pattern, photograph)
        stage.note(pattern, source, record)
    return record


def write_photograph(root: Path, pattern: str, photograph: Photograph) -> ImageRecord:
    """Write a photograph as its pinhole sees it, and its mask if it needs one.

    Args:
        root: where the listing JSON lies.
        pattern: files without their ending, relative to it; %s becomes rgbs and valid.
        photograph: the source.

    Raises:
        PhotographError: it is unreadable, or not of its camera's size.
    """
    content = photograph.path.read_bytes()
    source = decode_undamaged(content, photograph.path)
    undistortion = photograph.undistortion
    found = (source.shape[1], source.shape[0])
    if found != undistortion.source_size:
        raise PhotographError(
            photograph.path,
            f"{found[0]}x{found[1]} px, but its camera says "
            f"{undistortion.source_size[0]}x{undistortion.source_size[1]}",
            "use the photographs the model was made from, at that size",
        )
    picture, invalid = undistortion.apply(source, _left_out(photograph, source))
    rgb = pattern % "rgbs" + photograph.stored_suffix()
    if undistortion.is_identity:
        with atomic.naming(root / rgb):
            (root / rgb).write_bytes(content)
    else:
        _write_picture(root / rgb, picture)
    valid = None
    if invalid is not None:
        mask = pattern % "valid" + ".png"
        _write_picture(root / mask, np.where(invalid, 0, 255).astype(np.uint8))
        valid = describe_file(root, mask)
    return ImageRecord(
        name=photograph.name,
        source_sha256=photograph.digest(content),
        rgb=describe_file(root, rgb),
        valid=valid,
        width_px=undistortion.width_px,
        height_px=undistortion.height_px,
    )


def _left_out(photograph: Photograph, source: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
    """Return the source's pixels that must not count: black borders, and what its mask says."""
    border = border_mask(source)
    if photograph.mask is None:
        return border
    mask = read_photograph(photograph.mask).max(axis=2)
    if mask.shape != source.shape[:2]:
        raise DataError(
            f"{photograph.mask}: {mask.shape[1]}x{mask.shape[0]} px, but its photograph has "
            f"{source.shape[1]}x{source.shape[0]}; make the mask anew at that size"
        )
    left_out = mask == 0
    if border is not None:
        left_out |= border
    return left_out if left_out.any() else None


def _write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    bgr = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    done, content = cv2.imencode(path.suffix, bgr, _JPEG if path.suffix == ".jpg" else [])
    if not done:
        raise DataError(f"{path.name}: could not be encoded as {path.suffix}")
    with atomic.naming(path):
        path.write_bytes(content.tobytes())


def sparse_points(
    model: ColmapModel,
    points_enu_m: NDArray[np.float64],
    frame: SceneFrame,
    lenses: Sequence[Undistortion],
    keep_points: NDArray[np.bool_],
    keep_images: NDArray[np.bool_],
) -> SparsePoints | None:
    """Return the kept points in the world, with the kept images' tracks.

    Args:
        model: the source.
        points_enu_m: f64[P, 3].
        frame: the world.
        lenses: undistortion of each image; observations are moved to the stored photograph.
        keep_points: bool[P].
        keep_images: bool[N].

    Returns:
        None when no point is kept.
    """
    if not keep_points.any():
        return None
    source = model.points
    new_point = np.cumsum(keep_points, dtype=np.int32) - 1
    new_image = np.cumsum(keep_images, dtype=np.int32) - 1
    kept = keep_points[source.point_ids] & keep_images[source.image_ids]
    xy_px = _undistorted(source, kept, lenses)
    # Observations outside a lens's domain have no place in the pinhole's photograph.
    kept[kept] = np.isfinite(xy_px).all(axis=1)
    xy_px = xy_px[np.isfinite(xy_px).all(axis=1)]
    return SparsePoints(
        frame.enu_m_to_world(points_enu_m[keep_points]).astype(np.float32),
        source.rgb[keep_points],
        source.error_px[keep_points].astype(np.float32),
        source.track_lengths[keep_points],
        tuple(name for name, keep in zip(model.names, keep_images, strict=True) if keep),
        new_image[source.image_ids[kept]].astype(np.int32),
        new_point[source.point_ids[kept]].astype(np.int32),
        xy_px.astype(np.float32),
    )


def _undistorted(
    source: ColmapPoints, kept: NDArray[np.bool_], lenses: Sequence[Undistortion]
) -> NDArray[np.float64]:
    xy_px, image_ids = source.xy_px[kept].copy(), source.image_ids[kept]
    starts = np.searchsorted(image_ids, np.arange(len(lenses) + 1))
    for index, lens in enumerate(lenses):
        seen = slice(starts[index], starts[index + 1])
        xy_px[seen] = lens.points(xy_px[seen])
    return xy_px


def save_points(root: Path, points: SparsePoints | None) -> FileRecord | None:
    """Write points.npz below root and return its record (None: nothing written)."""
    if points is None:
        return None
    write_points(root / "points.npz", points)
    return describe_file(root, "points.npz")
