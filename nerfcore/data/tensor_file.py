"""Owns reading `.pt` files without running anything in them: tensors and plain values only.

Tensors come out as numpy arrays. torch is imported when the first such file is read: the data
commands do without it otherwise, and it takes seconds and hundreds of megabytes.
"""

import io
import zipfile
from pathlib import Path
from pickle import UnpicklingError  # what torch.load raises; nothing is unpickled here
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nerfcore.errors import DataError

_LARGEST_BYTES: Final = 256 * 2**20  # a mask of 16k x 16k pixels
_PLAIN: Final = (bool, int, float, str, type(None))
_DAMAGE: Final = (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError)


def load_tensors(path: Path) -> Any:
    """Load a `.pt` file: tensors (as arrays), numbers and texts, and lists, tuples, dicts of them.

    Raises:
        DataError: missing, too large, damaged, or holding anything else.
    """
    try:
        content = _bounded(path, path.stat().st_size, path.read_bytes)
    except OSError as error:
        raise DataError(f"{path}: unreadable ({error.strerror}); restore the file") from error
    return _decoded(path, content)


def load_zipped_tensor(path: Path) -> NDArray[Any]:
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
    if not isinstance(found, np.ndarray):
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
    import torch

    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise DataError(
            f"{path}: refused, it holds more than tensors ({_reason(error)}); prepare the dataset "
            "again from its photographs"
        ) from error
    except _DAMAGE as error:
        raise DataError(f"{path}: damaged ({_reason(error)}); restore the file") from error
    return _plain(path, found, torch.Tensor)


def _reason(error: Exception) -> str:
    """Return the line of torch's long texts that says what was found."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "GLOBAL" in line or "Unsupported" in line]
    return (telling or lines or [type(error).__name__])[0].removesuffix(".")[:200]


def _plain(path: Path, found: Any, tensor: type) -> Any:
    """Return the content with its tensors as arrays, after checking that it holds nothing else."""
    match found:
        case dict():
            return {
                _plain(path, key, tensor): _plain(path, value, tensor)
                for key, value in found.items()
            }
        case list():
            return [_plain(path, part, tensor) for part in found]
        case tuple():
            return tuple(_plain(path, part, tensor) for part in found)
        case _ if type(found) is tensor:
            return found.numpy()
        case _ if type(found) in _PLAIN:
            return found
        case _:
            raise DataError(
                f"{path}: refused, it holds {type(found).__name__}, not only tensors; prepare the "
                "dataset again from its photographs"
            )
