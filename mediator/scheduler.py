"""Owns the choice of which queued job runs next, as a pure function of what is known.

Jobs of one pool start in the order they came. A job that starts from the checkpoint of another job
waits until that one has succeeded and lets later jobs pass meanwhile; it fails when the other
ended in any other way.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from mediator.records import Waiting
from mediator.slots import Pool
from mediator.states import ENDED, JobState


@dataclass(frozen=True)
class Plan:
    """What to do now.

    Attributes:
        start: jobs to start, in order, each with the pool it takes a slot of.
        fail: jobs that can never start, each with its reason.
    """

    start: tuple[tuple[str, Pool], ...]
    fail: tuple[tuple[str, str], ...]


def plan(
    waiting: Iterable[Waiting],
    free: Mapping[Pool, int],
    state_of: Callable[[str], JobState | None],
) -> Plan:
    """Choose the jobs to start and those to give up.

    Args:
        waiting: queued jobs in the order they should run.
        free: number of free slots of each pool.
        state_of: a job's state; None when the ledger does not know it (any more).

    Returns:
        The plan; at most `free` jobs of each pool start.
    """
    left = dict(free)
    start: list[tuple[str, Pool]] = []
    fail: list[tuple[str, str]] = []
    for job in waiting:
        blocker = None if job.waits_for is None else state_of(job.waits_for)
        if blocker in ENDED and blocker is not JobState.SUCCEEDED:
            fail.append((job.job_id, _lost_checkpoint(job.waits_for, blocker)))
        elif blocker in (None, JobState.SUCCEEDED) and left.get(pool_of(job), 0) > 0:
            left[pool_of(job)] -= 1
            start.append((job.job_id, pool_of(job)))
    return Plan(tuple(start), tuple(fail))


def pool_of(job: Waiting) -> Pool:
    """Give the pool whose slot a job takes."""
    return Pool.VIEW if job.shares else Pool.WORK


def _lost_checkpoint(blocker: str | None, state: JobState | None) -> str:
    return (
        f"checkpoint_path: job {blocker} ended as {state}, so there is no checkpoint to start "
        "from; run that job again under another job_id and name it here"
    )
