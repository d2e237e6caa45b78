"""Owns how lasting files and folders come into being: complete, or not at all.

A file is written beside its target under a temporary name, fsynced and renamed; a folder is filled
under a temporary name and renamed. Readers never see a half-written state, and a kill leaves at
most a `.tmp-*` entry behind, which `remove_leftovers` clears.
"""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

TEMPORARY_PREFIX = ".tmp-"


def _temporary_beside(target: Path) -> Path:
    return target.parent / f"{TEMPORARY_PREFIX}{target.name}-{uuid.uuid4().hex[:8]}"


def fsync_folder(folder: Path) -> None:
    """Make the folder's directory entries durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Make the file's content and its directory entry durable; one that is not there is none."""
    if path.is_file():
        with path.open("rb") as handle:
            os.fsync(handle.fileno())
        fsync_folder(path.parent)


def fsync_tree(folder: Path) -> None:
    """Make every file below the folder, and the folder itself, durable."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
        elif path.is_dir():
            fsync_folder(path)
    fsync_folder(folder)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of writing name the file: the system does so on opening, not on a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_bytes(target: Path, content: bytes) -> None:
    """Write a file atomically: the old content or the new, never a part.

    Args:
        target: the file; its parent folder must exist.
        content: the whole content.
    """
    temporary = _temporary_beside(target)
    try:
        with naming(target), temporary.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(target)
        fsync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(target: Path, content: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_bytes(target, content.encode())


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes `target` when the block ends without an error.

    Raises:
        FileExistsError: the target exists already (checked before and at the rename).
    """
    if target.exists():
        raise FileExistsError(f"{target} exists already; remove it or choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_beside(target)
    temporary.mkdir()
    try:
        yield temporary
        fsync_tree(temporary)
        temporary.rename(target)
        fsync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary entries that a killed writer left directly below the folder."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
