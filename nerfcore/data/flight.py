"""Owns finding out what a flight's folder holds, and reading it.

A COLMAP model, a transforms.json, or plain photographs with GPS (reconstructed on request). All
three become a `Flight`: posed photographs, their files, and sparse points.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from nerfcore.data.colmap import ColmapModel, read_model
from nerfcore.data.colmap_check import find_model, has_model
from nerfcore.data.sfm import Alignment, Progress, find_images, reconstruct
from nerfcore.data.transforms import TRANSFORMS_FILE, read_transforms
from nerfcore.errors import DataError

SourceKind = Literal["colmap", "transforms", "photographs"]
_LISTED: Final = 10


@dataclass(frozen=True)
class Source:
    """Where a flight is read from.

    Attributes:
        kind: what it is.
        path: the model's folder, the JSON file, or the folder of photographs.
        folder: what the flight's data_path names (or lies in).
    """

    kind: SourceKind
    path: Path
    folder: Path

    def files(self) -> list[Path]:
        """Return the files that describe the flight, its photographs aside (for sfm: those)."""
        match self.kind:
            case "colmap":
                return sorted(path for path in self.path.iterdir() if path.is_file())
            case "transforms":
                return [self.path]
            case "photographs":
                return [self.path / name for name in find_images(self.path)]

    def digest(self) -> str:
        """Return a checksum of the describing files (of photographs: names, sizes and times)."""
        digest = hashlib.sha256(self.kind.encode())
        for path in self.files():
            digest.update(path.name.encode())
            if self.kind == "photographs":
                stat = path.stat()
                digest.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
            else:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


@dataclass(frozen=True)
class Flight:
    """Posed photographs with their files.

    Attributes:
        model: poses, cameras, points.
        folder: what the names are relative to.
        paths: photographs, in the order of `model.names`; they need not exist.
        masks: for each photograph, a picture that is 0 where a pixel must be left out, or None.
        alignment: how the reconstruction fits its GPS, when it was made here.
    """

    model: ColmapModel
    folder: Path
    paths: tuple[Path, ...]
    masks: tuple[Path | None, ...]
    alignment: Alignment | None = None


def find_source(data_path: Path, *, sfm: bool = False) -> Source:
    """Find out what a flight's folder holds; a COLMAP model wins over a transforms.json.

    Args:
        data_path: the folder, or a JSON file of its own.
        sfm: the folder holds photographs with GPS and nothing else.

    Raises:
        DataError: nothing that can be read, or --sfm although there is a model.
    """
    if data_path.is_file() and data_path.suffix == ".json":
        return _without_sfm(Source("transforms", data_path, data_path.parent), sfm)
    if data_path.is_dir():
        if has_model(data_path):
            return _without_sfm(Source("colmap", find_model(data_path), data_path), sfm)
        if (data_path / TRANSFORMS_FILE).is_file():
            found = Source("transforms", data_path / TRANSFORMS_FILE, data_path)
            return _without_sfm(found, sfm)
        if sfm:
            images = data_path / "images"
            return Source("photographs", images if images.is_dir() else data_path, data_path)
    return Source("colmap", find_model(data_path), data_path)  # which says what is expected


def _without_sfm(source: Source, sfm: bool) -> Source:
    if sfm:
        raise DataError(f"sfm: {source.path} holds the cameras' poses already; leave --sfm out")
    return source


def read_flight(source: Source, work: Path, on_progress: Progress) -> Flight:
    """Read a flight.

    Args:
        source: see `find_source`.
        work: where a reconstruction is kept while it is made.
        on_progress: called with (phase, done, total).

    Raises:
        DataError: see `read_model`, `read_transforms`, `reconstruct`.
    """
    if source.kind == "photographs":
        model, alignment = reconstruct(source.path, work, on_progress)
        paths = tuple(source.path / name for name in model.names)
        return Flight(model, source.path, paths, (None,) * len(paths), alignment)
    on_progress("reading the model", 0, 1)
    if source.kind == "transforms":
        found = read_transforms(source.path)
        flight = Flight(found.model, found.folder, found.paths, found.masks)
    else:
        model = read_model(source.folder)
        images = source.folder / "images"
        paths = tuple(images / name for name in model.names)
        flight = Flight(model, images, paths, (None,) * len(paths))
    on_progress("reading the model", 1, 1)
    return flight


def require_photographs(folder: Path, names: Sequence[str], paths: Sequence[Path]) -> None:
    """Check that photographs are there.

    Raises:
        DataError: some are missing (the first ten and their number).
    """
    missing = [name for name, path in zip(names, paths, strict=True) if not path.is_file()]
    if missing:
        shown = ", ".join(missing[:_LISTED]) + (", ..." if len(missing) > _LISTED else "")
        raise DataError(
            f"{folder}: {len(missing)} of {len(names)} photographs of the model are missing: "
            f"{shown}; copy them there or remove them from the model"
        )
