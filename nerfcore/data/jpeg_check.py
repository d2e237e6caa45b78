"""Owns telling a damaged photograph from a whole one, which decoders do not.

libjpeg goes on after damage and gives a picture that is grey or shifted from there on; not even a
strict decoder complains. So the codes of a JPEG are walked through: each must exist, together they
must be exactly as many as the picture has blocks, and their values such as 8 bits can have. What
cannot be seen is damage that leaves the codes in step and the values possible: coefficients that
changed, everything behind shifted in brightness, another quantisation table. PNGs carry checksums,
which are compared. Other formats, and JPEGs with arithmetic coding, are left to their decoders.
"""

import math
import zlib
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nerfcore.data import jpeg_entropy

_FAULTS: Final = {
    jpeg_entropy.BAD_CODE: "no such code or value",
    jpeg_entropy.ENDS_EARLY: "data ends too early",
    jpeg_entropy.LEFT_OVER: "data is left over",
    jpeg_entropy.NO_RESTART: "a restart marker is missing",
}
_SEQUENTIAL: Final = (0xC0, 0xC1)
_PROGRESSIVE: Final = 0xC2
_OTHER_CODINGS: Final = (0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_PNG: Final = b"\x89PNG\r\n\x1a\n"


class _FaultError(Exception):
    """What is wrong with a file, and where."""


class _NotCheckedError(Exception):
    """A coding that this module does not know."""


@dataclass
class _Component:
    """One colour: sampling factors, quantisation table, blocks, what scans told of them so far."""

    across: int
    down: int
    table: int
    columns: int = 0
    rows: int = 0
    nonzero: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))


@dataclass
class _Frame:
    progressive: bool
    width: int
    height: int
    components: dict[int, _Component]

    def units(self) -> int:
        """Number of interleaved units."""
        across = max(one.across for one in self.components.values())
        down = max(one.down for one in self.components.values())
        return math.ceil(self.width / (8 * across)) * math.ceil(self.height / (8 * down))


def damage(content: bytes) -> str | None:
    """Say what is damaged in a photograph's file, and at which byte; None when nothing is seen.

    Args:
        content: the whole file.
    """
    try:
        if content.startswith(_PNG):
            _check_png(content)
        elif content.startswith(b"\xff\xd8"):
            _check_jpeg(content)
    except _FaultError as fault:
        return str(fault)
    except _NotCheckedError:
        return None
    return None


def _check_png(content: bytes) -> None:
    position = len(_PNG)
    while content[position + 4 : position + 8] != b"IEND":
        size = int.from_bytes(content[position : position + 4], "big")
        end = position + 8 + size
        if end + 4 > len(content):
            raise _FaultError(f"cut off at byte {len(content)}")
        listed = int.from_bytes(content[end : end + 4], "big")
        if zlib.crc32(content[position + 4 : end]) != listed:
            raise _FaultError(f"damaged at byte {position}, wrong checksum")
        position = end + 4


def _check_jpeg(content: bytes) -> None:
    data = np.frombuffer(content, np.uint8)
    lookups = np.zeros((8, 1 << 16), np.uint16)
    steps = np.ones((4, 64), np.int64)
    frame, interval, scans, position = None, 0, 0, 2
    while True:
        kind, position = _next_marker(content, position)
        if kind == 0xD9:
            break
        if kind in (0x01, *range(0xD0, 0xD8)):
            continue
        size = int.from_bytes(content[position : position + 2], "big")
        segment = content[position + 2 : position + size]
        if size < 2 or len(segment) != size - 2:
            raise _FaultError(f"damaged at byte {position}, a segment of {size} bytes")
        at, position = position, position + size
        if kind in _OTHER_CODINGS or kind == 0xCC:
            raise _NotCheckedError
        try:
            if kind in (*_SEQUENTIAL, _PROGRESSIVE):
                frame = _read_frame(kind, segment)
            elif kind == 0xC4:
                _read_codes(segment, lookups)
            elif kind == 0xDB:
                _read_steps(segment, steps)
            elif kind == 0xDD:
                interval = int.from_bytes(segment[:2], "big")
            elif kind == 0xDA:
                if frame is None:
                    raise ValueError("a scan before the frame")
                position = _walk(data, position, segment, frame, (lookups, steps), interval)
                scans += 1
        except (IndexError, KeyError, ValueError) as error:
            raise _FaultError(f"damaged at byte {at}, {error or 'a wrong segment'}") from error
    if not scans:
        raise _FaultError("no pixels")


