"""Owns reading a topic without a group: to follow a job's events, and to inspect topics."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition

from kafka_utils.client_log import describe
from kafka_utils.errors import KafkaTopicError
from kafka_utils.message import ConsumerClient, Message, message_of
from kafka_utils.settings import KafkaSettings

_METADATA_INTERVAL_S = 0.5


class TopicReader:
    """Reads all partitions of one topic without a group, from its beginning or its present end.

    A topic that does not exist yet is waited for, and then read from its beginning.

    Args:
        settings: where the broker is.
        topic: the topic's name.
        from_end: read only what comes after this call.
        starts: offsets to begin at, by partition; others begin as `from_end` says. One that the
            broker no longer has means the oldest it has.
        timeout_s: longest wait for the broker's answer, s, > 0.

    Raises:
        KafkaTopicError: the broker did not describe the topic in time.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        *,
        from_end: bool = False,
        starts: Mapping[int, int] | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        self._topic = topic
        self._bootstrap = settings.bootstrap
        self._timeout_s = timeout_s
        self._client = ConsumerClient("reader", settings.bootstrap, settings.reader_config())
        self._starts = dict(starts or {})
        self._ends: dict[int, int] = {}
        self._next: dict[int, int] = {}
        self._asked_at_s = 0.0
        try:
            self._assign(from_end=from_end)
        except KafkaTopicError:
            self.close()
            raise

    def poll(self, timeout_s: float) -> Message | None:
        """Return the next message, or None after `timeout_s` (s, >= 0)."""
        if not self._next and not self._assign_later(timeout_s):
            return None
        raw = self._client.raw.poll(timeout_s)
        if raw is None:
            return None
        if (error := raw.error()) is not None:
            self._client.log.on_error(error)
            return None
        message = message_of(raw, self._client.cluster_id() or "")
        self._next[message.partition] = message.offset + 1
        return message

    @property
    def ends(self) -> dict[int, int]:
        """The offsets after the last message, by partition, when the reader was made."""
        return dict(self._ends)

    def cluster_id(self) -> str | None:
        """Return the cluster's id, asked anew after a lost connection; None while unreachable."""
        return self._client.cluster_id()

    def at_end(self) -> bool:
        """Return whether everything that was there when the reader was made has been read."""
        return all(self._next.get(part, 0) >= end for part, end in self._ends.items())

    def read_all(self, timeout_s: float = 10.0) -> list[Message]:
        """Return everything up to the end as it was when the reader was made.

        Args:
            timeout_s: longest time in all, s, > 0.

        Raises:
            KafkaTopicError: the end was not reached in time.
        """
        deadline = time.monotonic() + timeout_s
        messages: list[Message] = []
        while not self.at_end():
            if (left_s := deadline - time.monotonic()) <= 0:
                raise KafkaTopicError(
                    f"topic {self._topic} at broker {self._bootstrap}: its end was not reached "
                    f"within {timeout_s:g} s; raise the timeout"
                )
            if (message := self.poll(min(0.2, left_s))) is not None:
                messages.append(message)
        return messages

    def close(self) -> None:
        """Give the connection back."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _assign_later(self, timeout_s: float) -> bool:
        wait_s = min(
            timeout_s, max(0.0, self._asked_at_s + _METADATA_INTERVAL_S - time.monotonic())
        )
        self._client.raw.poll(wait_s)
        if time.monotonic() >= self._asked_at_s + _METADATA_INTERVAL_S:
            self._assign(from_end=False)
        return bool(self._next)

    def _assign(self, *, from_end: bool) -> None:
        self._asked_at_s = time.monotonic()
        try:
            described = self._client.raw.list_topics(self._topic, timeout=self._timeout_s)
            parts = [TopicPartition(self._topic, part) for part in
                     described.topics[self._topic].partitions]  # fmt: skip
            for part in parts:
                low, high = self._client.raw.get_watermark_offsets(part, timeout=self._timeout_s)
                self._ends[part.partition] = high
                start = self._starts.get(part.partition, high if from_end else low)
                inside = low <= start <= high
                self._next[part.partition] = start if inside else low
                begins_low = not inside or (start == low and not from_end)
                part.offset = OFFSET_BEGINNING if begins_low else start
        except KafkaException as error:
            raise KafkaTopicError(
                f"topic {self._topic} at broker {self._bootstrap}: {describe(error.args[0])}; "
                "check that the broker runs and the topic's permissions"
            ) from error
        if parts:
            self._client.raw.assign(parts)
