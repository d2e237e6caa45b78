"""Owns the jobs in the ledger: how they come in, how their state changes, what is told of it.

Every change of a job and the events that tell of it are one transaction, so the topics and the
ledger cannot disagree: what is in the outbox happened, and what happened is in the outbox.
"""

import json
import sqlite3
from collections.abc import Iterable
from typing import Any

from configs.secrets import masked
from mediator.errors import MediatorError
from mediator.events import (
    EPOCH_STRIDE,
    DeadLetter,
    Event,
    EventKind,
    Owner,
    taken_by_other_spec,
)
from mediator.ledger_sharing import SharingTables
from mediator.offers import message_from_spec, unpack
from mediator.records import JobRecord, NewJob, ProcessIdentity, Source
from mediator.states import ENDED, JobState, check_transition
from mediator.text import one_line, utc_now

NO_SOURCE = Source("", "", 0, 0)


class JobsTable(SharingTables):
    """The jobs' part of the ledger."""

    # --- messages in -----------------------------------------------------------------------

    def accept(
        self,
        source: Source,
        job: NewJob,
        *,
        epoch: int = 1,
        attempt: int = 0,
        anew_epoch: int = 1,
        seen: bool = False,
        message: bytes | None = None,
    ) -> None:
        """Queue a new job (its id is free, or was only ever refused) and tell of it.

        Args:
            source: the message it came with.
            job: the job.
            epoch: above every epoch in which another mediator owned the job.
            attempt: attempts that other mediators made.
            anew_epoch: the epoch in which it was last queued anew on request.
            seen: the message's outcome is noted already.
            message: the message, packed, for the dead letter should the id turn out to be taken.
        """
        with self.transaction():
            if not seen:
                self._note_source(source, job.job_id, "accepted")
            self.unwatch(job.job_id)
            self._write_received(job, source, epoch, attempt, anew_epoch, message)
            self._move(job.job_id, JobState.QUEUED, data={"spec": masked(json.loads(job.spec))})
            for control in self.open_controls(job.job_id):
                self.close_control(control.source)
                if control.cancels(anew_epoch):
                    self.ask_cancel(job.job_id, f"cancelled by {control.source}")
                elif control.op == "retry":
                    reason = "request to retry: the job has not ended; nothing is changed"
                    self._tell(job.job_id, EventKind.CONTROL, reason, {})

    def ask_cancel(self, job_id: str, reason: str) -> None:
        """Note that an unfinished job is to be cancelled; the first reason stays."""
        with self.transaction():
            self._connection.execute(
                "UPDATE jobs SET cancel_reason=COALESCE(cancel_reason, ?) WHERE job_id=?",
                (one_line(reason), job_id),
            )

    def refuse(self, source: Source, letter: DeadLetter, op: str, *, epoch: int | None = 1) -> None:
        """Write a dead letter; a valid job id that names no job yet becomes a rejected job.

        The same bytes under the id of a rejected job are a duplicate of it; others reject it anew,
        under the next epoch.

        Args:
            source: the message.
            letter: the dead letter.
            op: its op as far as it has one.
            epoch: epoch of the rejected job; None when the id belongs to another mediator's job.
        """
        with self.transaction():
            self._note_source(source, letter.job_id, "refused")
            self._owe_letter(letter)
            if letter.job_id is None or epoch is None:
                return
            known = self.job(letter.job_id)
            again = known is not None and known.spec_sha256 == letter.sha256
            if known is not None and (again or known.state is not JobState.REJECTED):
                self._tell_of_refusal(letter.job_id, letter.reason)
            else:
                refused = NewJob(letter.job_id, op, "{}", letter.sha256)
                self._write_received(refused, source, epoch)
                problems = [vars(problem) for problem in letter.problems]
                self._move(
                    letter.job_id,
                    JobState.REJECTED,
                    reason=letter.reason,
                    data={"errors": problems},
                )

    def note_duplicate(self, source: Source, job_id: str) -> None:
        """Acknowledge a job that is here already; it is not run again."""
        with self.transaction():
            self._note_source(source, job_id, "duplicate")
            reason = "this job is here already; it is not run again"
            self._tell(job_id, EventKind.DUPLICATE, reason, {"outcome": "duplicate"})

    def tell_of_foreign_duplicate(self, job_id: str, op: str, state: JobState, epoch: int) -> None:
        """Acknowledge a job that another mediator has; only its owner numbers its events."""
        reason = "this job is at another mediator already; it is not run again"
        data = {"outcome": "duplicate"}
        event = Event(job_id, 0, EventKind.DUPLICATE, state, op, 0, reason, data, epoch)
        with self.transaction():
            self._owe(self._topics.events, job_id, event.payload(), job_id=None, seq=0)

    def note_conflict(self, source: Source, letter: DeadLetter, job_id: str) -> None:
        """Refuse another spec under a taken id, leaving the first job untouched."""
        with self.transaction():
            self._note_source(source, job_id, "conflict")
            self._owe_letter(letter)
            self._tell_of_refusal(job_id, letter.reason)

    def note_lost_id(self, job_id: str) -> None:
        """Refuse a job whose id went to a job with another spec at another mediator; once.

        The message is kept until the job's claim has held; after that the letter holds the spec.
        """
        job = self._known(job_id)
        packed = self._rows("SELECT message FROM jobs WHERE job_id=?", (job_id,))[0]["message"]
        original = message_from_spec(job.source, job.spec) if packed is None else unpack(packed)
        problem = taken_by_other_spec(job_id)
        letter = DeadLetter(
            job.source, str(problem), [problem],
            original.value, original.key, original.headers, job_id,
        )  # fmt: skip
        with self.transaction():
            changed = self._connection.execute(
                "UPDATE sources SET outcome='conflict' WHERE cluster_id=? AND topic=?"
                " AND partition=? AND offset=? AND outcome<>'conflict'",
                (job.source_cluster, job.source_topic, job.source_partition, job.source_offset),
            )
            if changed.rowcount:
                self._owe_letter(letter)

    def _tell_of_refusal(self, job_id: str, reason: str) -> None:
        data = {"outcome": "rejected"}
        self._tell(job_id, EventKind.DUPLICATE, one_line(reason), data)

    def _write_received(
        self,
        job: NewJob,
        source: Source = NO_SOURCE,
        epoch: int = 1,
        attempt: int = 0,
        anew_epoch: int = 1,
        message: bytes | None = None,
    ) -> None:
        known = self.job(job.job_id)
        if known is not None:
            check_transition(job.job_id, known.state, JobState.RECEIVED)
            epoch = max(epoch, known.epoch + 1)  # the one before has had its end
        self._connection.execute(
            "INSERT INTO jobs (job_id, op, spec, spec_sha256, state, priority, sequence, waits_for,"
            " received_at, epoch, attempt, event_seq, source_cluster, source_topic,"
            " source_partition, source_offset, anew_epoch, message)"
            " VALUES (:job_id, :op, :spec, :sha, :state, :priority,"
            " (SELECT COALESCE(MAX(sequence), 0) + 1 FROM jobs), :waits_for, :now, :epoch,"
            " :attempt, :first_seq, :cluster, :topic, :partition, :offset, :anew_epoch, :message)"
            " ON CONFLICT (job_id) DO UPDATE SET op=:op, spec=:spec, spec_sha256=:sha,"
            " state=:state, priority=:priority, sequence=excluded.sequence, waits_for=:waits_for,"
            " received_at=:now, ended_at=NULL, reason=NULL, claimed=0, failures=0, not_before=0,"
            " interruptions=0, message_kept=0,"
            " cancel_reason=NULL, epoch=:epoch, attempt=MAX(attempt, :attempt),"
            " event_seq=MAX(event_seq, :first_seq), source_cluster=:cluster, source_topic=:topic,"
            " source_partition=:partition, source_offset=:offset, anew_epoch=:anew_epoch,"
            " message=:message",
            {
                "job_id": job.job_id,
                "op": job.op,
                "spec": job.spec,
                "sha": job.spec_sha256,
                "state": JobState.RECEIVED,
                "priority": job.priority,
                "waits_for": job.waits_for,
                "now": utc_now(),
                "epoch": epoch,
                "attempt": attempt,
                "first_seq": (epoch - 1) * EPOCH_STRIDE,
                "cluster": source.cluster_id,
                "topic": source.topic,
                "partition": source.partition,
                "offset": source.offset,
                "anew_epoch": anew_epoch,
                "message": message,
            },
        )

    # --- jobs ------------------------------------------------------------------------------

    def job(self, job_id: str) -> JobRecord | None:
        """Give one job, or None."""
        rows = self._rows("SELECT * FROM jobs WHERE job_id=?", (job_id,))
        return record_of(rows[0]) if rows else None

    def jobs(self, *states: JobState) -> list[JobRecord]:
        """Give all jobs, or those in the named states, in the order they came."""
        marks = ",".join("?" * len(states))
        where = f"WHERE state IN ({marks})" if states else ""
        rows = self._rows(f"SELECT * FROM jobs {where} ORDER BY sequence", states)
        return [record_of(row) for row in rows]

    def count(self) -> int:
        """Give the number of jobs."""
        return int(self._rows("SELECT COUNT(*) AS n FROM jobs")[0]["n"])

    def state_of(self, job_id: str) -> JobState | None:
        """Give a job's state, or None when the ledger does not know it."""
        rows = self._rows("SELECT state FROM jobs WHERE job_id=?", (job_id,))
        return JobState(rows[0]["state"]) if rows else None

    def move(
        self,
        job_id: str,
        state: JobState,
        *,
        reason: str | None = None,
        exit_code: int | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        """Change a job's state and tell of it.

        Raises:
            TransitionError: the change is not in the table; nothing is written.
        """
        with self.transaction():
            self._move(job_id, state, reason=reason, exit_code=exit_code, data=data)

    def add_events(
        self, job_id: str, events: Iterable[tuple[EventKind, dict[str, Any]]], progress_offset: int
    ) -> None:
        """Tell of what the runner reported, up to a byte of its progress file; not yet lasting."""
        with self.transaction(lasting=False):
            for kind, data in events:
                self._tell(job_id, kind, None, data)
            self._connection.execute(
                "UPDATE jobs SET progress_offset=? WHERE job_id=?", (progress_offset, job_id)
            )

    def forget(self, job_id: str) -> None:
        """Remove an ended job and its sent events; its sources stay, so it cannot come back.

        Raises:
            MediatorError: the job has not ended.
        """
        state = self.state_of(job_id)
        if state not in ENDED:
            raise MediatorError(f"job {job_id}: {state}, not ended; it is not removed")
        with self.transaction():
            self._release(job_id)
            self._connection.execute(
                "DELETE FROM outbox WHERE job_id=? AND sent_at IS NOT NULL", (job_id,)
            )
            self._connection.execute("DELETE FROM history WHERE job_id=?", (job_id,))
            self._connection.execute("DELETE FROM jobs WHERE job_id=?", (job_id,))

    def _known(self, job_id: str) -> JobRecord:
        record = self.job(job_id)
        if record is None:
            raise MediatorError(f"job {job_id}: not in the ledger {self._path}")
        return record

    def _move(
        self,
        job_id: str,
        state: JobState,
        *,
        reason: str | None = None,
        exit_code: int | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        check_transition(job_id, self._known(job_id).state, state)
        line = None if reason is None else one_line(reason)
        self._connection.execute(
            "UPDATE jobs SET state=?, reason=?, exit_code=COALESCE(?, exit_code), ended_at=?"
            " WHERE job_id=?",
            (state, line, exit_code, utc_now() if state in ENDED else None, job_id),
        )
        self._tell(job_id, EventKind.STATE, line, data or {})
        job = self._known(job_id)
        if state in ENDED and (job.message_kept or job.epoch > 1):
            self._owe(self._topics.status, f"message/{job_id}", b"{}", job_id=job_id)

    # --- messages out ----------------------------------------------------------------------

    def _tell(self, job_id: str, kind: EventKind, reason: str | None, data: dict[str, Any]) -> None:
        self._connection.execute("UPDATE jobs SET event_seq=event_seq+1 WHERE job_id=?", (job_id,))
        job = self._known(job_id)
        event = event_of(job, job.event_seq, kind, reason, data)
        if kind is EventKind.STATE:
            payload = event.status_payload(owner_of(job, self.mediator))
            self._owe(self._topics.status, job_id, payload, job_id=job_id, seq=event.seq)
            self._connection.execute(
                "INSERT INTO history (job_id, seq, state, attempt, time, reason)"
                " VALUES (?,?,?,?,?,?)",
                (job_id, event.seq, job.state, job.attempt, utc_now(), reason),
            )
        # what the event topic says cannot be taken back, so it waits until the claim has held
        held = not job.claimed
        self._owe(
            self._topics.events, job_id, event.payload(), job_id=job_id, seq=event.seq, held=held
        )

    def _owe_letter(self, letter: DeadLetter) -> None:
        self._owe(
            self._topics.dead_letters,
            letter.job_id,
            letter.payload(),
            job_id=letter.job_id,
            headers=letter.kafka_headers(),
        )


def event_of(
    job: JobRecord, seq: int, kind: EventKind, reason: str | None, data: dict[str, Any]
) -> Event:
    """Give an event of a job as it stands."""
    return Event(job.job_id, seq, kind, job.state, job.op, job.attempt, reason, data, job.epoch)


def owner_of(job: JobRecord, mediator: str) -> Owner:
    """Give what the status topic tells of a job's owner."""
    return Owner(mediator, job.source_topic, job.spec_sha256, str(job.source), job.anew_epoch)


def record_of(row: sqlite3.Row) -> JobRecord:
    """Give a row of the jobs table."""
    values = dict(row)
    del values["message"]
    boot_id, pid, ticks = (values.pop(name) for name in ("boot_id", "pid", "start_ticks"))
    process = None if pid is None else ProcessIdentity(boot_id, pid, ticks)
    values["state"] = JobState(values["state"])
    return JobRecord(**values, process=process)
