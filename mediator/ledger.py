"""Owns what the mediator knows for certain; this part: whose a job is, and requests about it.

The ledger's parts build on each other: `ledger_base` (the connection), `ledger_outbox` (what is
owed), `ledger_sharing` (other mediators), `ledger_jobs` (jobs), `ledger_runs` (attempts), and this
one.
"""

from collections.abc import Iterable
from typing import Any

from mediator.events import Event, EventKind, control_payload
from mediator.ledger_jobs import event_of, owner_of, record_of
from mediator.ledger_runs import RunsTable
from mediator.ledger_sharing import ENDED_MARKS
from mediator.offers import (
    MESSAGE_LIMIT_BYTES,
    TO_ALL,
    Offer,
    message_from_spec,
    offer_payload,
    pack,
    source_of,
)
from mediator.records import JobRecord, NewJob, Waiting
from mediator.states import JobState
from mediator.text import one_line

SHARES_SLOT = "COALESCE(json_extract(j.spec, '$.share_slot'), 1)"


class Ledger(RunsTable):
    """The ledger of one log root; see `LedgerBase` for how it is opened."""

    def mark_claimed(self, claims: Iterable[tuple[str, int]]) -> None:
        """Note that these jobs (id and epoch) are this mediator's: nobody else was first.

        What waited for that may now be told. Not lasting: the topic says it again.
        """
        with self.transaction(lasting=False):
            for job_id, epoch in claims:
                changed = self._connection.execute(
                    "UPDATE jobs SET claimed=1, message=NULL WHERE job_id=? AND epoch=?",
                    (job_id, epoch),
                )
                if changed.rowcount:
                    self._release(job_id)

    def give_up(self, job_id: str) -> None:
        """Let another mediator have a job, without a word; watch it from now on.

        One that has ended here goes too: were it kept, it would be told of again to a broker that
        lost its log.
        """
        job = self._known(job_id)
        new = NewJob(job_id, job.op, job.spec, job.spec_sha256, job.waits_for, job.priority)
        with self.transaction():
            self.retract(job_id)
            self._connection.execute("DELETE FROM jobs WHERE job_id=?", (job_id,))
            if job.state is not JobState.REJECTED:
                self.watch(job.source, new, seen=True)
            # what waits for its checkpoint must find it elsewhere now
            for waiting in self._rows(
                "SELECT job_id FROM jobs WHERE waits_for=? AND state=?", (job_id, JobState.QUEUED)
            ):
                self.give_up(waiting["job_id"])

    def has_unfinished(self) -> bool:
        """Tell whether any job has not ended."""
        return bool(self._rows(f"SELECT 1 FROM jobs WHERE state NOT IN ({ENDED_MARKS}) LIMIT 1"))

    def to_cancel(self) -> list[str]:
        """Give the unfinished jobs that are to be cancelled; only their owner may end them."""
        rows = self._rows(
            "SELECT job_id FROM jobs WHERE cancel_reason IS NOT NULL AND claimed=1"
            " AND state IN (?,?,?)",
            (JobState.QUEUED, JobState.RUNNING, JobState.INTERRUPTED),
        )
        return [row["job_id"] for row in rows]

    def retry(self, job_id: str) -> None:
        """Queue an ended job anew under the next epoch.

        Raises:
            TransitionError: it has not ended, or has succeeded.
        """
        job = self._known(job_id)
        new = NewJob(job_id, job.op, job.spec, job.spec_sha256, job.waits_for, job.priority)
        with self.transaction():
            epoch = job.epoch + 1
            self._write_received(new, job.source, epoch, job.attempt, anew_epoch=epoch)
            self._move(job_id, JobState.QUEUED, reason="queued anew on request")
            # whoever gets its partition begins behind its message
            self._keep_message(self._known(job_id))

    def answer_control(self, job_id: str, reason: str) -> None:
        """Tell what became of a request that changes nothing."""
        with self.transaction():
            self._tell(job_id, EventKind.CONTROL, one_line(reason), {})

    def tell_again(self, *, ended: bool, after: int, limit: int) -> list[int]:
        """Owe the status topic where some jobs stand, with the numbers they had.

        Args:
            ended: tell of those that have ended; else of the others.
            after: sequence number (their order here) of the last one told of.
            limit: most jobs told of.

        Returns:
            The sequence numbers of the jobs told of, in order.
        """
        which = "IN" if ended else "NOT IN"
        rows = self._rows(
            f"SELECT * FROM jobs WHERE sequence > ? AND state {which} ({ENDED_MARKS})"
            " ORDER BY sequence LIMIT ?",
            (after, limit),
        )
        with self.transaction():
            for row in rows:
                job = record_of(row)
                seq = self._rows(
                    "SELECT MAX(seq) AS seq FROM history WHERE job_id=?", (job.job_id,)
                )[0]["seq"]
                event = event_of(job, seq or 0, EventKind.STATE, job.reason, {"told_again": True})
                payload = event.status_payload(owner_of(job, self.mediator))
                self._owe(self._topics.status, job.job_id, payload, job_id=job.job_id)
                if not ended:
                    self._keep_message(job)
        return [row["sequence"] for row in rows]

    def _keep_message(self, job: JobRecord) -> None:
        """Owe the status topic a job's message, for whoever outlives this mediator.

        One too large for that is left out; it is then lost with this mediator.
        """
        message = message_from_spec(job.source, job.spec)
        if len(pack(message)) > MESSAGE_LIMIT_BYTES:
            return
        offer = Offer(TO_ALL, job.job_id, job.epoch, job.attempt, message)
        payload = offer_payload(offer, job.source_topic, self.mediator)
        self._owe(self._topics.status, f"message/{job.job_id}", payload, job_id=job.job_id)
        self._connection.execute("UPDATE jobs SET message_kept=1 WHERE job_id=?", (job.job_id,))

    def keep_owed_messages(self, limit: int = 250) -> None:
        """Owe the status topic the messages of unfinished jobs from before it got any; once.

        Args:
            limit: most jobs held in memory.
        """
        if self._fact("messages_owed") is None:
            return
        after = 0
        with self.transaction():
            while rows := self._rows(
                f"SELECT * FROM jobs WHERE sequence > ? AND state NOT IN ({ENDED_MARKS})"
                " AND message_kept=0 ORDER BY sequence LIMIT ?",
                (after, limit),
            ):
                after = rows[-1]["sequence"]
                for row in rows:
                    self._keep_message(record_of(row))
            self._connection.execute("DELETE FROM facts WHERE name='messages_owed'")

    def tell_controls_again(self) -> None:
        """Owe the status topic the requests that were not applied yet."""
        with self.transaction():
            for control in self.open_controls():
                payload = control_payload(control, self._topics.jobs, self.mediator)
                self._owe(self._topics.status, f"control/{control.op}/{control.job_id}", payload)

    def leave_to(self, offer: Offer) -> None:
        """Leave a message to the mediator that has what its job builds on."""
        payload = offer_payload(offer, offer.message.topic, self.mediator)
        with self.transaction():
            self._owe(self._topics.status, f"offer/{source_of(offer.message)}", payload)

    def tell_waiting(self, job: NewJob, state: JobState, epoch: int, reason: str) -> None:
        """Tell why a job of nobody's, or of a mediator that has gone, does not run."""
        event = Event(job.job_id, 0, EventKind.WAITING, state, job.op, 0, one_line(reason), {},
                      epoch)  # fmt: skip
        with self.transaction():
            self._owe(self._topics.events, job.job_id, event.payload(), seq=0)

    def history(self, job_id: str) -> list[dict[str, Any]]:
        """Give a job's changes of state in order: state, attempt, time, reason."""
        rows = self._rows(
            "SELECT seq, state, attempt, time, reason FROM history WHERE job_id=? ORDER BY entry",
            (job_id,),
        )
        return [dict(row) for row in rows]

    def startable(
        self, work: int, view: int, now: float, *, view_places: bool = True
    ) -> list[Waiting]:
        """Give queued jobs that may start now, in order, and all that never can.

        Args:
            work: free work slots.
            view: free view places.
            now: Unix time, s.
            view_places: there are view places, free or not; else views take work slots.
        """
        shares = f"j.op='view' AND {SHARES_SLOT}" if view_places else "0"
        base = (
            f"SELECT j.job_id, {shares} AS shares, j.waits_for, b.state AS blocker FROM jobs j"
            f" LEFT JOIN jobs b ON b.job_id=j.waits_for WHERE j.state='{JobState.QUEUED}'"
        )
        lost = self._rows(
            f"{base} AND j.waits_for IS NOT NULL AND b.state IN ({ENDED_MARKS})"
            f" AND b.state <> '{JobState.SUCCEEDED}' AND j.claimed=1"
        )
        ready = (
            f"{base} AND j.claimed=1 AND j.not_before <= ?"
            f" AND (b.state IS NULL OR b.state='{JobState.SUCCEEDED}')"
            " AND {which} ORDER BY j.priority DESC, j.sequence LIMIT ?"
        )
        for_work = self._rows(ready.format(which=f"NOT ({shares})"), (now, work)) if work else []
        for_view = self._rows(ready.format(which=shares), (now, view)) if view else []
        return [
            Waiting(row["job_id"], bool(row["shares"]), row["waits_for"])
            for row in (*lost, *for_work, *for_view)
        ]
