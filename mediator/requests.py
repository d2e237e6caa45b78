"""Owns requests to cancel or retry a job: done where the job is, answered for by who read them.

A request lies in the jobs topic once; who reads it there tells every mediator over the status topic
(`ledger_sharing`), and the one that has the job does it. A mediator that hears a request says a
word in return, so who read it knows that the one which had the job is there. Where that one stays
silent for a lease, a `waiting` event says so; the request is done when it is back.
"""

import logging
import time
from collections.abc import Callable

from configs.control import ControlRequest
from configs.parse import parse_message
from kafka_utils.message import Message
from mediator.ledger import Ledger
from mediator.peers import Known, SharedMemory
from mediator.records import Control, NewJob
from mediator.states import ENDED, JobState
from mediator.supervisor import Supervisor

_log = logging.getLogger("mediator")


class Requests:
    """Does what was asked about the jobs of one ledger.

    Args:
        ledger: open for writing.
        memory: what the status topic says.
        supervisor: runs jobs.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        memory: SharedMemory,
        supervisor: Supervisor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._memory = memory
        self._supervisor = supervisor
        self._clock = clock
        self._asked_at: dict[str, float] = {}
        self._told: set[str] = set()

    @property
    def awaits_word(self) -> bool:
        """Whether another mediator is to say a word soon."""
        return bool(self._asked_at.keys() - self._told)

    def ask_again(self) -> None:
        """Ask about the jobs of others again: whether the answer was heard is not written down."""
        open_controls = self._ledger.open_controls()
        unanswered = [c.source for c in open_controls if self._answers_for(c)]
        if unanswered:
            self._ledger.tell_controls_again()
        self._asked_at = dict.fromkeys(unanswered, self._clock())
        self._told = self._ledger.told_controls()

    def apply_message(self, message: Message) -> None:
        """Do what a message of the jobs topic asked for, without waiting to read it back."""
        asked = parse_message(message.value or b"")
        if not isinstance(asked, ControlRequest):
            return
        for control in self._ledger.open_controls(asked.job_id):
            if self._answers_for(control):
                self._asked_at.setdefault(control.source, self._clock())
        self.apply(asked.job_id)

    def apply(self, job_id: str) -> None:
        """Do what was asked about a job that is here; one to come is cancelled when it comes."""
        for control in self._ledger.open_controls(job_id):
            job = self._ledger.job(job_id)
            if job is not None:
                with self._ledger.transaction():
                    self._ledger.close_control(control.source)
                    self._apply(control, job.state)
            elif not self._ledger.has_read(control.source) and (
                control.op == "retry" or self._is_over(control)
            ):
                self._ledger.close_control(control.source)
        self._supervisor.wake()

    def look_after(self, lease_s: float) -> None:
        """Answer for requests about jobs of mediators that are not heard.

        Args:
            lease_s: silence after which a mediator is gone, s.
        """
        if not self._asked_at:
            return
        for control in self._ledger.open_controls():
            if (asked_at := self._asked_at.get(control.source)) is not None:
                self._await_word(control, asked_at, lease_s)

    def _await_word(self, control: Control, asked_at: float, lease_s: float) -> None:
        """Close a request once the other mediator is heard; until then say what it waits for."""
        known = self._memory.known(control.job_id)
        if known is None or self._memory.is_heard_since(known.mediator, asked_at):
            del self._asked_at[control.source]
            if control.op == "retry" or self._is_over(control):
                self._ledger.close_control(control.source)
            return
        silent = self._memory.is_silent_since(known.mediator, asked_at, lease_s)
        # a job that has not ended is taken over, and then the request is done here
        if silent and known.ended and control.source not in self._told:
            self._tell_waiting(control, known, lease_s)

    def _tell_waiting(self, control: Control, known: Known, lease_s: float) -> None:
        where = self._memory.describe(known.mediator)
        reason = (
            f"request to {control.op}: the job ended as {known.state} at {where}, which has not "
            f"been heard for {lease_s:g} s; it is done when that mediator is back, or publish the "
            "job under another id"
        )
        job = NewJob(control.job_id, known.op, "{}", known.spec_sha256)
        with self._ledger.transaction():
            self._ledger.tell_waiting(job, known.state, known.epoch, reason)
            self._ledger.note_told(control.source)
        self._told.add(control.source)
        _log.warning("job %s: %s", control.job_id, reason)

    def _answers_for(self, control: Control) -> bool:
        """Tell whether this mediator read a request that another one is to answer."""
        known = self._memory.known(control.job_id)
        elsewhere = known is not None and known.mediator != self._memory.me
        asks = elsewhere and (control.op == "retry" or self._is_over(control))
        return asks and self._ledger.has_read(control.source)

    def _is_over(self, control: Control) -> bool:
        """Tell whether the job of a request has ended at another mediator."""
        known = self._memory.known(control.job_id)
        return known is not None and known.mediator != self._memory.me and known.ended

    def _apply(self, control: Control, state: JobState) -> None:
        job_id = control.job_id
        if control.op == "cancel" and state not in ENDED:
            self._ledger.ask_cancel(job_id, f"cancelled by request {control.source}")
        elif control.op == "retry" and state in ENDED - {JobState.SUCCEEDED, JobState.REJECTED}:
            self._ledger.retry(job_id)
            _log.info("job %s: queued anew on request", job_id)
        else:
            reason = f"request to {control.op}: the job is {state}; nothing is changed"
            self._ledger.answer_control(job_id, reason)
            _log.info("job %s: %s", job_id, reason)
