"""Owns the mediator's loop: messages in, runners followed, events out, and a clean end.

One thread does everything in small steps, so nothing needs a lock. A ledger that cannot be written
for a while (disk full) stops nothing: the message in hand is kept and every step is tried again.
"""

import logging
import time
from collections.abc import Callable

from kafka_utils.consumer import Message
from kafka_utils.errors import BrokerUnreachableError, KafkaUtilsError
from mediator.broker_link import BrokerLink, Line
from mediator.deferral import HOLD_S, MOST_HELD, Deferral
from mediator.errors import LedgerWriteError
from mediator.intake import Intake, Outcome
from mediator.ledger import Ledger
from mediator.sharing import Sharing
from mediator.stopping import StopRequest
from mediator.supervisor import Supervisor

IDLE_POLL_S, LIVELY_POLL_S = 0.05, 0.001
LIVELY_S = 0.1
BURST_S = 0.1
RETRY_WRITE_S = 1.0
STORE_EVERY_S = 0.5
BURST = 200
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
        sharing: keeps the peace with other mediators.
        stop: the request to stop.
        grace_s: how long runners may take to save their work at the end, s.
        flush_s: how long the last events may take to be delivered, s.
        detach: leave the runners running at the end.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        intake: Intake,
        supervisor: Supervisor,
        link: BrokerLink,
        sharing: Sharing,
        stop: StopRequest,
        *,
        grace_s: float,
        flush_s: float,
        detach: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._intake = intake
        self._supervisor = supervisor
        self._link = link
        self._sharing = sharing
        self._detach = detach
        self._stop = stop
        self._grace_s = grace_s
        self._flush_s = flush_s
        self._clock = clock
        self._in_hand: list[Message] = []
        self._deferral = Deferral()
        self._furthest: dict[int, Message] = {}
        self._stored: dict[int, int] = {}
        self._next_store = 0.0
        self._lively_until = 0.0
        self._line: Line | None = None
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
            self._sharing.without_line()
            self._stop.wait(IDLE_POLL_S)
            return
        if line is not self._line:
            self._line = line
            self._deferral, self._in_hand = Deferral(), []
            self._furthest, self._stored = {}, {}
        try:
            self._exchange(line)
        except KafkaUtilsError as error:
            self._link.drop(str(error))

    def _exchange(self, line: Line) -> None:
        ready = self._sharing.pump(line)
        if ready and self._sharing.may_take:
            self._take_messages(line, self._idle_s())
        else:
            self._stop.wait(IDLE_POLL_S)
        if ready and line.outbox.pump(self._clock()):
            self._sharing.all_told(self._furthest)
        elif ready:
            self._lively_until = self._clock() + LIVELY_S

    def _idle_s(self) -> float:
        """Give how long to wait for a message: hardly, while a claim is on its way and back."""
        if self._supervisor.has_new_work:
            return 0.0
        return LIVELY_POLL_S if self._clock() < self._lively_until else IDLE_POLL_S

    def _take_messages(self, line: Line, wait_s: float) -> None:
        until = self._clock() + BURST_S
        while self._clock() < until and not self._stop.asked:
            if not self._in_hand:
                self._in_hand = self._next_burst(line, wait_s)
            if not self._in_hand:
                self._decide_held()
                break
            self._decide(self._in_hand, may_wait=len(self._deferral) < MOST_HELD)
            self._in_hand = []
            wait_s = 0.0
        if self._clock() >= self._next_store:
            self._store(line)

    def _next_burst(self, line: Line, wait_s: float) -> list[Message]:
        burst: list[Message] = []
        while len(burst) < BURST:
            message = line.consumer.poll(0.0 if burst else wait_s)
            if message is None:
                break
            if message.cluster_id != line.cluster_id:
                raise BrokerUnreachableError("the broker began anew, with an empty log")
            burst.append(message)
        return burst

    def _decide(self, messages: list[Message], *, may_wait: bool) -> None:
        """Decide some messages in one transaction: one wait for the disk for all of them."""
        with self._ledger.transaction():
            outcomes = [(m, self._intake.take(m, may_wait=may_wait)) for m in messages]
        for message, outcome in outcomes:
            if outcome is Outcome.DEFERRED:
                self._deferral.hold(message, self._clock())
                continue
            storable = self._deferral.decided(message)
            if storable is not None:
                self._furthest[storable.partition] = storable
            if outcome is Outcome.ELSEWHERE:
                self._sharing.look_soon()
            if outcome is Outcome.CONTROL:
                self._sharing.requests.apply_message(message)

    def _decide_held(self) -> None:
        """Try held messages again; called when no other message waits to be read."""
        for message, since in self._deferral.held():
            self._decide([message], may_wait=self._clock() - since < HOLD_S)

    def _store(self, line: Line) -> None:
        """Store offsets, nowhere beyond the first message whose job has not ended."""
        self._next_store = self._clock() + STORE_EVERY_S
        if not self._furthest:
            return
        open_at = self._ledger.open_offsets(line.cluster_id, line.settings.jobs_topic)
        for partition, message in list(self._furthest.items()):
            offset = min(message.offset + 1, open_at.get(partition, message.offset + 1))
            if self._stored.get(partition) == offset:
                continue
            if line.consumer.store_offset(line.cluster_id, message.topic, partition, offset):
                self._stored[partition] = offset
            else:
                del self._furthest[partition]

    def _retried(self, step: Callable[[], object]) -> bool:
        """Take a step; tell whether the ledger could be written, else wait a little."""
        try:
            step()
        except LedgerWriteError as error:
            if self._clock() >= self._next_complaint:
                _log.error("%s; tried again every %g s", error, RETRY_WRITE_S)
                self._next_complaint = self._clock() + COMPLAIN_EVERY_S
            self._stop.wait(RETRY_WRITE_S)
            return False
        return True

    # --- the end ---------------------------------------------------------------------------

    def _end(self) -> None:
        _log.info("stopping: no more messages are taken; %d jobs running",
                  len(self._supervisor.running))  # fmt: skip
        line = self._link.line_in_use
        if self._detach:
            self._supervisor.detach()
        else:
            self._supervisor.stop(self._grace_s)
        self._await_runners(line)
        if line is not None:
            self._leave(line)
        self._link.close()
        _log.info("stopped")

    def _leave(self, line: Line) -> None:
        """Tell what is left to tell, then give the partitions to whoever remains."""
        self._flush(line)
        if not self._detach:
            self._sharing.say_goodbye(line)
            line.producer.flush(1.0)
        try:
            self._store(line)
        except KafkaUtilsError as error:
            _log.warning("offsets not stored: %s; the messages are recognised next time", error)

    def _await_runners(self, line: Line | None) -> None:
        give_up_at = self._clock() + self._grace_s + GIVE_UP_AFTER_S
        hurried = False
        while not self._detach and self._supervisor.running and self._clock() < give_up_at:
            if self._stop.urgent and not hurried:
                hurried = True
                _log.warning("asked again: runners are killed now")
                self._supervisor.stop(0.0)
            self._retried(self._supervisor.tick)
            if line is not None:
                self._retried(lambda: self._tell(line))
            self._stop.wait(IDLE_POLL_S)
        if self._supervisor.running and not self._detach:
            _log.error("left running, taken up again at the next start: %s",
                       ", ".join(self._supervisor.running))  # fmt: skip

    def _tell(self, line: Line, wait_s: float = 0.0) -> bool:
        """Send what is owed, unless another mediator may have more to say; tell if all is sent."""
        try:
            ready = self._sharing.pump(line) and line.outbox.pump(self._clock(), wait_s)
            return ready and not self._sharing.is_retelling
        except KafkaUtilsError as error:
            _log.debug("at the end: %s", error)
            return False

    def _flush(self, line: Line) -> None:
        until = self._clock() + self._flush_s
        delivered: list[bool] = []
        while self._clock() < until and not any(delivered):
            self._retried(lambda: delivered.append(self._tell(line, IDLE_POLL_S)))
            self._stop.wait(0.0 if any(delivered) else IDLE_POLL_S)
        if not any(delivered):
            _log.warning("some events could not be delivered; they are sent at the next start")
