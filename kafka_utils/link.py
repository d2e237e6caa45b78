"""Owns one client's connection through the front, and what is changed in its frames.

Frames are forwarded as they are, except: ApiVersions above v2 is answered with error 35 (clients
then ask in an older form), CreateTopics is listed and answered here, the cluster's id is replaced
by one that no other start ever had, a producer that wants no answer gets none, one that sends more
than the cluster would keep is refused (`oversize`), a group member's session timeout is cut to
10 s, because the cluster lets a changed group wait that long, and a commit by a member of a group
that nobody has joined since this start is led aside: the member still means the cluster before a
restart, and its offset would make its group skip messages here.
"""

import asyncio
import enum
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from kafka_utils import wire
from kafka_utils.oversize import (
    FIRST_FLEXIBLE_PRODUCE,
    LARGEST_PRODUCE_BYTES,
    parse_places,
    refusal_body,
)
from kafka_utils.wire import Cursor, MalformedFrameError

CreateTopic = Callable[[str, int], int]

_CHUNK_BYTES = 1 << 16
_HEADER_BYTES = 8
_PREFIX_BYTES = 4096
_SMALL_FRAME_BYTES = 1 << 20
_LARGEST_REFUSED_BYTES = 1 << 25
_MAX_PRODUCE = 10
_FIRST_FLEXIBLE_JOIN_GROUP = 6
_FIRST_FLEXIBLE_OFFSET_COMMIT = 8
_MAX_API_VERSIONS = 2
_MAX_CREATE_TOPICS = 4
_MAX_PARTITIONS = 256
_DEFAULT_PARTITIONS = 4
_MAX_SESSION_MS = 10_000
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_INVALID_TOPIC, _INVALID_PARTITIONS, _INVALID_REPLICATION = 17, 37, 38
_PEEKED = frozenset({wire.PRODUCE, wire.JOIN_GROUP, wire.OFFSET_COMMIT})


class _Answer(enum.Enum):
    """What is done with the cluster's answer to a request."""

    PASS = enum.auto()
    DROP = enum.auto()
    ADD_CREATE_TOPICS = enum.auto()
    REPLACE_ID = enum.auto()


@dataclass
class Shared:
    """What the links of one front have in common.

    Attributes:
        create_topic: makes a topic (name, partitions) and returns Kafka's error code.
        own_id: the cluster's own id, and what clients see instead, of the same length.
        groups: groups that somebody has joined since the start.
    """

    create_topic: CreateTopic
    own_id: tuple[bytes, bytes] = (b"", b"")
    groups: set[str] = field(default_factory=set)


async def _frame_start(reader: asyncio.StreamReader, least_bytes: int) -> tuple[int, bytes]:
    size = struct.unpack(">i", await reader.readexactly(4))[0]
    if not least_bytes <= size <= wire.MAX_FRAME_BYTES:
        raise MalformedFrameError(
            f"a frame of {size} bytes, limit {least_bytes} to {wire.MAX_FRAME_BYTES}"
        )
    return size, await reader.readexactly(least_bytes)


