"""Owns the few Kafka protocol frames this package reads and writes itself.

Only versions without tagged fields are used: big-endian integers, strings with an int16 length,
arrays with an int32 length. A frame is an int32 size, then for a request api key (int16), version
(int16), correlation id (int32), client id; for a response the correlation id.
"""

import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

PRODUCE, METADATA, OFFSET_COMMIT, API_VERSIONS, CREATE_TOPICS = 0, 3, 8, 18, 19
JOIN_GROUP, HEARTBEAT, LEAVE_GROUP, SYNC_GROUP = 11, 12, 13, 14
ERROR_UNSUPPORTED_VERSION = 35

MAX_FRAME_BYTES = 128 * 1024 * 1024
FULL_ID_PREFIX, PLAIN_ID_PREFIX = "skyline-", "mockCluster"

_CLIENT_ID = "skyline-probe"


class MalformedFrameError(ValueError):
    """The bytes are not the Kafka frame that was expected."""


class Cursor:
    """Reads protocol fields one after the other from a frame's bytes."""

    def __init__(self, data: bytes, position: int = 0) -> None:
        self._data = data
        self.position = position

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        end = self.position + count
        if count < 0 or end > len(self._data):
            raise MalformedFrameError(f"frame ends at byte {len(self._data)}, {end} needed")
        part = self._data[self.position : end]
        self.position = end
        return part

    def int8(self) -> int:
        """Return the next int8."""
        return struct.unpack(">b", self.take(1))[0]

    def int16(self) -> int:
        """Return the next int16."""
        return struct.unpack(">h", self.take(2))[0]

    def int32(self) -> int:
        """Return the next int32."""
        return struct.unpack(">i", self.take(4))[0]

    def unsigned_varint(self) -> int:
        """Return the next unsigned varint (at most five bytes)."""
        value = 0
        for shift in range(0, 35, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise MalformedFrameError("a varint is longer than five bytes")

    def string(self) -> str | None:
        """Return the next string, None for null."""
        length = self.int16()
        if length < 0:
            return None
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise MalformedFrameError("a string is not UTF-8") from error

    def compact_string(self) -> str | None:
        """Return the next string of a version with tagged fields, None for null."""
        length = self.unsigned_varint()
        if length == 0:
            return None
        try:
            return self.take(length - 1).decode()
        except UnicodeDecodeError as error:
            raise MalformedFrameError("a string is not UTF-8") from error

    def skip_tagged_fields(self) -> None:
        """Pass over the next tagged fields."""
        for _ in range(self.unsigned_varint()):
            self.unsigned_varint()
            self.take(self.unsigned_varint())

    def array_length(self) -> int:
        """Return the next array's length, 0 for null, checked against the bytes that are left."""
        length = max(0, self.int32())
        if length > len(self._data) - self.position:
            raise MalformedFrameError(f"an array of {length} items does not fit the frame")
        return length


def string_bytes(text: str | None) -> bytes:
    """Return a nullable string as protocol bytes."""
    if text is None:
        return struct.pack(">h", -1)
    raw = text.encode()
    return struct.pack(">h", len(raw)) + raw


def request_frame(api_key: int, version: int, correlation_id: int, body: bytes) -> bytes:
    """Return a whole request frame with its size."""
    header = struct.pack(">hhi", api_key, version, correlation_id) + string_bytes(_CLIENT_ID)
    return struct.pack(">i", len(header) + len(body)) + header + body


def response_frame(correlation_id: int, body: bytes) -> bytes:
    """Return a whole response frame with its size."""
    return struct.pack(">ii", 4 + len(body), correlation_id) + body


@dataclass(frozen=True)
class ClusterAnswer:
    """What a broker said of its cluster.

    Attributes:
        cluster_id: the cluster's id, or None.
        brokers: host and port of every broker, as clients are told to reach them.
    """

    cluster_id: str | None
    brokers: tuple[tuple[str, int], ...]

    @property
    def embedded(self) -> bool:
        """Whether this package's own broker answered."""
        return (self.cluster_id or "").startswith((FULL_ID_PREFIX, PLAIN_ID_PREFIX))

    @property
    def plain(self) -> bool:
        """Whether it was started the plain way, with librdkafka's public interface only."""
        return (self.cluster_id or "").startswith(PLAIN_ID_PREFIX)


@dataclass(frozen=True)
class VersionsAnswer:
    """What a broker said of its API versions: error code, and (least, most) for each API key."""

    error: int
    ranges: dict[int, tuple[int, int]]


class WireClient:
    """One blocking connection for single requests; a context manager.

    Args:
        host: host name or address.
        port: TCP port.
        timeout_s: longest time for everything done with it, s, > 0.
    """

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        self._deadline = time.monotonic() + timeout_s
        self._socket = socket.create_connection((host, port), timeout=timeout_s)
        self._correlation_id = 0

    def __enter__(self) -> "WireClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, api_key: int, version: int, body: bytes) -> Cursor:
        """Send one request and return a cursor on the response's body.

        Raises:
            OSError: the connection failed or the time was up.
            MalformedFrameError: what answered does not speak Kafka.
        """
        self._correlation_id += 1
        self._socket.sendall(request_frame(api_key, version, self._correlation_id, body))
        size = struct.unpack(">i", self._receive(4))[0]
        if not 4 <= size <= MAX_FRAME_BYTES:
            raise MalformedFrameError(f"a response of {size} bytes is not Kafka's")
        cursor = Cursor(self._receive(size))
        if cursor.int32() != self._correlation_id:
            raise MalformedFrameError("the response belongs to another request")
        return cursor

    def cluster(self) -> ClusterAnswer:
        """Ask for the cluster's id and brokers (Metadata v2, no topics)."""
        cursor = self.ask(METADATA, 2, struct.pack(">i", 0))
        brokers = []
        for _ in range(cursor.array_length()):
            cursor.int32()
            host = cursor.string() or ""
            brokers.append((host, cursor.int32()))
            cursor.string()
        return ClusterAnswer(cursor.string(), tuple(brokers))

    def versions(self, version: int) -> VersionsAnswer:
        """Ask for API versions; the answer is read in its oldest form, as error 35 demands."""
        compact = b"\x00" if version >= 3 else b""
        body = b"\x08skyline\x02\x31" if version >= 3 else b""
        cursor = self.ask(API_VERSIONS, version, compact + body + compact)
        error = cursor.int16()
        ranges = {}
        for _ in range(cursor.array_length()):
            key = cursor.int16()
            ranges[key] = (cursor.int16(), cursor.int16())
        return VersionsAnswer(error, ranges)

    def _receive(self, count: int) -> bytes:
        parts: list[bytes] = []
        while count > 0:
            left_s = self._deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("no whole answer in time")
            self._socket.settimeout(left_s)
            part = self._socket.recv(min(count, 1 << 16))
            if not part:
                raise ConnectionError("the connection was closed before the answer")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def probe(host: str, port: int, timeout_s: float = 1.0) -> ClusterAnswer | None:
    """Return what a plaintext broker at the address says of itself, or None if none answers.

    Args:
        host: host name or address.
        port: TCP port.
        timeout_s: longest wait, s, > 0.
    """
    try:
        with WireClient(host, port, timeout_s) as client:
            return client.cluster()
    except (OSError, MalformedFrameError):
        return None


@dataclass(frozen=True)
class NewTopic:
    """One topic of a CreateTopics request; -1 leaves a number to the broker."""

    name: str
    partitions: int
    replication: int


def parse_create_topics(cursor: Cursor, version: int) -> tuple[list[NewTopic], bool]:
    """Return the topics of a CreateTopics request (v0 to v4) and whether it only validates.

    Args:
        cursor: stands behind the request's header.
        version: the request's version, 0 to 4.

    Raises:
        MalformedFrameError: the bytes are cut or wrong.
    """
    topics = []
    for _ in range(cursor.array_length()):
        name = cursor.string() or ""
        partitions, replication = cursor.int32(), cursor.int16()
        assigned = cursor.array_length()
        for _ in range(assigned):
            cursor.int32()
            for _ in range(cursor.array_length()):
                cursor.int32()
        for _ in range(cursor.array_length()):
            cursor.string()
            cursor.string()
        topics.append(NewTopic(name, assigned or partitions, replication))
    cursor.int32()
    return topics, version >= 1 and cursor.int8() != 0


def create_topics_body(outcomes: Sequence[tuple[str, int, str | None]], version: int) -> bytes:
    """Return a CreateTopics response body (v0 to v4) from (name, error code, message) triples."""
    body = struct.pack(">i", 0) if version >= 2 else b""
    body += struct.pack(">i", len(outcomes))
    for name, error, message in outcomes:
        body += string_bytes(name) + struct.pack(">h", error)
        body += string_bytes(message) if version >= 1 else b""
    return body
