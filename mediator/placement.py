"""Owns where a job can run: here, or only at the mediator that has the checkpoint it builds on.

A job builds on another one when its `checkpoint_path` names it. Where that one ran here, or its
checkpoints can be brought here because storage is shared (`inheritance`), the job runs here. Else
it belongs to the mediator that has them.
"""

from dataclasses import dataclass
from pathlib import Path

from configs import Job, Roots
from mediator.inheritance import bring_checkpoints
from mediator.ledger import Ledger
from mediator.peers import Known, SharedMemory
from mediator.requirements import check_requirements, checkpoint_owner
from mediator.states import JobState


@dataclass(frozen=True)
class Place:
    """Where a job can run.

    Attributes:
        mediator: the mediator that has what it builds on; None when it can run here.
        waits_for: here: the unfinished job whose checkpoint it needs.
        base_ended: elsewhere: the job it builds on has ended.
        reason: elsewhere: one line that says what is where, and the mend.
    """

    mediator: str | None = None
    waits_for: str | None = None
    base_ended: bool = False
    reason: str = ""


class Placement:
    """Finds the place of a job.

    Args:
        ledger: what is here.
        roots: the folders jobs may touch.
        memory: what other mediators have; None when there is no other.
    """

    def __init__(self, ledger: Ledger, roots: Roots, memory: SharedMemory | None) -> None:
        self._ledger = ledger
        self._roots = roots
        self._memory = memory

    def find(self, job: Job) -> Place:
        """Find where a job can run, and bring here what it needs if that is possible.

        Raises:
            JobRefused: it could run here, but something it names is missing or outside the roots.
            JobUnknown: what is missing may be a job that is still to come.
        """
        base = checkpoint_owner(job, self._roots)
        known = None if base is None else self._elsewhere(base)
        if self._memory is None or base is None or known is None:
            return self._here(job)
        their_logs = self._memory.log_root_of(known.mediator)
        readable = known.ended and their_logs
        if readable and bring_checkpoints(base, Path(their_logs), self._roots):
            return self._here(job)
        where = self._memory.describe(known.mediator)
        return Place(
            known.mediator,
            base_ended=known.ended,
            reason=f"the checkpoint of job {base} is at {where}, and its files cannot be read "
            "here; start that mediator again, or keep the log roots of all mediators side by side "
            "on storage they share",
        )

    def _here(self, job: Job) -> Place:
        return Place(waits_for=check_requirements(job, self._roots, self._ledger.state_of))

    def _elsewhere(self, job_id: str) -> Known | None:
        """Give the accepted job of this id if another mediator has it."""
        known = None if self._memory is None else self._memory.known(job_id)
        if self._memory is None or known is None or known.mediator == self._memory.me:
            return None
        if known.state is JobState.REJECTED:
            return None
        return known if self._ledger.state_of(job_id) in (None, JobState.REJECTED) else None