class Link:
    """One client's connection and its own connection to the cluster."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
        shared: Shared,
    ) -> None:
        self._reader, self._writer = reader, writer
        self._up_reader, self._up_writer = up_reader, up_writer
        self._shared = shared
        self._in_flight: dict[int, _Answer] = {}
        self._joining: dict[int, str] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    async def pump_requests(self) -> None:
        """Forward requests until the client ends, answering some of them here."""
        while True:
            try:
                size, header = await _frame_start(self._reader, _HEADER_BYTES)
            except asyncio.IncompleteReadError as error:
                if error.partial:
                    raise
                return
            key, version, correlation_id = struct.unpack(">hhi", header)
            left = size - _HEADER_BYTES
            if key == wire.API_VERSIONS and version > _MAX_API_VERSIONS:
                await self._discard(self._reader, left)
                await self._answer(correlation_id, _unsupported_versions())
            elif key == wire.CREATE_TOPICS:
                if left > _SMALL_FRAME_BYTES or not 0 <= version <= _MAX_CREATE_TOPICS:
                    raise MalformedFrameError(f"CreateTopics v{version} of {left} bytes")
                rest = await self._reader.readexactly(left)
                await self._answer(correlation_id, self._create_topics(version, rest))
            elif key == wire.PRODUCE and size > LARGEST_PRODUCE_BYTES:
                await self._refuse_produce(correlation_id, version, left)
            else:
                prefix = b""
                if key in _PEEKED:
                    prefix = await self._reader.readexactly(min(left, _PREFIX_BYTES))
                if key == wire.JOIN_GROUP:
                    self._joining[correlation_id] = _group_of(prefix)
                    prefix = _shorter_session(version, prefix)
                elif key == wire.OFFSET_COMMIT:
                    prefix = _led_aside(version, prefix, self._shared.groups)
                self._expect(correlation_id, _answer_to(key, version, prefix))
                self._up_writer.write(struct.pack(">i", size) + header + prefix)
                await self._stream(self._reader, self._up_writer, left - len(prefix))

    async def pump_responses(self) -> None:
        """Forward the cluster's responses until it ends, changing some of them."""
        while True:
            size, header = await _frame_start(self._up_reader, 4)
            correlation_id = struct.unpack(">i", header)[0]
            answer = self._in_flight.get(correlation_id, _Answer.PASS)
            if answer is _Answer.DROP:
                await self._discard(self._up_reader, size - 4)
            elif answer is _Answer.PASS:
                self._writer.write(struct.pack(">i", size) + header)
                await self._stream(self._up_reader, self._writer, size - 4)
            else:
                body = await self._up_reader.readexactly(size - 4)
                body = _add_create_topics(body) if answer is _Answer.ADD_CREATE_TOPICS else (
                    body.replace(*self._shared.own_id)
                )  # fmt: skip
                self._writer.write(wire.response_frame(correlation_id, body))
                await self._writer.drain()
            self._in_flight.pop(correlation_id, None)
            if (group := self._joining.pop(correlation_id, None)) is not None:
                self._shared.groups.add(group)
            if not self._in_flight:
                self._idle.set()

    def _expect(self, correlation_id: int, answer: _Answer) -> None:
        self._in_flight[correlation_id] = answer
        self._idle.clear()

    async def _answer(self, correlation_id: int, body: bytes) -> None:
        # Clients match answers by order, so one made here waits for all that came before it.
        await self._idle.wait()
        self._writer.write(wire.response_frame(correlation_id, body))
        await self._writer.drain()

    async def _refuse_produce(self, correlation_id: int, version: int, left: int) -> None:
        if left > _LARGEST_REFUSED_BYTES or not 0 <= version <= _MAX_PRODUCE:
            raise MalformedFrameError(f"Produce v{version} of {left} bytes")
        acks, places = parse_places(await self._reader.readexactly(left), version)
        if acks != 0:
            await self._answer(correlation_id, refusal_body(places, version))

    def _create_topics(self, version: int, rest: bytes) -> bytes:
        cursor = Cursor(rest)
        cursor.string()
        topics, validate_only = wire.parse_create_topics(cursor, version)
        outcomes = []
        for topic in topics:
            error, message = _refusal(topic)
            if error == 0 and not validate_only:
                count = topic.partitions if topic.partitions > 0 else _DEFAULT_PARTITIONS
                error = self._shared.create_topic(topic.name, count)
            outcomes.append((topic.name, error, message))
        return wire.create_topics_body(outcomes, version)

    @staticmethod
    async def _stream(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: int
    ) -> None:
        while count > 0:
            chunk = await reader.read(min(count, _CHUNK_BYTES))
            if not chunk:
                raise EOFError("a frame was cut")
            writer.write(chunk)
            count -= len(chunk)
            await writer.drain()
        await writer.drain()

    @staticmethod
    async def _discard(reader: asyncio.StreamReader, count: int) -> None:
        while count > 0:
            chunk = await reader.read(min(count, _CHUNK_BYTES))
            if not chunk:
                raise EOFError("a frame was cut")
            count -= len(chunk)


