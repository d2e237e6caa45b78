"""Owns reading `.pt` files without running anything in them: tensors and plain values only."""

import io
import zipfile
from pathlib import Path
from pickle import UnpicklingError  # what torch.load raises; nothing is unpickled here
from typing import Any, Final

import torch

from nerfcore.errors import DataError

_LARGEST_BYTES: Final = 256 * 2**20  # a mask of 16k x 16k pixels
_PLAIN: Final = (bool, int, float, str, type(None), torch.Tensor)
_DAMAGE: Final = (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError)


def load_tensors(path: Path) -> Any:
    """Load a `.pt` file: tensors, numbers and texts, and lists, tuples and dicts of them.

    Raises:
        DataError: missing, too large, damaged, or holding anything else.
    """
    try:
        content = _bounded(path, path.stat().st_size, path.read_bytes)
    except OSError as error:
        raise DataError(f"{path}: unreadable ({error.strerror}); restore the file") from error
    return _decoded(path, content)


def load_zipped_tensor(path: Path) -> torch.Tensor:
    """Load a `.pt` file that is a zip around another `.pt` of one tensor (the reference's masks).

    Raises:
        DataError: as `load_tensors`, or not one tensor.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (entry,) = archive.infolist()
            content = _bounded(path, entry.file_size, lambda: archive.read(entry))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: no zip of one tensor ({error}); restore the file") from error
    found = _decoded(path, content)
    if not isinstance(found, torch.Tensor):
        raise DataError(f"{path}: holds {type(found).__name__}, not a tensor; restore the file")
    return found


def _bounded(path: Path, size_bytes: int, read: Any) -> bytes:
    if size_bytes > _LARGEST_BYTES:
        raise DataError(
            f"{path}: {size_bytes} bytes, at most {_LARGEST_BYTES} are read; it is no file of a "
            "prepared dataset"
        )
    return read()


def _decoded(path: Path, content: bytes) -> Any:
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise DataError(
            f"{path}: no tensor file, or cut off ({len(content)} bytes); restore the file"
        )
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise DataError(
            f"{path}: refused, it holds more than tensors ({_reason(error)}); prepare the dataset "
            "again from its photographs"
        ) from error
    except _DAMAGE as error:
        raise DataError(f"{path}: damaged ({_reason(error)}); restore the file") from error
    _require_plain(path, found)
    return found


def _reason(error: Exception) -> str:
    """Return the line of torch's long texts that says what was found."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "GLOBAL" in line or "Unsupported" in line]
    return (telling or lines or [type(error).__name__])[0].removesuffix(".")[:200]


def _require_plain(path: Path, found: Any) -> None:
    match found:
        case dict():
            parts = [*found.keys(), *found.values()]
        case list() | tuple():
            parts = list(found)
        case _ if type(found) in _PLAIN:
            return
        case _:
            raise DataError(
                f"{path}: refused, it holds {type(found).__name__}, not only tensors; prepare the "
                "dataset again from its photographs"
            )
    for part in parts:
        _require_plain(path, part)
