"""Owns what the mediator knows for certain: jobs, the messages they came from, and what it owes.

Every change of a job and the events that tell of it are one transaction, so the topics and the
ledger cannot disagree: what is in the outbox happened, and what happened is in the outbox. One
connection, one thread.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mediator.errors import LedgerWriteError, MediatorError
from mediator.events import DeadLetter, Event, EventKind, Topics
from mediator.ledger_file import LEDGER_NAME, damage_named, open_for_reading, open_for_writing
from mediator.records import (
    JobRecord,
    NewJob,
    OutboxEntry,
    ProcessIdentity,
    Source,
    Waiting,
)
from mediator.states import ENDED, JobState, check_transition
from mediator.text import one_line, utc_now


class Ledger:
    """The ledger of one log root.

    Args:
        log_root: the folder it lies in; its lock must be held (`ledger_file.hold_lock`) to write.
        topics: where events and dead letters go.
        read_only: open it beside a running mediator, to look only.
    """

    def __init__(self, log_root: Path, topics: Topics, *, read_only: bool = False) -> None:
        self._path = log_root / LEDGER_NAME
        self._topics = topics
        self._connection = open_for_reading(log_root) if read_only else open_for_writing(log_root)
        self._connection.row_factory = sqlite3.Row

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Make everything inside one durable change, or none of it.

        Raises:
            LedgerWriteError: rolled back (disk full, read-only); it may be tried again.
            LedgerCorruptError: the file is damaged.
        """
        with damage_named(self._path):
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield
                self._connection.execute("COMMIT")
            except sqlite3.OperationalError as error:
                self._roll_back()
                raise LedgerWriteError(
                    f"{self._path}: cannot be written ({error}); free space on its disk or mend "
                    "its permissions, and the mediator goes on by itself"
                ) from None
            except BaseException:
                self._roll_back()
                raise

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with damage_named(self._path):
            try:
                return self._connection.execute(query, values).fetchall()
            except sqlite3.OperationalError as error:
                raise LedgerWriteError(f"{self._path}: cannot be read ({error})") from None

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    # --- messages in -----------------------------------------------------------------------

    def has_seen(self, source: Source) -> bool:
        """Tell whether this very message was dealt with before."""
        rows = self._rows(
            "SELECT 1 FROM sources WHERE cluster_id=? AND topic=? AND partition=? AND offset=?",
            (source.cluster_id, source.topic, source.partition, source.offset),
        )
        return bool(rows)

    def accept(self, source: Source, job: NewJob) -> None:
        """Queue a new job (its id is free, or was only ever refused) and tell of it."""
        with self.transaction():
            self._note_source(source, job.job_id, "accepted")
            self._write_received(job)
            self._move(job.job_id, JobState.QUEUED, data={"spec": json.loads(job.spec)})

    def refuse(self, source: Source, letter: DeadLetter, op: str) -> None:
        """Write a dead letter; a valid job id that names no job yet becomes a rejected job."""
        with self.transaction():
            self._note_source(source, letter.job_id, "refused")
            self._owe_letter(letter)
            if letter.job_id is None:
                return
            known = self.state_of(letter.job_id)
            if known is not None and known is not JobState.REJECTED:
                self._tell_of_refusal(letter.job_id, letter.reason)
            else:
                self._write_received(NewJob(letter.job_id, op, "{}", ""))
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

    def note_conflict(self, source: Source, letter: DeadLetter, job_id: str) -> None:
        """Refuse another spec under a taken id, leaving the first job untouched."""
        with self.transaction():
            self._note_source(source, job_id, "conflict")
            self._owe_letter(letter)
            self._tell_of_refusal(job_id, letter.reason)

    def _tell_of_refusal(self, job_id: str, reason: str) -> None:
        data = {"outcome": "rejected"}
        self._tell(job_id, EventKind.DUPLICATE, one_line(reason), data)

    def _note_source(self, source: Source, job_id: str | None, outcome: str) -> None:
        self._connection.execute(
            "INSERT INTO sources VALUES (?,?,?,?,?,?)",
            (source.cluster_id, source.topic, source.partition, source.offset, job_id, outcome),
        )

    def _write_received(self, job: NewJob) -> None:
        known = self.state_of(job.job_id)
        if known is not None:
            check_transition(job.job_id, known, JobState.RECEIVED)
        self._connection.execute(
            "INSERT INTO jobs (job_id, op, spec, spec_sha256, state, priority, sequence, waits_for,"
            " received_at) VALUES (:job_id, :op, :spec, :sha, :state, :priority,"
            " (SELECT COALESCE(MAX(sequence), 0) + 1 FROM jobs), :waits_for, :now)"
            " ON CONFLICT (job_id) DO UPDATE SET op=:op, spec=:spec, spec_sha256=:sha,"
            " state=:state, priority=:priority, sequence=excluded.sequence, waits_for=:waits_for,"
            " received_at=:now, ended_at=NULL, reason=NULL",
            {
                "job_id": job.job_id,
                "op": job.op,
                "spec": job.spec,
                "sha": job.spec_sha256,
                "state": JobState.RECEIVED,
                "priority": job.priority,
                "waits_for": job.waits_for,
                "now": utc_now(),
            },
        )

    # --- jobs ------------------------------------------------------------------------------

    def job(self, job_id: str) -> JobRecord | None:
        """Give one job, or None."""
        rows = self._rows("SELECT * FROM jobs WHERE job_id=?", (job_id,))
        return _record(rows[0]) if rows else None

    def jobs(self, *states: JobState) -> list[JobRecord]:
        """Give all jobs, or those in the named states, in the order they came."""
        marks = ",".join("?" * len(states))
        where = f"WHERE state IN ({marks})" if states else ""
        rows = self._rows(f"SELECT * FROM jobs {where} ORDER BY sequence", states)
        return [_record(row) for row in rows]

    def state_of(self, job_id: str) -> JobState | None:
        """Give a job's state, or None when the ledger does not know it."""
        rows = self._rows("SELECT state FROM jobs WHERE job_id=?", (job_id,))
        return JobState(rows[0]["state"]) if rows else None

    def waiting(self, ops: Sequence[str]) -> list[Waiting]:
        """Give the queued jobs of these ops in the order they should run."""
        marks = ",".join("?" * len(ops))
        rows = self._rows(
            f"SELECT job_id, op, waits_for FROM jobs WHERE state=? AND op IN ({marks})"
            " ORDER BY priority DESC, sequence",
            (JobState.QUEUED, *ops),
        )
        return [Waiting(row["job_id"], row["op"], row["waits_for"]) for row in rows]

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

    def begin_run(self, job_id: str, slot: str, run_token: str) -> int:
        """Mark a job running before its process exists, so that a crash cannot run it twice.

        Args:
            job_id: a queued job.
            slot: the slot's name.
            run_token: unique mark in the process's environment, to find it by after a crash.

        Returns:
            The attempt number, from 1.
        """
        with self.transaction():
            self._connection.execute(
                "UPDATE jobs SET attempt=attempt+1, slot=?, run_token=?, progress_offset=0,"
                " boot_id=NULL, pid=NULL, start_ticks=NULL, started_at=?, exit_code=NULL"
                " WHERE job_id=?",
                (slot, run_token, utc_now(), job_id),
            )
            self._move(job_id, JobState.RUNNING, data={"slot": slot})
        return self._known(job_id).attempt

    def record_process(self, job_id: str, process: ProcessIdentity) -> None:
        """Write down which process runs the job."""
        with self.transaction():
            self._connection.execute(
                "UPDATE jobs SET boot_id=?, pid=?, start_ticks=? WHERE job_id=?",
                (process.boot_id, process.pid, process.start_ticks, job_id),
            )

    def add_events(
        self, job_id: str, events: Iterable[tuple[EventKind, dict[str, Any]]], progress_offset: int
    ) -> None:
        """Tell of what the runner reported, up to a byte of its progress file."""
        with self.transaction():
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
            self._connection.execute(
                "DELETE FROM outbox WHERE job_id=? AND sent_at IS NOT NULL", (job_id,)
            )
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

    # --- messages out ----------------------------------------------------------------------

    def unsent(self, after: int, limit: int) -> list[OutboxEntry]:
        """Give entries owed to the broker, oldest first, with an id greater than `after`."""
        rows = self._rows(
            "SELECT entry_id, topic, key, payload, headers FROM outbox"
            " WHERE sent_at IS NULL AND entry_id > ? ORDER BY entry_id LIMIT ?",
            (after, limit),
        )
        return [
            OutboxEntry(
                row["entry_id"],
                row["topic"],
                row["key"],
                row["payload"],
                tuple((name, value) for name, value in json.loads(row["headers"])),
            )
            for row in rows
        ]

    def mark_sent(self, entry_ids: Sequence[int]) -> None:
        """Note that the broker has confirmed these entries; what is sent need not be kept whole."""
        with self.transaction():
            self._connection.executemany(
                "UPDATE outbox SET sent_at=?, payload=x'' WHERE entry_id=?",
                [(utc_now(), entry_id) for entry_id in entry_ids],
            )

    def _tell(self, job_id: str, kind: EventKind, reason: str | None, data: dict[str, Any]) -> None:
        self._connection.execute("UPDATE jobs SET event_seq=event_seq+1 WHERE job_id=?", (job_id,))
        job = self._known(job_id)
        event = Event(job_id, job.event_seq, kind, job.state, job.op, job.attempt, reason, data)
        payload = event.payload()
        self._connection.executemany(
            "INSERT INTO outbox (job_id, seq, topic, key, headers, payload)"
            " VALUES (?,?,?,?,'[]',?)",
            [(job_id, event.seq, topic, job_id, payload) for topic in self._topics.of(kind)],
        )

    def _owe_letter(self, letter: DeadLetter) -> None:
        self._connection.execute(
            "INSERT INTO outbox (job_id, topic, key, headers, payload) VALUES (?,?,?,?,?)",
            (
                letter.job_id,
                self._topics.dead_letters,
                letter.job_id,
                json.dumps(letter.kafka_headers()),
                letter.payload(),
            ),
        )


def _record(row: sqlite3.Row) -> JobRecord:
    values = dict(row)
    boot_id, pid, ticks = (values.pop(name) for name in ("boot_id", "pid", "start_ticks"))
    process = None if pid is None else ProcessIdentity(boot_id, pid, ticks)
    values["state"] = JobState(values["state"])
    return JobRecord(**values, process=process)
