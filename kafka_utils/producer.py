"""Owns sending: every message is either confirmed by the broker or reported with a reason.

`send` waits for one confirmation; `enqueue`, `poll` and `flush` serve an outbox that marks its
rows on the callback. Delivery is at least once: after a lost acknowledgement a message may be
there twice, so consumers tell messages apart by what is in them (job id, sequence number).
"""

import logging
import time
from collections.abc import Callable, Sequence

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Message as RawMessage
from confluent_kafka import Producer as RawProducer

from kafka_utils.client_log import ConnectionLog, describe, describe_refusal
from kafka_utils.errors import KafkaDeliveryError, KafkaQueueFullError
from kafka_utils.settings import MAX_MESSAGE_BYTES, KafkaSettings, check_topic

Headers = Sequence[tuple[str, bytes | None]]
OnDelivery = Callable[[str | None], None]
_Position = tuple[int, int]

_POLL_S = 0.1
_logger = logging.getLogger("kafka_utils")


class Producer:
    """A producer with delivery confirmation.

    Args:
        settings: where the broker is.
        delivery_timeout_s: a message not confirmed after this long is reported failed, s, > 0.
    """

    def __init__(self, settings: KafkaSettings, delivery_timeout_s: float = 30.0) -> None:
        self._settings = settings
        self._delivery_timeout_s = delivery_timeout_s
        self._log = ConnectionLog("producer", settings.bootstrap)
        self._positions: dict[tuple[str, int], int] = {}
        self._client = self._build()

    def _build(self) -> RawProducer:
        config = self._settings.producer_config(self._delivery_timeout_s)
        try:
            return RawProducer({**config, "error_cb": self._log.on_error})
        except KafkaException as error:
            reason = describe_refusal(error.args[0], self._settings.properties)
            raise KafkaDeliveryError(
                f"producer cannot start: {reason}; check the properties file"
            ) from error

    def send(
        self,
        topic: str,
        key: str | bytes | None,
        value: bytes | None,
        headers: Headers | None = None,
        timeout_s: float = 30.0,
    ) -> tuple[int, int] | None:
        """Send one message and return after the broker has confirmed it.

        Args:
            topic: the topic's name.
            key: the message key; a job id, so that a job's messages keep their order.
            value: the message, at most MAX_MESSAGE_BYTES; None is a tombstone.
            headers: name and value pairs, in order; names may repeat.
            timeout_s: longest wait for the confirmation, s, > 0.

        Returns:
            Its partition and offset; None where the broker did not tell them.

        Raises:
            KafkaDeliveryError: not confirmed in time or refused; it may still arrive later when
                `timeout_s` is below the producer's delivery timeout.
        """
        outcome: list[tuple[str | None, _Position | None]] = []
        deadline = time.monotonic() + timeout_s
        self._produce(topic, key, value, headers, lambda *report: outcome.append(report))
        while not outcome and (left_s := deadline - time.monotonic()) > 0:
            self.poll(min(_POLL_S, left_s))
        reason, position = outcome[0] if outcome else (
            f"no confirmation within {timeout_s:g} s", None
        )  # fmt: skip
        if reason is None:
            return position
        if self._log.last_error is not None and self._log.last_error != reason:
            reason = f"{reason} ({self._log.last_error})"
        raise KafkaDeliveryError(
            f"message to topic {topic} at broker {self._settings.bootstrap} not delivered: "
            f"{reason}; check that the broker runs and the address is right"
        )

    def enqueue(
        self,
        topic: str,
        key: str | bytes | None,
        value: bytes | None,
        headers: Headers | None = None,
        on_delivery: OnDelivery | None = None,
    ) -> None:
        """Queue one message; `poll` or `flush` later calls `on_delivery`.

        Args:
            topic: the topic's name.
            key: the message key.
            value: the message, at most MAX_MESSAGE_BYTES; None is a tombstone.
            headers: name and value pairs.
            on_delivery: called with None when the broker confirmed, else with the reason.

        Raises:
            KafkaQueueFullError: the local queue is full; poll and try again.
            KafkaDeliveryError: the message can never be sent (too large).
        """
        report = on_delivery or _log_failure
        self._produce(topic, key, value, headers, lambda reason, _: report(reason))

    def _produce(
        self,
        topic: str,
        key: str | bytes | None,
        value: bytes | None,
        headers: Headers | None,
        report: Callable[[str | None, _Position | None], None],
    ) -> None:
        check_topic(topic)
        if self._log.fatal:
            self._rebuild()

        def on_report(error: KafkaError | None, message: RawMessage) -> None:
            if error is None:
                self._log.on_contact()
                report(None, self._note_position(message))
            else:
                report(describe(error), None)

        try:
            self._client.produce(
                topic, value=value, key=key, headers=list(headers or ()), on_delivery=on_report
            )
        except BufferError as error:
            raise KafkaQueueFullError(
                f"{len(self._client)} messages wait for broker {self._settings.bootstrap}; "
                "poll the producer and try again"
            ) from error
        except KafkaException as error:
            raise KafkaDeliveryError(
                f"message to topic {topic} ({len(value or b'')} bytes, limit {MAX_MESSAGE_BYTES}) "
                f"refused: {describe(error.args[0])}; make it smaller"
            ) from error

    def positions(self) -> dict[tuple[str, int], int]:
        """Return the offset after the last confirmed message, by topic and partition."""
        return dict(self._positions)

    def _note_position(self, message: RawMessage) -> _Position | None:
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        if topic is None or partition is None or offset is None or offset < 0:
            return None
        self._positions[topic, partition] = offset + 1
        return partition, offset

    def poll(self, timeout_s: float = 0.0) -> int:
        """Serve delivery callbacks, waiting up to `timeout_s` for the first; return their number.

        A client that librdkafka declared unusable is replaced; its messages are reported failed.
        """
        served = self._client.poll(timeout_s)
        if self._log.fatal:
            self._rebuild()
        return served

    def flush(self, timeout_s: float) -> int:
        """Wait until every queued message is confirmed or failed; return how many are still open.

        Args:
            timeout_s: longest wait, s, >= 0.
        """
        return self._client.flush(timeout_s)

    def close(self, timeout_s: float = 5.0) -> None:
        """Flush, then report whatever is still open as failed."""
        if self._client.flush(timeout_s) > 0:
            self._purge()

    def _purge(self) -> None:
        self._client.purge(in_queue=True, in_flight=True, blocking=True)
        self._client.flush(1.0)

    def _rebuild(self) -> None:
        _logger.warning("Kafka producer replaced after a fatal error: %s", self._log.last_error)
        self._purge()
        self._log.fatal = False
        self._client = self._build()


def _log_failure(reason: str | None) -> None:
    if reason is not None:
        _logger.error("Kafka message not delivered: %s", reason)
