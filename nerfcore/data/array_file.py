"""Owns arrays that exceed the memory budget: kept in an unnamed file, read by index.

The file is read with `pread`, never mapped: a file system that caches in large pages maps up to
2 MB for every element touched, so one random batch would pull gigabytes into the process. What is
read often stays in the system's page cache, which it gives up when programs need the memory.
"""

import os
import tempfile
from math import prod
from typing import Generic, TypeVar

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

from nerfcore.compiled import EXACT
from nerfcore.errors import DataError

Scalar = TypeVar("Scalar", bound=np.generic)

# Called by its C name, which unlike a ctypes pointer lets the kernel be cached on disk.
_pread = types.ExternalFunction(
    "pread", types.intp(types.intc, types.uintp, types.uintp, types.int64)
)


@numba.njit(parallel=True, **EXACT)
def _gather(descriptor, count, indices, out):  # type: ignore[no-untyped-def]
    """Read rows into out u8[N, width]; return how many could not be read whole."""
    width = out.shape[1]
    base = np.uintp(out.ctypes.data)
    failed = 0
    for i in numba.prange(indices.shape[0]):
        index = indices[i]
        done = np.intp(-1)
        if 0 <= index < count:
            target = base + np.uintp(i * width)
            done = _pread(descriptor, target, np.uintp(width), index * width)
        failed += done != width
    return failed


class ArrayFile(Generic[Scalar]):
    """An array in an unnamed temporary file, indexed along its first axis.

    The system frees the file when it is closed or the process is killed. Reading and writing
    different rows from several threads is safe. Rows never written read as an error.

    Attributes:
        shape, dtype: as of an array.
    """

    def __init__(self, shape: tuple[int, ...], dtype: type[Scalar]) -> None:
        """Args: the whole array's shape (one axis at least) and type."""
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._row_bytes = prod(shape[1:]) * self.dtype.itemsize
        self._file = tempfile.TemporaryFile(prefix="skyline-array-")  # noqa: SIM115
        # Reads are scattered: the system shall not read more than asked.
        os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | NDArray[np.integer]) -> NDArray[Scalar]:
        """Return a copy of some rows.

        Args:
            index: a slice of step 1, or non-negative row numbers [M].

        Raises:
            IndexError: not such an index, a row out of range, or one never written.
        """
        if isinstance(index, slice):
            start, stop = self._span(index)
            out = np.empty((stop - start, *self.shape[1:]), self.dtype)
            self._read(start, out)
            return out
        if not np.issubdtype(index.dtype, np.integer):
            raise IndexError(f"index of type {index.dtype}; give row numbers or a slice")
        out = np.empty((len(index), *self.shape[1:]), self.dtype)
        raw = out.view(np.uint8).reshape(len(index), self._row_bytes)
        rows = np.ascontiguousarray(index, np.int64)
        failed = _gather(self._file.fileno(), len(self), rows, raw)
        if failed:
            raise IndexError(
                f"{failed} of {len(rows)} rows are outside 0..{len(self) - 1} or empty"
            )
        return out

    def __setitem__(self, index: slice, rows: NDArray[Scalar]) -> None:
        """Write consecutive rows.

        Raises:
            IndexError: not a slice of step 1, or not as many rows.
            DataError: the temporary folder's disk is full.
        """
        start, stop = self._span(index)
        block = np.ascontiguousarray(rows, self.dtype)
        if block.shape != (stop - start, *self.shape[1:]):
            raise IndexError(f"{block.shape} rows do not fit into {start}..{stop} of {self.shape}")
        view, done = block.view(np.uint8).reshape(-1).data, 0
        try:
            while done < len(view):
                at = start * self._row_bytes + done
                done += os.pwrite(self._file.fileno(), view[done:], at)
        except OSError as error:
            raise DataError(
                f"{tempfile.gettempdir()}: cannot hold {len(self) * self._row_bytes / 1e9:.1f} GB "
                f"of pixels ({error.strerror}); make room there, set TMPDIR, or use a smaller "
                "downscale"
            ) from error

    def _span(self, index: slice) -> tuple[int, int]:
        start, stop, step = index.indices(len(self))
        if step != 1:
            raise IndexError(f"a slice of step {step}; only 1 is possible")
        return start, max(start, stop)

    def _read(self, start: int, out: NDArray[Scalar]) -> None:
        view, done = out.view(np.uint8).reshape(-1).data, 0
        while done < len(view):
            at = start * self._row_bytes + done
            count = os.preadv(self._file.fileno(), [view[done:]], at)
            if count == 0:
                raise IndexError(f"rows {start}..{start + len(out)} are not all written")
            done += count

    def close(self) -> None:
        """Free the file."""
        self._file.close()
