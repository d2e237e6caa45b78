"""Owns what is logged about the connection: one line at the start of an outage, then rarely.

librdkafka reports every failed attempt of its endless reconnecting; a log that repeats each of
them is unreadable, so an outage is logged when it starts and once every `REPEAT_S` while it lasts.
"""

import logging
import time
from collections.abc import Mapping

from confluent_kafka import KafkaError

REPEAT_S = 30.0

_logger = logging.getLogger("kafka_utils")


def describe(error: KafkaError) -> str:
    """Return one line of an error: its name, and librdkafka's text without instance prefixes."""
    text = " ".join(error.str().split())
    _, found, detail = text.partition("]: ")
    return f"{error.name()}: {detail if found else text}"


def describe_refusal(error: KafkaError, properties: Mapping[str, str]) -> str:
    """Return why librdkafka refuses a configuration, without the values of the user's properties.

    It quotes a value it does not know, which may be a secret on the wrong line.
    """
    text = describe(error)
    for value in sorted(properties.values(), key=len, reverse=True):
        if len(value) > 1:
            text = text.replace(value, "(not shown)")
    return text


class ConnectionLog:
    """Receives a client's errors, remembers the last one and logs outages briefly.

    Attributes:
        last_error: one line about the latest error, or None.
        fatal: the client can no longer be used and must be rebuilt.
        stale: the connection was lost since `take_stale`, so the cluster may be another one now.
    """

    def __init__(self, role: str, bootstrap: str) -> None:
        self._role = role
        self._bootstrap = bootstrap
        self._logged_at_s: float | None = None
        self.last_error: str | None = None
        self.fatal = False
        self.stale = False

    def on_error(self, error: KafkaError) -> None:
        """Take an error from librdkafka (its `error_cb`)."""
        self.stale = True
        if error.fatal():
            self.fatal = True
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            # Says less than the failed connection that comes before or after it.
            self.last_error = self.last_error or describe(error)
            return
        self.last_error = describe(error)
        now_s = time.monotonic()
        if self._logged_at_s is None or now_s - self._logged_at_s >= REPEAT_S:
            self._logged_at_s = now_s
            _logger.warning(
                "Kafka %s: broker %s: %s (retrying)", self._role, self._bootstrap, self.last_error
            )

    def on_contact(self) -> None:
        """Note that the broker answered, which ends an outage."""
        if self._logged_at_s is not None:
            _logger.info("Kafka %s: broker %s answers again", self._role, self._bootstrap)
        self._logged_at_s = None
        self.last_error = None

    def take_stale(self) -> bool:
        """Return whether the connection was lost since the last call, and forget it."""
        stale, self.stale = self.stale, False
        return stale
