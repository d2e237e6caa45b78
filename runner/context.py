"""Owns what an operation is given."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from configs import EvalJob, JobFolder, TrainJob, VideoJob, ViewJob
from runner.inputs import Inputs
from runner.progress import ProgressWriter
from runner.stopping import StopRequest

JobT = TypeVar("JobT", bound=TrainJob | EvalJob | ViewJob | VideoJob, covariant=True)


@dataclass(frozen=True)
class JobContext(Generic[JobT]):
    """One job at work.

    Attributes:
        job: the parsed spec.
        job_id: its name.
        folder: where its artifacts go.
        inputs: the folders it reads, checked.
        progress: where it tells how far it is.
        stop: whether it was asked to stop.
    """

    job: JobT
    job_id: str
    folder: JobFolder
    inputs: Inputs
    progress: ProgressWriter
    stop: StopRequest


Operation = Callable[[JobContext[Any]], dict[str, Any]]
Operations = Mapping[str, Operation]
