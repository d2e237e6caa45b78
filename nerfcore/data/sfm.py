"""Owns turning a plain folder of photographs with GPS into a model in ECEF.

Every photograph is decoded before the work begins. The reconstruction runs in a process of its
own. What it leaves in the work folder for the next run is bound to the photographs by their names,
sizes and checksums: other photographs begin anew.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pycolmap

from nerfcore import atomic
from nerfcore.data.colmap import ColmapModel, read_model
from nerfcore.data.exif import read_gps
from nerfcore.data.georegistration import LEAST_PLACED, Alignment
from nerfcore.data.images import PhotographError, decode_undamaged
from nerfcore.data.reconstruction import ALIGNMENT_FILE, Request
from nerfcore.data.sfm_process import run_apart
from nerfcore.errors import DataError
from nerfcore.machine import usable_cores

Progress = Callable[[str, int, int], None]
ENDINGS: Final = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff"})
_PHOTOGRAPHS_FILE: Final = "photographs.json"
_LISTED: Final = 10


def find_images(folder: Path) -> tuple[str, ...]:
    """Return the photographs below a folder, by relative name, sorted.

    Raises:
        DataError: there are fewer than three, or a name holds a space.
    """
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in ENDINGS and path.is_file()
    )
    if len(names) < LEAST_PLACED:
        raise DataError(
            f"{folder}: {len(names)} photographs ({', '.join(sorted(ENDINGS))}); --sfm needs at "
            f"least {LEAST_PLACED}"
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
        DataError: damaged photographs, too few with GPS, no reconstruction, or one that does not
            fit its GPS; or the reconstruction's process ended by itself.
        OSError: the disk is full.
    """
    names = find_images(folder)
    contents = check_photographs(folder, names, on_progress)
    places = {name: place for name in names if (place := read_gps(folder / name)) is not None}
    if len(places) < LEAST_PLACED:
        raise DataError(
            f"{folder}: {len(places)} of {len(names)} photographs have GPS in their EXIF data, at "
            f"least {LEAST_PLACED} are needed; use the originals, or bring a COLMAP model"
        )
    _bind(work, {"pycolmap": pycolmap.__version__, "photographs": contents})
    if not (work / ALIGNMENT_FILE).is_file():
        run_apart(Request(folder, work, names, places), on_progress)
    return read_model(work), Alignment(**json.loads((work / ALIGNMENT_FILE).read_text()))


def check_photographs(
    folder: Path, names: Sequence[str], on_progress: Progress
) -> dict[str, list[int | str]]:
    """Decode every photograph, on all cores.

    Args:
        folder: what the names are relative to.
        names: the photographs.
        on_progress: called with (phase, done, total).

    Returns:
        Size (bytes) and SHA-256 of each file, by name.

    Raises:
        DataError: some are unreadable, cut off or damaged (the first ten and their number).
    """
    contents: dict[str, list[int | str]] = {}
    failures: list[tuple[str, PhotographError]] = []
    with ThreadPoolExecutor(usable_cores()) as pool:
        jobs = [pool.submit(_described, folder / name) for name in names]
        try:
            for name, job in zip(names, jobs, strict=True):
                try:
                    contents[name] = job.result()
                except PhotographError as error:
                    failures.append((name, error))
                on_progress("checking photographs", len(contents) + len(failures), len(names))
        finally:
            for job in jobs:
                job.cancel()
    if failures:
        shown = ", ".join(f"{name} ({error.reason})" for name, error in failures[:_LISTED])
        raise DataError(
            f"{folder}: {len(failures)} of {len(names)} photographs cannot be used: {shown}"
            f"{', ...' if len(failures) > _LISTED else ''}; restore the files or remove them"
        )
    return contents


def _described(path: Path) -> list[int | str]:
    content = path.read_bytes()
    decode_undamaged(content, path)
    return [len(content), hashlib.sha256(content).hexdigest()]


def _bind(work: Path, bound: dict[str, Any]) -> None:
    """Keep what an earlier run left of the same photographs; clear what it left of others."""
    file = work / _PHOTOGRAPHS_FILE
    if file.is_file() and json.loads(file.read_text()) == bound:
        return
    if work.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True)
    atomic.write_text(file, json.dumps(bound))
