"""Owns the states of a job and which change may follow which.

A job begins as RECEIVED inside the transaction that takes its message, and leaves it in the same
transaction as QUEUED or REJECTED. INTERRUPTED is not an end: the runner has saved its work and the
job is queued again. REJECTED is an end that only a new message under the same job id can leave, so
that a corrected job may keep its name; FAILED, CANCELLED and TIMED_OUT are ends that only a request
to retry can leave. Both begin a new epoch of the job, and an epoch has exactly one end.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from mediator.errors import TransitionError


class JobState(StrEnum):
    """Where a job stands."""

    RECEIVED = "received"
    REJECTED = "rejected"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"


_S = JobState

TRANSITIONS: Mapping[JobState, frozenset[JobState]] = MappingProxyType(
    {
        _S.RECEIVED: frozenset({_S.QUEUED, _S.REJECTED}),
        _S.REJECTED: frozenset({_S.RECEIVED}),
        # a queued job fails when the job whose checkpoint it waits for fails
        _S.QUEUED: frozenset({_S.RUNNING, _S.FAILED, _S.CANCELLED, _S.TIMED_OUT}),
        # running -> queued: the mediator died before the runner's process existed
        _S.RUNNING: frozenset(
            {_S.SUCCEEDED, _S.FAILED, _S.CANCELLED, _S.TIMED_OUT, _S.INTERRUPTED, _S.QUEUED}
        ),
        _S.INTERRUPTED: frozenset({_S.QUEUED, _S.FAILED, _S.CANCELLED, _S.TIMED_OUT}),
        _S.SUCCEEDED: frozenset(),
        _S.FAILED: frozenset({_S.RECEIVED}),
        _S.CANCELLED: frozenset({_S.RECEIVED}),
        _S.TIMED_OUT: frozenset({_S.RECEIVED}),
    }
)

ENDED: frozenset[JobState] = frozenset(
    {_S.REJECTED, _S.SUCCEEDED, _S.FAILED, _S.CANCELLED, _S.TIMED_OUT}
)


def check_transition(job_id: str, old: JobState, new: JobState) -> None:
    """Allow a change of state, or raise.

    Raises:
        TransitionError: the table does not allow it; names the job and both states.
    """
    if new not in TRANSITIONS[old]:
        allowed = ", ".join(sorted(TRANSITIONS[old])) or "nothing: it has ended"
        raise TransitionError(f"job {job_id}: {old} -> {new} is not allowed (allowed: {allowed})")
