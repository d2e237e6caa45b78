"""Owns the way of a message into the ledger: accepted, refused, or known already.

Whatever a message holds, it has exactly one outcome, written in one transaction; only then may its
offset be stored. The same message delivered again changes nothing.
"""

import hashlib
import json
import logging
import re
from enum import StrEnum

from configs import OPS, Job, JobRefused, Roots, canonical_json, parse_job
from configs.common import JOB_ID_PATTERN
from configs.parse import spec_hash
from kafka_utils.consumer import Message
from mediator.errors import MediatorError
from mediator.events import DeadLetter, FieldProblem
from mediator.job_folder import clash_of
from mediator.ledger import Ledger
from mediator.records import NewJob, Source
from mediator.requirements import CheckpointJobUnknown, check_requirements
from mediator.states import JobState
from mediator.text import one_line

_log = logging.getLogger("mediator")


class Outcome(StrEnum):
    """What became of a message."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    SEEN_BEFORE = "seen before"
    DEFERRED = "deferred"


class Intake:
    """Takes messages into the ledger.

    Args:
        ledger: open for writing.
        roots: the folders jobs may touch.
    """

    def __init__(self, ledger: Ledger, roots: Roots) -> None:
        self._ledger = ledger
        self._roots = roots

    def take(self, message: Message, *, may_wait: bool = False) -> Outcome:
        """Deal with one message, durably.

        Args:
            message: as it came.
            may_wait: if it names the checkpoint of a job nobody knows, decide later: the message
                of that job may still come, from another partition.

        Returns:
            What became of it; after DEFERRED nothing is written and it must be given again.

        Raises:
            LedgerWriteError: nothing was written; the message must be given again.
        """
        source = Source(message.cluster_id, message.topic, message.partition, message.offset)
        if self._ledger.has_seen(source):
            return Outcome.SEEN_BEFORE
        try:
            job = _named(parse_job(message.value or b""), source)
            return self._take_job(source, message, job)
        except JobRefused as refusal:
            if may_wait and isinstance(refusal, CheckpointJobUnknown):
                return Outcome.DEFERRED
            problems = [FieldProblem(e.field, e.value, e.message) for e in refusal.errors]
            return self._refuse(source, message, refusal.reason, problems)
        except MediatorError:
            raise
        # a message is outside input: whatever it provokes, it is answered and the mediator goes on
        except Exception as error:  # noqa: BLE001
            _log.exception("message %s: unforeseen error", source)
            return self._refuse(source, message, f"unforeseen {type(error).__name__}: {error}", [])

    def _take_job(self, source: Source, message: Message, job: Job) -> Outcome:
        job_id = str(job.job_id)
        known = self._ledger.job(job_id)
        if known is not None and known.state is not JobState.REJECTED:
            if known.spec_sha256 == spec_hash(job):
                self._ledger.note_duplicate(source, job_id)
                _log.info("job %s: duplicate (%s); it is %s", job_id, source, known.state)
                return Outcome.DUPLICATE
            return self._refuse_other_spec(source, message, job_id)
        if (clash := clash_of(self._roots.logs, job_id)) is not None:
            raise JobRefused.because(clash, "job_id", job_id)
        waits_for = check_requirements(job, self._roots, self._ledger.state_of)
        new = NewJob(job_id, job.op, canonical_json(job), spec_hash(job), waits_for)
        self._ledger.accept(source, new)
        _log.info("job %s: queued (%s, %s)%s", job_id, job.op, source,
                  f"; waits for job {waits_for}" if waits_for else "")  # fmt: skip
        return Outcome.ACCEPTED

    def _refuse_other_spec(self, source: Source, message: Message, job_id: str) -> Outcome:
        problem = FieldProblem(
            "job_id",
            json.dumps(job_id),
            "is taken by a job with another spec; choose another job_id",
        )
        reason = f"{problem.field} = {problem.value}: {problem.message}"
        letter = _letter(source, message, reason, [problem], job_id)
        self._ledger.note_conflict(source, letter, job_id)
        _log.warning("job %s: refused (%s): %s", job_id, source, one_line(reason))
        return Outcome.CONFLICT

    def _refuse(
        self, source: Source, message: Message, reason: str, problems: list[FieldProblem]
    ) -> Outcome:
        job_id, op = _salvage(message.value)
        self._ledger.refuse(source, _letter(source, message, reason, problems, job_id), op)
        name = "message" if job_id is None else f"job {job_id}"
        _log.warning("%s: refused (%s): %s", name, source, one_line(reason))
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
    """Give the valid job id and the known op of a refused message, as far as it has them."""
    try:
        record = json.loads(value or b"")
    except (ValueError, RecursionError):
        return None, ""
    if not isinstance(record, dict):
        return None, ""
    job_id, op = record.get("job_id"), record.get("op")
    valid = isinstance(job_id, str) and re.fullmatch(JOB_ID_PATTERN, job_id)
    return (job_id if valid else None), (op if isinstance(op, str) and op in OPS else "")
