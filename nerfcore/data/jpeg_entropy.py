"""Owns walking through a JPEG scan's Huffman codes without making pixels of them.

A code is looked up by the next 16 bits: `lookup[bits]` = length << 8 | symbol, 0 where no code
begins so. Bytes 0xFF of the data are followed by a stuffed 0; any other byte after 0xFF is a
marker, at which the data ends.

Source: ITU-T T.81, sections F.2.2 (sequential) and G.2 (progressive).
"""

from functools import lru_cache
from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from nerfcore.compiled import EXACT

WHOLE: Final = 0
BAD_CODE: Final = 1
ENDS_EARLY: Final = 2
LEFT_OVER: Final = 3
NO_RESTART: Final = 4

LARGEST: Final = 1280  # of 8 bits, any coefficient is within 1024; encoders overshoot a little
_NO_CODE: Final = -1


@lru_cache(maxsize=16)  # the photographs of a flight often share theirs
def code_lookup(counts: bytes, symbols: bytes) -> NDArray[np.uint16] | None:
    """Return the lookup u16[65536] of a table of codes; None when there are more than fit.

    Args:
        counts: 16 bytes, how many codes there are of 1..16 bits.
        symbols: their symbols, in order.
    """
    lengths = np.repeat(np.arange(1, 17), list(counts))
    spans = 1 << (16 - lengths)
    if int(spans.sum()) > 1 << 16 or len(symbols) != len(lengths):
        return None
    lookup = np.zeros(1 << 16, np.uint16)
    entries = (lengths << 8 | np.frombuffer(symbols, np.uint8)).astype(np.uint16)
    lookup[: int(spans.sum())] = np.repeat(entries, spans)
    return lookup


# A reader of bits is (position, bits held, how many, how many of them are made up because the data
# has ended).


@numba.njit(**EXACT)
def _fill(data, reader):  # type: ignore[no-untyped-def]
    """Hold at least 32 bits, zeros after the data's end."""
    at, bits, have, made_up = reader
    while have <= 32:
        value = np.uint64(0)
        if at < len(data) and data[at] != 0xFF:
            value = np.uint64(data[at])
            at += 1
        elif at + 1 < len(data) and data[at + 1] == 0:
            value = np.uint64(0xFF)
            at += 2
        else:
            made_up += 8
        bits = (bits << np.uint64(8)) | value
        have += 8
    return at, bits, have, made_up


@numba.njit(**EXACT)
def _take(reader, count):  # type: ignore[no-untyped-def]
    """Take some of the bits held, at most 16."""
    at, bits, have, made_up = reader
    have -= count
    mask = (np.uint64(1) << np.uint64(count)) - np.uint64(1)
    return np.int64((bits >> np.uint64(have)) & mask), (at, bits, have, made_up)


@numba.njit(**EXACT)
def _symbol(data, reader, lookup):  # type: ignore[no-untyped-def]
    """Take a code and return its symbol, `_NO_CODE` if there is none; 16 bits are held then."""
    at, bits, have, made_up = _fill(data, reader)
    entry = np.int64(lookup[(bits >> np.uint64(have - 16)) & np.uint64(0xFFFF)])
    if entry == 0:
        return _NO_CODE, (at, bits, have, made_up)
    return entry & 0xFF, (at, bits, have - (entry >> 8), made_up)


@numba.njit(**EXACT)
def _value(reader, size):  # type: ignore[no-untyped-def]
    """Take a coefficient of so many bits."""
    value, reader = _take(reader, size)
    if size and value < (1 << (size - 1)):
        value -= (1 << size) - 1
    return value, reader


@numba.njit(**EXACT)
def _coefficients(data, reader, lookup, first, last, steps, nonzero):  # type: ignore[no-untyped-def]
    """Walk through a block's coefficients.

    Returns:
        Whether all were good, the reader, which coefficients are there now (one bit each), and for
        how many blocks (this one included) nothing more follows.
    """
    k = first
    while k <= last:
        symbol, reader = _symbol(data, reader, lookup)
        if symbol < 0:
            return False, reader, nonzero, 0
        run, size = symbol >> 4, symbol & 15
        if size == 0:
            if run < 15:
                blocks, reader = _take(reader, run)
                return True, reader, nonzero, (1 << run) + blocks
            k += 16
            continue
        k += run
        if k > last:
            return False, reader, nonzero, 0
        value, reader = _value(reader, size)
        if (abs(value) - 1) * steps[k] > LARGEST:
            return False, reader, nonzero, 0
        nonzero |= np.uint64(1) << np.uint64(k)
        k += 1
    return k == last + 1, reader, nonzero, 0


@numba.njit(**EXACT)
def _correct(data, reader, start, last, nonzero, run):  # type: ignore[no-untyped-def]
    """Take a correction bit for each coefficient that is there, until `run` zeros are passed."""
    k = start
    while k <= last:
        if (nonzero >> np.uint64(k)) & np.uint64(1):
            _, reader = _take(_fill(data, reader), 1)
        else:
            if run == 0:
                break
            run -= 1
        k += 1
    return k, reader


