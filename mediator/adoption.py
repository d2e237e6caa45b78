"""Owns the jobs of others that this mediator answers for: their message lies in its partitions.

One whose mediator has gone is taken over, under the next epoch. One that builds on a checkpoint
which cannot be read here is left to the mediator that has it, as a message on the status topic
(`offers`); that one takes it like a message of its own. Where that one has gone too, the job waits
for it to come back, which is said once, and a request to cancel it is answered here.
"""

import dataclasses
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from configs import JobRefused, Roots
from configs.control import ControlRequest
from configs.parse import parse_message
from mediator.inheritance import inherit_checkpoints
from mediator.ledger import Ledger
from mediator.offers import AS_READ, Offer, message_from_spec, new_job, source_of, unpack
from mediator.peers import Known, SharedMemory
from mediator.placement import Placement
from mediator.records import Watch
from mediator.states import JobState
from mediator.text import one_line

LOOK_AGAIN_S = 3.0
LOOK_FOR_S = 0.2
_log = logging.getLogger("mediator")


@dataclass
class _Asked:
    """A mediator that a job was left to: which, for which epoch, and when."""

    mediator: str
    epoch: int
    at: float


class Adoption:
    """Takes jobs over, and leaves jobs to others.

    Args:
        ledger: open for writing.
        memory: what the status topic says.
        placement: where a job can run.
        roots: the folders jobs may touch.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        memory: SharedMemory,
        placement: Placement,
        roots: Roots,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._memory = memory
        self._placement = placement
        self._roots = roots
        self._clock = clock
        self._asked: dict[str, _Asked] = {}
        self._said: dict[str, str] = {}
        self._next_look: dict[str, float] = {}

    def forget_asking(self) -> None:
        """Ask again: the broker may have lost what was asked."""
        self._asked.clear()

    def look_after(self, lease_s: float) -> bool:
        """Do for every watched job what is due, for a short time.

        Args:
            lease_s: silence after which a mediator is gone, s.

        Returns:
            False when time was up first; the others must be heard again before it goes on, or they
            would seem silent for as long as this takes.
        """
        watches = self._ledger.watches()
        for memories in (self._asked, self._said, self._next_look):
            for job_id in memories.keys() - {watch.job.job_id for watch in watches}:
                del memories[job_id]
        until = self._clock() + LOOK_FOR_S
        for watch in watches:
            known = self._memory.known(watch.job.job_id)
            if known is not None and _is_answered(watch, known):
                self._ledger.unwatch(watch.job.job_id)
            elif self._is_orphan(known, lease_s) and self._is_due(watch):
                self.adopt(watch, known, lease_s)
            if self._clock() > until:
                return False
        return True

    def adopt(self, watch: Watch, known: Known | None, lease_s: float) -> bool:
        """Find a place for a job that is nobody's.

        Args:
            watch: the job.
            known: what the status topic says of it.
            lease_s: silence after which a mediator is gone, s.

        Returns:
            True when it is this mediator's own now.
        """
        job_id = watch.job.job_id
        job = parse_message(watch.job.spec)
        if isinstance(job, ControlRequest):
            return False
        anew_epoch = 1 if known is None else known.anew_epoch
        requests = self._ledger.open_controls(job_id)
        to_cancel = any(control.cancels(anew_epoch) for control in requests)
        if to_cancel and known is not None:
            return self._take(watch, known, None)
        try:
            place = self._placement.find(job)
        except JobRefused as refusal:
            self._wait(watch, known, f"it cannot run here: {refusal.reason}", to_cancel=to_cancel)
        else:
            if place.mediator is None:
                return self._take(watch, known, place.waits_for)
            if self._is_asked_in_vain(job_id, place.mediator, lease_s):
                reason = f"{place.reason} (or cancel the job)"
                return self._wait(watch, known, reason, to_cancel=to_cancel)
            self._leave(watch, known, place.mediator)
        return False

    def keep(self, offer: Offer) -> None:
        """Watch another mediator's job whose message cannot be read from the jobs topic again."""
        job_id, known = offer.job_id, self._memory.known(offer.job_id)
        done = known is not None and known.ended and known.epoch >= offer.epoch
        mine = known is not None and known.mediator == self._memory.me
        if done or mine or self._ledger.state_of(job_id) not in (None, JobState.REJECTED):
            return
        try:
            asked = parse_message(offer.message.value or b"")
        except JobRefused as refusal:
            _log.warning("job %s of another mediator could not be run here: %s",
                         job_id, one_line(refusal.reason))  # fmt: skip
            return
        if not isinstance(asked, ControlRequest):
            self._ledger.watch(source_of(offer.message), new_job(asked), seen=True)

    # --- whose it is ------------------------------------------------------------------------

    def _is_orphan(self, known: Known | None, lease_s: float) -> bool:
        """Tell whether nobody works on a watched job, or only one that gave it up for another."""
        if known is None or known.state is JobState.REJECTED:
            return True
        return known.mediator == self._memory.me or self._memory.is_gone(known.mediator, lease_s)

    def _is_due(self, watch: Watch) -> bool:
        now, job_id = self._clock(), watch.job.job_id
        if now < self._next_look.get(job_id, 0.0):
            return False
        self._next_look[job_id] = now + LOOK_AGAIN_S
        return True

    def _is_asked_in_vain(self, job_id: str, mediator: str, lease_s: float) -> bool:
        asked = self._asked.get(job_id)
        if self._memory.has_left(mediator):
            return True
        if asked is None or asked.mediator != mediator:
            return False
        return self._memory.is_silent_since(mediator, asked.at, lease_s)

    # --- what is done -----------------------------------------------------------------------

    def _take(self, watch: Watch, known: Known | None, waits_for: str | None) -> bool:
        job_id = watch.job.job_id
        if known is not None and (their_logs := self._memory.log_root_of(known.mediator)):
            inherit_checkpoints(job_id, Path(their_logs), self._roots)
        self._ledger.accept(
            watch.source,
            dataclasses.replace(watch.job, waits_for=waits_for),
            epoch=1 if known is None else known.epoch + 1,
            attempt=0 if known is None else known.attempt,
            anew_epoch=1 if known is None else known.anew_epoch,
            seen=True,
        )
        if known is None:
            _log.info("job %s: queued; what it builds on is here now", job_id)
        else:
            _log.warning("job %s: taken over from mediator %s, which has gone (attempts: %d)",
                         job_id, known.mediator, known.attempt)  # fmt: skip
        return True

    def _leave(self, watch: Watch, known: Known | None, mediator: str) -> None:
        job_id = watch.job.job_id
        epoch = AS_READ if known is None else known.epoch + 1
        asked = self._asked.get(job_id)
        if asked is not None and (asked.mediator, asked.epoch) == (mediator, epoch):
            return
        message = (
            message_from_spec(watch.source, watch.job.spec)
            if watch.message is None
            else unpack(watch.message)
        )
        attempt = 0 if known is None else known.attempt
        self._ledger.leave_to(Offer(mediator, job_id, epoch, attempt, message))
        self._asked[job_id] = _Asked(mediator, epoch, self._clock())
        _log.info("job %s: left to %s, which has the checkpoint it builds on",
                  job_id, self._memory.describe(mediator))  # fmt: skip

    def _wait(self, watch: Watch, known: Known | None, reason: str, *, to_cancel: bool) -> bool:
        """Say once why a job waits; a request to cancel it is answered here."""
        job_id = watch.job.job_id
        if to_cancel:
            return self._take(watch, known, None)
        text = one_line(reason)
        if self._said.get(job_id) != text:
            self._said[job_id] = text
            state = JobState.QUEUED if known is None else known.state
            self._ledger.tell_waiting(watch.job, state, 1 if known is None else known.epoch, text)
            _log.warning("job %s: its mediator has gone; it waits: %s", job_id, text)
        return False


def _is_answered(watch: Watch, known: Known) -> bool:
    """Tell whether a watched job is done with: it has ended, or its message was refused."""
    if known.state is JobState.REJECTED:
        return known.source == str(watch.source)
    return known.ended or known.spec_sha256 != watch.job.spec_sha256