def _answer_to(key: int, version: int, prefix: bytes) -> _Answer:
    if key == wire.API_VERSIONS:
        return _Answer.ADD_CREATE_TOPICS
    if key == wire.METADATA:
        return _Answer.REPLACE_ID
    if key == wire.PRODUCE and _wants_no_answer(version, prefix):
        return _Answer.DROP
    return _Answer.PASS


def _wants_no_answer(version: int, prefix: bytes) -> bool:
    cursor = Cursor(prefix)
    flexible = version >= FIRST_FLEXIBLE_PRODUCE
    try:
        _skip_client_id(cursor, flexible=flexible)
        if flexible:
            cursor.compact_string()
        elif version >= 3:
            cursor.string()
        return cursor.int16() == 0
    except MalformedFrameError:
        # A client id beyond any sense: the cluster decides.
        return False


def _group_of(prefix: bytes) -> str:
    cursor = Cursor(prefix)
    _skip_client_id(cursor, flexible=False)
    return cursor.string() or ""


def _shorter_session(version: int, prefix: bytes) -> bytes:
    cursor = Cursor(prefix)
    _skip_client_id(cursor, flexible=False)
    cursor.string()
    start = cursor.position
    session_ms = cursor.int32()
    if version >= _FIRST_FLEXIBLE_JOIN_GROUP or session_ms <= _MAX_SESSION_MS:
        return prefix
    return prefix[:start] + struct.pack(">i", _MAX_SESSION_MS) + prefix[cursor.position :]


def _led_aside(version: int, prefix: bytes, groups: set[str]) -> bytes:
    cursor = Cursor(prefix)
    flexible = version >= _FIRST_FLEXIBLE_OFFSET_COMMIT
    _skip_client_id(cursor, flexible=flexible)
    group = (cursor.compact_string() if flexible else cursor.string()) or ""
    end = cursor.position
    # Generation -1 is a commit without membership, by a tool or a client that assigns itself.
    if version == 0 or cursor.int32() < 0 or group in groups:
        return prefix
    # The same length under a name no group has, so that the frame stays as it is.
    size = len(group.encode())
    return prefix[: end - size] + b"\x01" * size + prefix[end:]


def _skip_client_id(cursor: Cursor, *, flexible: bool) -> None:
    cursor.string()
    if flexible:
        cursor.skip_tagged_fields()


def _unsupported_versions() -> bytes:
    return struct.pack(
        ">hihhh", wire.ERROR_UNSUPPORTED_VERSION, 1, wire.API_VERSIONS, 0, _MAX_API_VERSIONS
    )


def _add_create_topics(body: bytes) -> bytes:
    error, count = struct.unpack_from(">hi", body)
    entry = struct.pack(">hhh", wire.CREATE_TOPICS, 0, _MAX_CREATE_TOPICS)
    if error != 0 or len(body) < 6 + count * len(entry):
        return body
    return struct.pack(">hi", error, count + 1) + body[6 : 6 + count * 6] + entry + body[
        6 + count * 6 :
    ]  # fmt: skip


def _refusal(topic: wire.NewTopic) -> tuple[int, str | None]:
    if not _TOPIC.fullmatch(topic.name) or topic.name in {".", ".."}:
        return _INVALID_TOPIC, "1 to 249 of A-Z a-z 0-9 . _ -"
    if topic.partitions != -1 and not 0 < topic.partitions <= _MAX_PARTITIONS:
        return _INVALID_PARTITIONS, f"1 to {_MAX_PARTITIONS} partitions"
    if topic.replication not in {-1, 1}:
        return _INVALID_REPLICATION, "there is one broker"
    return 0, None
