"""Owns the mediator's loop: messages in, runners followed, events out, and a clean end.

One thread does everything in small steps, so nothing needs a lock. A ledger that cannot be written
for a while (disk full) stops nothing: the message in hand is kept and every step is tried again.
"""

import logging
import time
from collections.abc import Callable

from kafka_utils.consumer import Message
from kafka_utils.errors import KafkaUtilsError
from mediator.broker_link import BrokerLink, Line
from mediator.deferral import HOLD_S, MOST_HELD, Deferral
from mediator.errors import LedgerWriteError
from mediator.intake import Intake, Outcome
from mediator.ledger import Ledger
from mediator.stopping import StopRequest
from mediator.supervisor import Supervisor

IDLE_POLL_S = 0.05
BURST_S = 0.1
RETRY_WRITE_S = 1.0
COMPLAIN_EVERY_S = 10.0
GIVE_UP_AFTER_S = 60.0
_log = logging.getLogger("mediator")


class Service:
    """Runs until asked to stop.

    Args:
        ledger: open for writing.
        intake: takes messages.
        supervisor: runs jobs.
        link: gives the connection.
        stop: the request to stop.
        grace_s: how long runners may take to save their work at the end, s.
        flush_s: how long the last events may take to be delivered, s.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        intake: Intake,
        supervisor: Supervisor,
        link: BrokerLink,
        stop: StopRequest,
        *,
        grace_s: float,
        flush_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._intake = intake
        self._supervisor = supervisor
        self._link = link
        self._stop = stop
        self._grace_s = grace_s
        self._flush_s = flush_s
        self._clock = clock
        self._in_hand: Message | None = None
        self._deferral = Deferral()
        self._deferral_of: Line | None = None
        self._next_complaint = 0.0

    def run(self) -> None:
        """Work until asked to stop, then let the runners save their work and end.

        Raises:
            BrokerUnreachableError: no broker for longer than allowed; the runners were stopped.
            LedgerCorruptError: the ledger was damaged while in use.
        """
        while not self._stop.asked and not self._retried(self._supervisor.recover):
            pass
        try:
            while not self._stop.asked:
                self._retried(self._step)
        except KafkaUtilsError:
            self._end()
            raise
        self._end()

    def _step(self) -> None:
        self._supervisor.tick()
        line = self._link.line()
        if line is None:
            self._stop.wait(IDLE_POLL_S)
            return
        try:
            self._take_messages(line)
        except KafkaUtilsError as error:
            self._in_hand = None  # not stored, so the next connection gives it again
            self._link.drop(str(error))
            return
        line.outbox.pump(self._clock())

    def _take_messages(self, line: Line) -> None:
        if line is not self._deferral_of:
            self._deferral, self._deferral_of = Deferral(), line
        until = self._clock() + BURST_S
        wait_s = IDLE_POLL_S
        while self._clock() < until and not self._stop.asked:
            self._in_hand = self._in_hand or line.consumer.poll(wait_s)
            if self._in_hand is None:
                self._decide_held(line)
                return
            self._decide(line, self._in_hand, may_wait=len(self._deferral) < MOST_HELD)
            self._in_hand = None
            wait_s = 0.0

    def _decide(self, line: Line, message: Message, *, may_wait: bool) -> None:
        outcome = self._intake.take(message, may_wait=may_wait)
        if outcome is Outcome.DEFERRED:
            self._deferral.hold(message, self._clock())
            return
        storable = self._deferral.decided(message)
        if storable is not None:
            line.consumer.store(storable)
        if outcome is Outcome.ACCEPTED:
            self._supervisor.wake()

    def _decide_held(self, line: Line) -> None:
        """Try held messages again; called when no other message waits to be read."""
        for message, since in self._deferral.held():
            self._decide(line, message, may_wait=self._clock() - since < HOLD_S)

    def _retried(self, step: Callable[[], object]) -> bool:
        """Take a step; tell whether the ledger could be written, else wait a little."""
        try:
            step()
        except LedgerWriteError as error:
            if self._clock() >= self._next_complaint:
                _log.error("%s", error)
                self._next_complaint = self._clock() + COMPLAIN_EVERY_S
            self._stop.wait(RETRY_WRITE_S)
            return False
        return True

    # --- the end ---------------------------------------------------------------------------

    def _end(self) -> None:
        _log.info("stopping: no more messages are taken; %d jobs running",
                  len(self._supervisor.running))  # fmt: skip
        self._supervisor.stop(self._grace_s)
        line = self._link.line_in_use
        if line is not None:
            line.consumer.close()
        self._await_runners(line)
        if line is not None:
            self._flush(line)
            line.producer.close(timeout_s=0.0)
        _log.info("stopped")

    def _await_runners(self, line: Line | None) -> None:
        give_up_at = self._clock() + self._grace_s + GIVE_UP_AFTER_S
        hurried = False
        while self._supervisor.running and self._clock() < give_up_at:
            if self._stop.urgent and not hurried:
                hurried = True
                _log.warning("asked again: runners are killed now")
                self._supervisor.stop(0.0)
            self._retried(self._supervisor.tick)
            if line is not None:
                self._retried(lambda: line.outbox.pump(self._clock()))
            self._stop.wait(IDLE_POLL_S)
        if self._supervisor.running:
            _log.error("left running, taken up again at the next start: %s",
                       ", ".join(self._supervisor.running))  # fmt: skip

    def _flush(self, line: Line) -> None:
        until = self._clock() + self._flush_s
        delivered: list[bool] = []
        while self._clock() < until and not any(delivered):
            self._retried(lambda: delivered.append(line.outbox.pump(self._clock(), IDLE_POLL_S)))
            self._stop.wait(0.0 if any(delivered) else IDLE_POLL_S)
        if not any(delivered):
            _log.warning("some events could not be delivered; they are sent at the next start")
