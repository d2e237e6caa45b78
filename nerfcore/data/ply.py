"""Owns reading coloured point clouds from PLY files, ASCII or binary."""

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nerfcore.errors import DataError

_TYPES: Final = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2",
    "ushort": "u2", "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDERS: Final = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
_MEND: Final = "export it again, or take ply_file_path out"


def read_ply_points(path: Path) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Read the vertices of a PLY file.

    Returns:
        Positions f64[P, 3] and colours u8[P, 3] (grey where the file has none).

    Raises:
        DataError: missing, no PLY, cut off, without positions, or not finite.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: unreadable ({error.strerror}); {_MEND}") from error
    head, mark, body = content.partition(b"end_header")
    if not content.startswith(b"ply") or not mark:
        raise DataError(f"{path}: no PLY file (its header is missing or cut off); {_MEND}")
    lines = head.decode("ascii", errors="replace").splitlines()
    kind, count, layout = _layout(path, lines)
    body = body.split(b"\n", 1)[1] if b"\n" in body else b""
    vertices = _vertices(path, kind, count, layout, body)
    names = vertices.dtype.names or ()
    if not {"x", "y", "z"} <= set(names):
        raise DataError(f"{path}: vertices lack x, y, z; {_MEND}")
    xyz = np.stack([vertices[axis].astype(np.float64) for axis in "xyz"], axis=-1)
    if not np.isfinite(xyz).all():
        bad = int((~np.isfinite(xyz).all(axis=1)).sum())
        raise DataError(f"{path}: {bad} of {count} points are not finite; {_MEND}")
    if {"red", "green", "blue"} <= set(names):
        return xyz, np.stack([vertices[c].astype(np.uint8) for c in ("red", "green", "blue")], -1)
    return xyz, np.full(xyz.shape, 128, np.uint8)


def _layout(path: Path, lines: list[str]) -> tuple[str, int, np.dtype[Any]]:
    """Return the file's format, its number of vertices, and the dtype of one."""
    kind, count, fields = "", 0, []
    element = None
    for words in (line.split() for line in lines[1:]):
        match words:
            case ["format", kind, _] if kind in _ORDERS:
                pass
            case ["element", name, number] if element is None and name != "vertex":
                raise DataError(f"{path}: element {name!r} ({number}) precedes vertex; {_MEND}")
            case ["element", "vertex", number] if number.isdigit():
                element, count = "vertex", int(number)
            case ["element", name, _]:
                element = name
            case ["property", kind_of, name] if element == "vertex" and kind_of in _TYPES:
                fields.append((name, _ORDERS.get(kind, "=") + _TYPES[kind_of]))
            case ["property", *_] if element == "vertex":
                raise DataError(f"{path}: '{' '.join(words)}' on a vertex is not known; {_MEND}")
            case _:
                pass
    if not kind or not fields:
        raise DataError(f"{path}: its header names no format or no vertices; {_MEND}")
    return kind, count, np.dtype(fields)


def _vertices(
    path: Path, kind: str, count: int, layout: np.dtype[Any], body: bytes
) -> NDArray[np.void]:
    if kind != "ascii":
        if len(body) < count * layout.itemsize:
            raise DataError(
                f"{path}: cut off, {len(body)} bytes where {count} vertices need "
                f"{count * layout.itemsize}; {_MEND}"
            )
        return np.frombuffer(body, layout, count)
    words = body.split()
    width = len(layout.names or ())
    if len(words) < count * width:
        raise DataError(f"{path}: cut off, {len(words) // width} of {count} vertices; {_MEND}")
    try:
        table = np.array(words[: count * width], np.float64).reshape(count, width)
    except ValueError as error:
        raise DataError(f"{path}: {error}; {_MEND}") from error
    vertices = np.empty(count, layout)
    for column, name in enumerate(layout.names or ()):
        vertices[name] = table[:, column]
    return vertices
