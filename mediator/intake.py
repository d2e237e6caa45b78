"""Owns the way of a message into the ledger: accepted, refused, or known already.

Whatever a message holds, it has exactly one outcome, written in one transaction; only then may its
offset be stored. The same message delivered again changes nothing.
"""

import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Callable
from enum import StrEnum

from configs import OPS, Job, JobRefused, Roots
from configs.common import JOB_ID_PATTERN
from configs.control import ControlRequest
from configs.parse import parse_message, spec_hash
from kafka_utils.consumer import Message
from mediator.errors import MediatorError
from mediator.events import DeadLetter, FieldProblem, taken_by_other_spec
from mediator.job_folder import clash_of
from mediator.ledger import Ledger
from mediator.offers import AS_READ, MESSAGE_LIMIT_BYTES, Offer, new_job, pack, source_of
from mediator.peers import Known, SharedMemory
from mediator.placement import Place, Placement
from mediator.records import Control, Source
from mediator.requirements import JobUnknown
from mediator.states import JobState
from mediator.text import one_line

CONTROL_OPS = frozenset({"cancel", "retry"})
KNOWN_OPS = CONTROL_OPS | set(OPS)
_log = logging.getLogger("mediator")


class Outcome(StrEnum):
    """What became of a message."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    SEEN_BEFORE = "seen before"
    DEFERRED = "deferred"
    ELSEWHERE = "elsewhere"
    CONTROL = "control"
    ANSWERED = "answered elsewhere"


class Intake:
    """Takes messages into the ledger.

    Args:
        ledger: open for writing.
        roots: the folders jobs may touch.
        memory: what other mediators do; None when there is no other.
    """

    def __init__(self, ledger: Ledger, roots: Roots, memory: SharedMemory | None = None) -> None:
        self._ledger = ledger
        self.roots = roots
        self._memory = memory
        self.placement = Placement(ledger, roots, memory)

    def take(self, message: Message, *, may_wait: bool = False) -> Outcome:
        """Deal with one message, durably.

        Args:
            message: as it came.
            may_wait: if it names a job that nobody knows, decide later: the message of that job
                may still come, from another partition.

        Returns:
            What became of it; after DEFERRED nothing is written and it must be given again.

        Raises:
            LedgerWriteError: nothing was written; the message must be given again.
        """
        source = source_of(message)
        if self._ledger.has_seen(source):
            return Outcome.SEEN_BEFORE
        try:
            asked = parse_message(message.value or b"")
            if isinstance(asked, ControlRequest):
                return self._take_control(source, asked)
            return self._take_job(source, message, _named(asked, source))
        except JobRefused as refusal:
            if may_wait and isinstance(refusal, JobUnknown):
                return Outcome.DEFERRED
            problems = [FieldProblem(e.field, e.value, e.message) for e in refusal.errors]
            return self._refuse(source, message, refusal.reason, problems)
        except MediatorError:
            raise
        # a message is outside input: whatever it provokes, it is answered and the mediator goes on
        except Exception as error:  # noqa: BLE001
            _log.exception("message %s: unforeseen error", source)
            return self._refuse(source, message, f"unforeseen {type(error).__name__}: {error}", [])

    def take_offer(self, offer: Offer) -> None:
        """Take a message that another mediator leaves to this one; what it builds on is here.

        Raises:
            LedgerWriteError: nothing was written; the offer must be given again.
        """
        if offer.epoch == AS_READ:
            self.take(offer.message)
            return
        known, here = self._known(offer.job_id), self._ledger.state_of(offer.job_id)
        answered = known is not None and known.epoch >= offer.epoch
        if answered or here not in (None, JobState.REJECTED):
            return
        asked = parse_message(offer.message.value or b"")
        if isinstance(asked, ControlRequest):
            return
        source = source_of(offer.message)
        new = new_job(asked)
        try:
            place = self.placement.find(asked)
        except JobRefused as refusal:
            reason = f"left to this mediator, but it cannot run here: {one_line(refusal.reason)}"
            self._ledger.tell_waiting(new, JobState.QUEUED, offer.epoch, reason)
            _log.warning("job %s: %s", offer.job_id, reason)
            return
        if place.mediator is None:
            new = dataclasses.replace(new, waits_for=place.waits_for)
            self._ledger.accept(source, new, epoch=offer.epoch, attempt=offer.attempt,
                                anew_epoch=1 if known is None else known.anew_epoch,
                                seen=self._ledger.has_seen(source))  # fmt: skip
            _log.warning("job %s: taken over, what it builds on is here (attempts so far: %d)",
                         offer.job_id, offer.attempt)  # fmt: skip

    def _say(self, log: Callable[..., None], text: str, *values: object) -> None:
        """Log what became of a message once that is written down."""
        self._ledger.once_kept(lambda: log(text, *values))

    def _take_control(self, source: Source, asked: ControlRequest) -> Outcome:
        if not self._ledger.knows_control(str(source)):
            self._check_control(asked)
        control = Control(asked.op, asked.job_id, str(source), self._epoch_of(asked.job_id))
        self._ledger.note_control(control, source.topic, source)
        self._say(_log.info, "job %s: request to %s (%s)", asked.job_id, asked.op, source)
        return Outcome.CONTROL

    def _check_control(self, asked: ControlRequest) -> None:
        """Refuse a request that nobody would ever answer."""
        if self._ledger.state_of(asked.job_id) is not None:
            return
        known = self._known(asked.job_id)
        if known is None:
            # a request to cancel waits for its job
            if asked.op == "retry":
                raise JobUnknown.because(
                    "retry: no mediator knows such a job; publish the job itself",
                    "job_id",
                    asked.job_id,
                )
        elif known.ended and self._memory is not None and self._memory.has_left(known.mediator):
            where = self._memory.describe(known.mediator)
            raise JobRefused.because(
                f"{asked.op}: the job ended as {known.state} at {where}, which has gone; start "
                "that mediator again and repeat the request, or publish the job under another id",
                "job_id",
                asked.job_id,
            )

    def _elsewhere(self, job_id: str | None) -> Known | None:
        """Give another mediator's accepted job of this id, or None."""
        known = self._known(job_id)
        if self._memory is None or known is None or known.mediator == self._memory.me:
            return None
        return None if known.state is JobState.REJECTED else known

    def _known(self, job_id: str | None) -> Known | None:
        return None if self._memory is None or job_id is None else self._memory.known(job_id)

    def _refused_elsewhere(self, letter: DeadLetter) -> bool:
        """Tell whether another mediator has told of the end of this very message's job."""
        known = self._known(letter.job_id)
        here = letter.job_id is not None and self._ledger.state_of(letter.job_id) is not None
        return known is not None and not here and known.spec_sha256 == letter.sha256

    def _epoch_of(self, job_id: str) -> int:
        """Give the epoch a job is in, as far as this mediator knows; 0 for a job unknown."""
        known, here = self._known(job_id), self._ledger.job(job_id)
        return max(0 if known is None else known.epoch, 0 if here is None else here.epoch)

    def _next_epoch(self, job_id: str) -> int:
        """Give the epoch in which a new job of this id prevails on the status topic."""
        known = self._known(job_id)
        if known is None or self._ledger.state_of(job_id) is not None:
            return 1
        return known.epoch + 1

    def _take_foreign(self, source: Source, message: Message, job: Job, known: Known) -> Outcome:
        job_id = str(job.job_id)
        if known.spec_sha256 != spec_hash(job):
            return self._refuse_other_spec(source, message, job_id)
        repeat = str(source) != known.source
        with self._ledger.transaction():
            if known.ended:
                self._ledger.note_source(source, job_id, "duplicate")
            else:
                self._ledger.watch(source, new_job(job))
            if repeat:
                self._ledger.tell_of_foreign_duplicate(job_id, job.op, known.state, known.epoch)
        self._say(
            _log.info, "job %s: %s at mediator %s (%s)", job_id, known.state, known.mediator, source
        )
        return Outcome.DUPLICATE if repeat else Outcome.ELSEWHERE

    def _take_job(self, source: Source, message: Message, job: Job) -> Outcome:
        job_id = str(job.job_id)
        known = self._ledger.job(job_id)
        if known is not None and known.state is not JobState.REJECTED:
            if known.spec_sha256 == spec_hash(job):
                self._ledger.note_duplicate(source, job_id)
                self._say(
                    _log.info, "job %s: duplicate (%s); it is %s", job_id, source, known.state
                )
                return Outcome.DUPLICATE
            return self._refuse_other_spec(source, message, job_id)
        if (elsewhere := self._elsewhere(job_id)) is not None:
            return self._take_foreign(source, message, job, elsewhere)
        if (left := self._ledger.watched_spec(job_id)) is not None and self._known(job_id) is None:
            return self._take_copy(source, message, job, left)
        if self._known(job_id) is None and (clash := clash_of(self.roots.logs, job_id)):
            raise JobRefused.because(clash, "job_id", job_id)
        place = self.placement.find(job)
        if place.mediator is not None:
            return self._leave(source, message, job, place)
        waits_for = place.waits_for
        new = dataclasses.replace(new_job(job), waits_for=waits_for)
        self._ledger.accept(source, new, epoch=self._next_epoch(job_id), message=pack(message))
        self._say(_log.info, "job %s: queued (%s, %s)%s", job_id, job.op, source,
                  f"; waits for job {waits_for}" if waits_for else "")  # fmt: skip
        return Outcome.ACCEPTED

    def _take_copy(self, source: Source, message: Message, job: Job, left: str) -> Outcome:
        """Take a message under the id of a job that is being left to another mediator."""
        job_id = str(job.job_id)
        if left != spec_hash(job):
            return self._refuse_other_spec(source, message, job_id)
        with self._ledger.transaction():
            self._ledger.note_source(source, job_id, "duplicate")
            self._ledger.tell_of_foreign_duplicate(job_id, job.op, JobState.QUEUED, 1)
        return Outcome.DUPLICATE

    def _leave(self, source: Source, message: Message, job: Job, place: Place) -> Outcome:
        """Leave a job to the mediator that has what it builds on; `adoption` asks that one."""
        gone = self._memory is not None and self._memory.has_left(str(place.mediator))
        if gone and place.base_ended:
            raise JobRefused.because(place.reason, "checkpoint_path", job.checkpoint_path)
        if len(packed := pack(message)) > MESSAGE_LIMIT_BYTES:
            raise JobRefused.because(
                f"{place.reason}; the message is too large ({len(packed)} bytes packed, limit "
                f"{MESSAGE_LIMIT_BYTES}) to be passed on",
                "checkpoint_path",
                job.checkpoint_path,
            )
        self._ledger.watch(source, new_job(job), message=packed)
        self._say(_log.info, "job %s: what it builds on is at mediator %s (%s)",
                  job.job_id, place.mediator, source)  # fmt: skip
        return Outcome.ELSEWHERE

    def _was_answered(self, source: Source, message: Message, job_id: str | None) -> bool:
        """Tell whether another mediator refused a message when it had the partition; note that.

        The message of its own unfinished job it did not refuse: that this one does must be told.
        """
        if self._memory is None or not self._memory.is_answered(message):
            return False
        known = self._known(job_id)
        if known is not None and not known.ended and known.source == str(source):
            return False
        self._ledger.note_source(source, job_id, Outcome.ANSWERED)
        self._say(_log.info, "message %s: answered by another mediator before", source)
        return True

    def _refuse_other_spec(self, source: Source, message: Message, job_id: str) -> Outcome:
        if self._was_answered(source, message, job_id):
            return Outcome.ANSWERED
        problem = taken_by_other_spec(job_id)
        reason = str(problem)
        letter = _letter(source, message, reason, [problem], job_id)
        if self._ledger.job(job_id) is None:
            self._ledger.refuse(source, letter, "", epoch=None)
        else:
            self._ledger.note_conflict(source, letter, job_id)
        self._say(_log.warning, "job %s: refused (%s): %s", job_id, source, one_line(reason))
        return Outcome.CONFLICT

    def _refuse(
        self, source: Source, message: Message, reason: str, problems: list[FieldProblem]
    ) -> Outcome:
        job_id, op = _salvage(message.value)
        if self._was_answered(source, message, job_id):
            return Outcome.ANSWERED
        letter = _letter(source, message, reason, problems, job_id)
        foreign = self._elsewhere(job_id) is not None or self._refused_elsewhere(letter)
        foreign = foreign or op in CONTROL_OPS  # a request is no job
        epoch = None if foreign or job_id is None else self._next_epoch(job_id)
        self._ledger.refuse(source, letter, op, epoch=epoch)
        name = "message" if job_id is None else f"job {job_id}"
        self._say(_log.warning, "%s: refused (%s): %s", name, source, one_line(reason))
        return Outcome.REFUSED


def _named(job: Job, source: Source) -> Job:
    """Give the job an id made from its source if it has none, the same on every delivery."""
    if job.job_id is not None:
        return job
    digest = hashlib.sha256(str(source).encode()).hexdigest()
    return job.model_copy(update={"job_id": digest[:12]})


def _letter(
    source: Source, message: Message, reason: str, problems: list[FieldProblem], job_id: str | None
) -> DeadLetter:
    return DeadLetter(source, reason, problems, message.value, message.key, message.headers, job_id)


def _salvage(value: bytes | None) -> tuple[str | None, str]:
    """Give the valid job id and the known op of a refused message, as far as it has them.

    The op may be a request's.
    """
    try:
        record = json.loads(value or b"")
    except (ValueError, RecursionError):
        return None, ""
    if not isinstance(record, dict):
        return None, ""
    job_id, op = record.get("job_id"), record.get("op")
    valid = isinstance(job_id, str) and re.fullmatch(JOB_ID_PATTERN, job_id)
    return (job_id if valid else None), (op if isinstance(op, str) and op in KNOWN_OPS else "")