@numba.njit(**EXACT)
def _refinement(data, reader, lookup, first, last, nonzero):  # type: ignore[no-untyped-def]
    """As `_coefficients`, for a scan that adds a bit to coefficients known roughly."""
    k = first
    while k <= last:
        symbol, reader = _symbol(data, reader, lookup)
        run, size = symbol >> 4, symbol & 15
        if symbol < 0 or size > 1:
            return False, reader, nonzero, 0
        if size == 0 and run < 15:
            blocks, reader = _take(reader, run)
            _, reader = _correct(data, reader, k, last, nonzero, 64)
            return True, reader, nonzero, (1 << run) + blocks
        _, reader = _take(reader, size)
        k, reader = _correct(data, reader, k, last, nonzero, run)
        if size:
            if k > last:
                return False, reader, nonzero, 0
            nonzero |= np.uint64(1) << np.uint64(k)
        k += 1
    return True, reader, nonzero, 0


@numba.njit(**EXACT)
def _mean(data, reader, lookup, steps, mean):  # type: ignore[no-untyped-def]
    """Walk through a block's first coefficient, told as the difference from the last block's."""
    size, reader = _symbol(data, reader, lookup)
    if not 0 <= size <= 15:
        return False, reader, mean
    value, reader = _value(reader, size)
    mean += value
    return (abs(mean) - 1) * steps[0] <= LARGEST, reader, mean


@numba.njit(**EXACT)
def _restart(data, reader, number):  # type: ignore[no-untyped-def]
    """Go past the restart marker of this number; tell whether it is there."""
    at, bits, have, made_up = _fill(data, reader)
    there = have < made_up + 8 and at + 1 < len(data) and data[at] == 0xFF
    there = there and data[at + 1] == 0xD0 + number % 8
    return there, (at + 2, np.uint64(0), 0, 0) if there else (at, bits, have, made_up)


@numba.njit(**EXACT)
def walk_scan(data, start, lookups, units, per_unit, steps, band, interval, nonzero):  # type: ignore[no-untyped-def]
    """Walk through the entropy-coded data of one scan.

    Args:
        data: u8[n], the file.
        start: where the data begins.
        lookups: u16[T, 65536], tables of codes.
        units: number of units that restart intervals count.
        per_unit: i64[B, 3], for each block of a unit its colour and its tables (of first and other
            coefficients).
        steps: i64[C, 64], what one count of each colour's coefficient means.
        band: first and last coefficient, whether the scan refines, whether it is progressive.
        interval: units between restart markers, 0 = none.
        nonzero: u64[blocks], which coefficients are there already (progressive scans of others than
            the first); changed here.

    Returns:
        The fault (`WHOLE` and so on) and the position of the next marker or of the fault.
    """
    first, last, refines, progressive = band
    reader = np.int64(start), np.uint64(0), np.int64(0), np.int64(0)
    means = np.zeros(len(steps), np.int64)
    waiting = 0  # blocks without further coefficients
    others = max(first, 1)
    for unit in range(units):
        if interval and unit and unit % interval == 0:
            there, reader = _restart(data, reader, unit // interval - 1)
            if not there:
                return NO_RESTART, reader[0]
            means[:] = 0
            waiting = 0
        for block in range(len(per_unit)):
            good = True
            colour, table = per_unit[block, 0], lookups[per_unit[block, 2]]
            if first == 0 and refines:
                _, reader = _take(_fill(data, reader), 1)
            elif first == 0:
                good, reader, means[colour] = _mean(
                    data, reader, lookups[per_unit[block, 1]], steps[colour], means[colour]
                )
            if not good or last == 0:
                pass
            elif not progressive:
                good, reader, _, _ = _coefficients(
                    data, reader, table, 1, last, steps[colour], np.uint64(0)
                )
            elif waiting:
                if refines:
                    _, reader = _correct(data, reader, others, last, nonzero[unit], 64)
                waiting -= 1
            elif refines:
                good, reader, nonzero[unit], waiting = _refinement(
                    data, reader, table, others, last, nonzero[unit]
                )
                waiting = max(0, waiting - 1)
            else:
                good, reader, nonzero[unit], waiting = _coefficients(
                    data, reader, table, others, last, steps[colour], nonzero[unit]
                )
                waiting = max(0, waiting - 1)
            if not good or reader[2] < reader[3]:
                return (ENDS_EARLY if reader[3] else BAD_CODE), reader[0]
    return _end(data, reader, waiting)


@numba.njit(**EXACT)
def _end(data, reader, waiting):  # type: ignore[no-untyped-def]
    """Check that nothing but zeros is left before the next marker."""
    at, bits, have, made_up = reader
    spare = (have - made_up) // 8 * 8
    mask = (np.uint64(1) << np.uint64(spare)) - np.uint64(1)
    stray = waiting > 0 or ((bits >> np.uint64(made_up)) & mask) != 0
    while at < len(data) and not (data[at] == 0xFF and at + 1 < len(data) and data[at + 1] != 0):
        stray = stray or data[at] != 0
        at += 1
    return (LEFT_OVER if stray else WHOLE), at
