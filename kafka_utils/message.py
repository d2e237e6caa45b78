"""Owns what a received message is, and the client handle that both kinds of readers hold.

Offsets of a restarted embedded broker start at 0 under another cluster id, so a position is
(cluster id, topic, partition, offset), and the id is asked anew after every lost connection.
"""

import logging
import operator
from dataclasses import dataclass

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaException
from confluent_kafka import Message as RawMessage

from kafka_utils.client_log import ConnectionLog, describe_refusal
from kafka_utils.errors import KafkaConsumeError

_METADATA_TIMEOUT_S = 2.0
# For a name that is not UTF-8 the client (2.16) returns a broken list with an exception pending. A
# plain method call, once the interpreter has specialised it, does not check for that and can crash
# the process; a call through methodcaller is always checked and raises SystemError.
_checked_headers = operator.methodcaller("headers")
_logger = logging.getLogger("kafka_utils")


@dataclass(frozen=True)
class Message:
    """One message as received.

    Attributes:
        topic: topic name.
        partition: partition number.
        offset: position in the partition.
        key: raw key, or None.
        value: raw value; None is a tombstone.
        headers: name and value pairs, in order; names may repeat. A name that is not UTF-8 makes
            all headers unreadable, and they are then left out.
        timestamp_ms: Unix time the broker or producer gave it, ms, or None.
        cluster_id: the cluster it came from; another one after an embedded broker's restart.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp_ms: int | None
    cluster_id: str


def _headers_of(raw: RawMessage) -> tuple[tuple[str, bytes | None], ...]:
    try:
        pairs = _checked_headers(raw) or []
    except (UnicodeDecodeError, SystemError):
        _logger.warning(
            "headers of %s [%s] offset %s are not UTF-8 and are left out",
            raw.topic(), raw.partition(), raw.offset(),
        )  # fmt: skip
        return ()
    return tuple(
        (name, value.encode() if isinstance(value, str) else value) for name, value in pairs
    )


def _bytes_of(value: bytes | str | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def message_of(raw: RawMessage, cluster_id: str) -> Message:
    topic, partition, offset = raw.topic(), raw.partition(), raw.offset()
    if topic is None or partition is None or offset is None:
        raise KafkaConsumeError("the client returned a message without a position")
    kind, timestamp_ms = raw.timestamp()
    return Message(
        topic=topic,
        partition=partition,
        offset=offset,
        key=_bytes_of(raw.key()),
        value=_bytes_of(raw.value()),
        headers=_headers_of(raw),
        timestamp_ms=None if kind == TIMESTAMP_NOT_AVAILABLE else timestamp_ms,
        cluster_id=cluster_id,
    )


class ConsumerClient:
    """A consumer handle with its connection log and its cluster's id."""

    def __init__(self, role: str, bootstrap: str, config: dict[str, object]) -> None:
        self.log = ConnectionLog(role, bootstrap)
        self._cluster_id: str | None = None
        try:
            self.raw = Consumer({**config, "error_cb": self.log.on_error})
        except KafkaException as error:
            given = {name: value for name, value in config.items() if isinstance(value, str)}
            reason = describe_refusal(error.args[0], given)
            raise KafkaConsumeError(
                f"{role} cannot start: {reason}; check the properties file"
            ) from error

    def cluster_id(self) -> str | None:
        """Return the cluster's id, asked anew after a lost connection; None while unreachable."""
        if self.log.take_stale() or self._cluster_id is None:
            try:
                self._cluster_id = self.raw.list_topics(timeout=_METADATA_TIMEOUT_S).cluster_id
            except KafkaException as error:
                self._cluster_id = None
                self.log.on_error(error.args[0])
        return self._cluster_id

    def close(self) -> None:
        self.raw.close()
