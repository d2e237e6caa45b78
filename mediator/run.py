"""Owns what the mediator holds of one running job in memory."""

from dataclasses import dataclass, field

from mediator.limits import Watchdog
from mediator.process import RunnerProcess
from mediator.progress import ProgressTail, ProgressThinner
from mediator.states import JobState


@dataclass
class Run:
    """One running job: its process, its slot, and what of its progress was told.

    Attributes:
        job_id: the job.
        slot: the slot's name.
        process: its process.
        tail: reads its progress.
        watchdog: tells when it is out of time.
        thinner: what of the progress is told.
        asked_to_stop: the mediator stops, and this run with it.
        kill_due: when it is killed, monotonic seconds.
        end_as: the state it was made to end in, and why.
        given_up: another mediator has the job; nothing is told of this run.
    """

    job_id: str
    slot: str
    process: RunnerProcess
    tail: ProgressTail
    watchdog: Watchdog
    thinner: ProgressThinner = field(default_factory=ProgressThinner)
    asked_to_stop: bool = False
    kill_due: float | None = None
    end_as: tuple[JobState, str] | None = None
    given_up: bool = False
