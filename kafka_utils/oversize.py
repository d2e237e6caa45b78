"""Owns the refusal of produce requests that the embedded cluster would confirm and then lose.

The cluster keeps 5 MiB a partition and, to make room for a message of more than half of that, drops
the message itself. Such a request is answered with Kafka's MESSAGE_TOO_LARGE for each of its
partitions, so that the sender hears of it.
"""

import struct
from collections.abc import Sequence

from kafka_utils.wire import Cursor, string_bytes

LARGEST_PRODUCE_BYTES = 5 * 1024 * 1024 // 2
FIRST_FLEXIBLE_PRODUCE = 9
_MESSAGE_TOO_LARGE = 10
_REASON = f"over {LARGEST_PRODUCE_BYTES} bytes, the most the embedded broker takes; make it smaller"

Places = Sequence[tuple[str, Sequence[int]]]


def parse_places(body: bytes, version: int) -> tuple[int, Places]:
    """Return what a Produce request (v0 to v10) wants: its acks, and its topics with partitions.

    Args:
        body: everything behind the request's correlation id.
        version: the request's version.

    Raises:
        MalformedFrameError: the bytes are cut or wrong.
    """
    cursor, flexible = Cursor(body), version >= FIRST_FLEXIBLE_PRODUCE
    cursor.string()
    if flexible:
        cursor.skip_tagged_fields()
    if version >= 3:
        _text(cursor, flexible=flexible)
    acks = cursor.int16()
    cursor.int32()
    places: list[tuple[str, list[int]]] = []
    for _ in range(_count(cursor, flexible=flexible)):
        name, partitions = _text(cursor, flexible=flexible), []
        for _ in range(_count(cursor, flexible=flexible)):
            partitions.append(cursor.int32())
            cursor.take(_count(cursor, flexible=flexible))
            if flexible:
                cursor.skip_tagged_fields()
        if flexible:
            cursor.skip_tagged_fields()
        places.append((name, partitions))
    return acks, places


def refusal_body(places: Places, version: int) -> bytes:
    """Return the Produce response (v0 to v10) that refuses everything as too large.

    Args:
        places: topics with partitions, as asked for.
        version: the request's version.

    Returns:
        Everything behind the response's correlation id.
    """
    flexible = version >= FIRST_FLEXIBLE_PRODUCE
    end = b"\x00" if flexible else b""
    body = end + _length(len(places), flexible=flexible)
    for name, partitions in places:
        body += _compact(name) if flexible else string_bytes(name)
        body += _length(len(partitions), flexible=flexible)
        for partition in partitions:
            body += struct.pack(">ihq", partition, _MESSAGE_TOO_LARGE, -1)
            body += struct.pack(">q", -1) if version >= 2 else b""
            body += struct.pack(">q", -1) if version >= 5 else b""
            if version >= 8:
                body += _length(0, flexible=flexible)
                body += _compact(_REASON) if flexible else string_bytes(_REASON)
            body += end
        body += end
    return body + (struct.pack(">i", 0) if version >= 1 else b"") + end


def _text(cursor: Cursor, *, flexible: bool) -> str:
    return (cursor.compact_string() if flexible else cursor.string()) or ""


def _count(cursor: Cursor, *, flexible: bool) -> int:
    return max(0, cursor.unsigned_varint() - 1 if flexible else cursor.int32())


def _length(count: int, *, flexible: bool) -> bytes:
    return _varint(count + 1) if flexible else struct.pack(">i", count)


def _compact(text: str) -> bytes:
    raw = text.encode()
    return _varint(len(raw) + 1) + raw


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*parts, value))
