"""Owns how far this mediator has answered the messages of each partition, as it tells the others.

Whoever gets a partition reads again what lies behind the first unfinished job, refused messages
too. What the mediator before it told of these (`SharedMemory.is_answered`) keeps it from writing a
second dead letter. A mediator says so with its signs of life, so of what it refused within the last
quarter of a lease before it vanished there may be two letters, both with one source.
"""

import time
from collections.abc import Mapping

from kafka_utils.message import Message
from mediator.broker_link import Line
from mediator.ledger import Ledger


class Answered:
    """Keeps, by partition, the offset below which all is answered and the time that was noted.

    Args:
        ledger: open for writing.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._cluster_id = ""
        self._marks: dict[int, tuple[int, int]] = {}

    def record(self, line: Line, furthest: Mapping[int, Message]) -> dict[str, list[int]]:
        """Give the marks as a sign of life holds them, brought up to date where nothing is owed.

        Args:
            line: the connection.
            furthest: by partition, the message up to which all are decided.
        """
        if line.cluster_id != self._cluster_id:
            self._cluster_id, self._marks = line.cluster_id, {}
        if not self._ledger.backlog(1):
            self._advance(line, furthest)
        return {str(partition): list(mark) for partition, mark in self._marks.items()}

    def _advance(self, line: Line, furthest: Mapping[int, Message]) -> None:
        undecided = self._ledger.undecided_offsets(line.cluster_id, line.settings.jobs_topic)
        now_ms = int(time.time() * 1000)
        for partition, message in furthest.items():
            if message.cluster_id != line.cluster_id:
                continue
            offset = min(message.offset + 1, undecided.get(partition, message.offset + 1))
            if self._marks.get(partition, (-1, 0))[0] != offset:
                self._marks[partition] = (offset, now_ms)
