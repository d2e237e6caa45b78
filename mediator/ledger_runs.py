"""Owns what the ledger knows of attempts: their processes, how they were broken off, their waits.

`slot_processes` holds, by slot, every process its last run is known to have had, until the slot was
given back: after a restart too, a slot stays closed while one of them is on a GPU.
"""

from collections.abc import Iterable

from mediator.ledger_jobs import JobsTable
from mediator.records import ProcessIdentity
from mediator.states import JobState
from mediator.text import utc_now


class RunsTable(JobsTable):
    """The attempts' part of the ledger."""

    def begin_run(self, job_id: str, slot: str, run_token: str) -> int:
        """Mark a job running before its process exists, so that a crash cannot run it twice.

        Not lasting by itself (a power cut ends the process too): see `make_lasting`.

        Args:
            job_id: a queued job.
            slot: the slot's name.
            run_token: unique mark in the process's environment, to find it by after a crash.

        Returns:
            The attempt number, from 1.
        """
        with self.transaction(lasting=False):
            self._connection.execute(
                "UPDATE jobs SET attempt=attempt+1, slot=?, run_token=?, progress_offset=0,"
                " boot_id=NULL, pid=NULL, start_ticks=NULL, started_at=?, exit_code=NULL"
                " WHERE job_id=?",
                (slot, run_token, utc_now(), job_id),
            )
            self._move(job_id, JobState.RUNNING, data={"slot": slot})
        return self._known(job_id).attempt

    def record_process(self, job_id: str, process: ProcessIdentity) -> None:
        """Write down which process runs the job; not lasting by itself, as `begin_run`."""
        with self.transaction(lasting=False):
            self._connection.execute(
                "UPDATE jobs SET boot_id=?, pid=?, start_ticks=? WHERE job_id=?",
                (process.boot_id, process.pid, process.start_ticks, job_id),
            )

    # --- slots ------------------------------------------------------------------------------

    def note_slot_processes(self, slot: str, members: Iterable[ProcessIdentity]) -> None:
        """Note processes of the run that has a slot; not lasting: a power cut ends them too."""
        with self.transaction(lasting=False):
            self._connection.executemany(
                "INSERT OR IGNORE INTO slot_processes VALUES (?,?,?,?)",
                [(slot, member.boot_id, member.pid, member.start_ticks) for member in members],
            )

    def slot_processes(self, boot_id: str) -> dict[str, set[ProcessIdentity]]:
        """Give, by slot not given back, the processes its last run had in this boot."""
        rows = self._rows("SELECT * FROM slot_processes WHERE boot_id=?", (boot_id,))
        found: dict[str, set[ProcessIdentity]] = {}
        for row in rows:
            member = ProcessIdentity(row["boot_id"], row["pid"], row["start_ticks"])
            found.setdefault(row["slot"], set()).add(member)
        return found

    def free_slot(self, slot: str) -> None:
        """Forget the processes of a slot that was given back."""
        with self.transaction(lasting=False):
            self._connection.execute("DELETE FROM slot_processes WHERE slot=?", (slot,))

    # --- broken off, put off, waiting -------------------------------------------------------

    def count_interruption(self, job_id: str) -> int:
        """Count an interruption that nobody asked for; give their number in this epoch."""
        with self.transaction():
            self._connection.execute(
                "UPDATE jobs SET interruptions=interruptions+1 WHERE job_id=?", (job_id,)
            )
        return self._known(job_id).interruptions

    def put_off(self, job_id: str, until: float) -> None:
        """Note another failure, and let the job rest until a Unix time."""
        with self.transaction():
            self._connection.execute(
                "UPDATE jobs SET failures=failures+1, not_before=? WHERE job_id=?",
                (until, job_id),
            )

    def resting_until(self, now: float) -> bool:
        """Tell whether a queued job that was put off may start again since a Unix time, s."""
        query = "SELECT 1 FROM jobs WHERE state=? AND not_before > 0 AND not_before <= ? LIMIT 1"
        return bool(self._rows(query, (JobState.QUEUED, now)))

    def never_begun_since(self, before: float) -> list[str]:
        """Give the queued jobs that never had an attempt and came before a Unix time, s."""
        rows = self._rows(
            "SELECT job_id FROM jobs WHERE state=? AND attempt=0 AND unixepoch(received_at) < ?",
            (JobState.QUEUED, before),
        )
        return [row["job_id"] for row in rows]