def _next_marker(content: bytes, position: int) -> tuple[int, int]:
    """Return the marker at a position and where its segment begins."""
    if content[position : position + 1] != b"\xff":
        where = "cut off" if position >= len(content) else "damaged"
        raise _FaultError(f"{where} at byte {position}, no marker")
    while content[position : position + 1] == b"\xff":
        position += 1
    if position >= len(content):
        raise _FaultError(f"cut off at byte {position}")
    return content[position], position + 1


def _read_frame(kind: int, segment: bytes) -> _Frame:
    if segment[0] != 8:
        raise _NotCheckedError
    height, width = (int.from_bytes(segment[i : i + 2], "big") for i in (1, 3))
    if height == 0:  # a later segment tells it
        raise _NotCheckedError
    components = {}
    for index in range(segment[5]):
        number, sampling, table = segment[6 + 3 * index : 9 + 3 * index]
        components[number] = _Component(sampling >> 4, sampling & 15, table & 3)
    if not components or not width or not all(c.across and c.down for c in components.values()):
        raise ValueError("a frame without a size")
    across = max(one.across for one in components.values())
    down = max(one.down for one in components.values())
    for one in components.values():
        one.columns = math.ceil(math.ceil(width * one.across / across) / 8)
        one.rows = math.ceil(math.ceil(height * one.down / down) / 8)
        if kind == _PROGRESSIVE:
            one.nonzero = np.zeros(one.columns * one.rows, np.uint64)
    return _Frame(kind == _PROGRESSIVE, width, height, components)


def _read_codes(segment: bytes, lookups: NDArray[np.uint16]) -> None:
    """Read tables of codes; those of other than the first coefficients are lookups 4..7."""
    position = 0
    while position < len(segment):
        number = segment[position]
        counts = segment[position + 1 : position + 17]
        total = sum(counts)
        symbols = segment[position + 17 : position + 17 + total]
        lookup = jpeg_entropy.code_lookup(counts, symbols)
        if lookup is None or number & 15 > 3 or number >> 4 > 1:
            raise ValueError("no table of codes")
        lookups[4 * (number >> 4) + (number & 15)] = lookup
        position += 17 + total


def _read_steps(segment: bytes, steps: NDArray[np.int64]) -> None:
    """Read quantisation tables, in the order in which coefficients are stored."""
    position = 0
    while position < len(segment):
        kind, number = (">u2" if segment[position] >> 4 else "u1"), segment[position] & 15
        if number > 3:
            raise ValueError("no quantisation table")
        steps[number] = np.frombuffer(segment, kind, 64, position + 1)
        position += 1 + 64 * np.dtype(kind).itemsize


def _walk(
    data: NDArray[np.uint8],
    start: int,
    segment: bytes,
    frame: _Frame,
    tables: tuple[NDArray[np.uint16], NDArray[np.int64]],
    interval: int,
) -> int:
    """Walk through a scan; return the position of the marker behind it."""
    lookups, steps = tables
    count = segment[0]
    chosen = [(segment[1 + 2 * i], segment[2 + 2 * i]) for i in range(count)]
    first, last, refines = segment[1 + 2 * count], segment[2 + 2 * count], segment[3 + 2 * count]
    if not frame.progressive:
        first, last, refines = 0, 63, 0
    blocks = []
    for colour, (number, selector) in enumerate(chosen):
        one = frame.components[number]
        times = 1 if count == 1 else one.across * one.down
        blocks += [(colour, selector >> 4 & 3, 4 + (selector & 3))] * times
    if not blocks or last > 63 or first > last:
        raise ValueError("a wrong scan")
    only = frame.components[chosen[0][0]]
    fault, position = jpeg_entropy.walk_scan(
        data,
        start,
        lookups,
        only.columns * only.rows if count == 1 else frame.units(),
        np.array(blocks, np.int64),
        steps[[frame.components[number].table for number, _ in chosen]] << (refines & 15),
        (first, last, int(refines >> 4 > 0), int(frame.progressive)),
        interval,
        only.nonzero,
    )
    if fault != jpeg_entropy.WHOLE:
        raise _FaultError(f"damaged near byte {position} of {len(data)}, {_FAULTS[int(fault)]}")
    return int(position)
