"""Owns the delivery of what the ledger owes: an entry is sent only when the broker says so.

Entries go out in the order they were written, and none before it is lasting: a sequence number
that was published is never given again. After a failed delivery nothing more is handed over until
everything in flight has an answer; then what the broker has after all is looked for (`recall`), and
sending begins again at the oldest unsent entry: a job's events keep their order and none is
published twice.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from kafka_utils.errors import KafkaDeliveryError, KafkaQueueFullError
from mediator.events import ENTRY_HEADER
from mediator.ledger import Ledger

IN_FLIGHT_LIMIT = 1000
RETRY_AFTER_S = 1.0
COMPLAIN_EVERY_S = 15.0
_log = logging.getLogger("mediator")


class Sender(Protocol):
    """The part of `kafka_utils.producer.Producer` the outbox needs."""

    def enqueue(
        self,
        topic: str,
        key: str | bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]] | None = None,
        on_delivery: Callable[[str | None], None] | None = None,
    ) -> None:
        """Queue one message; `on_delivery` later gets None (confirmed) or the reason."""

    def poll(self, timeout_s: float = 0.0) -> int:
        """Serve callbacks."""
        ...

    def positions(self) -> dict[tuple[str, int], int]:
        """Give the offset after the last confirmed message, by topic and partition."""
        ...


class Outbox:
    """Sends what the ledger owes through one producer.

    Args:
        ledger: open for writing.
        sender: a producer with delivery confirmation.
        cluster_id: the cluster it sends to.
        settle: marks as sent what the broker has although it was not confirmed.
    """

    def __init__(
        self,
        ledger: Ledger,
        sender: Sender,
        cluster_id: str = "",
        settle: Callable[[], object] = lambda: None,
    ) -> None:
        self._ledger = ledger
        self._sender = sender
        self._cluster_id = cluster_id
        self._settle = settle
        self._in_flight: set[int] = set()
        self._confirmed: list[int] = []
        self._handed_over = 0
        self._failure: str | None = None
        self._retry_at = 0.0
        self._complain_at = 0.0

    def pump(self, now: float, wait_s: float = 0.0) -> bool:
        """Hand entries over, collect confirmations, and note them.

        Args:
            now: monotonic seconds.
            wait_s: longest wait for confirmations.

        Returns:
            True when nothing is owed any more.
        """
        self._hand_over(now)
        self._sender.poll(wait_s if self._in_flight else 0.0)
        if self._confirmed:
            # after a failure an older entry may lie before the newest position
            sure = {} if self._failure else self._sender.positions()
            self._ledger.mark_sent(self._confirmed, self._cluster_id, sure)
            self._confirmed = []
        if self._failure is not None and not self._in_flight:
            self._begin_again(now)
        return not self._in_flight and not self._ledger.unsent(0, 1)

    def _hand_over(self, now: float) -> None:
        room = IN_FLIGHT_LIMIT - len(self._in_flight)
        if self._failure is not None or now < self._retry_at or room <= 0:
            return
        entries = self._ledger.unsent(self._handed_over, room)
        if entries:
            self._ledger.make_lasting()
        for entry in entries:
            mark = f"{self._ledger.mediator}/{entry.entry_id}"
            headers = [(n, v.encode()) for n, v in (*entry.headers, (ENTRY_HEADER, mark))]
            try:
                self._sender.enqueue(
                    entry.topic, entry.key, entry.payload, headers, self._receipt(entry.entry_id)
                )
            except KafkaQueueFullError:
                return
            except KafkaDeliveryError as error:
                # it can never be sent; keeping it would hold back everything after it
                _log.error("outbox entry %d given up: %s", entry.entry_id, error)
                self._confirmed.append(entry.entry_id)
            else:
                self._in_flight.add(entry.entry_id)
            self._handed_over = entry.entry_id

    def _receipt(self, entry_id: int) -> Callable[[str | None], None]:
        def on_delivery(reason: str | None) -> None:
            self._in_flight.discard(entry_id)
            if reason is None:
                self._confirmed.append(entry_id)
            else:
                self._failure = reason

        return on_delivery

    def _begin_again(self, now: float) -> None:
        if now >= self._complain_at:
            _log.warning("events not delivered (%s); they are kept and sent again", self._failure)
            self._complain_at = now + COMPLAIN_EVERY_S
        self._settle()
        self._failure = None
        self._handed_over = 0
        self._retry_at = now + RETRY_AFTER_S
