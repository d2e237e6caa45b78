"""Owns messages about jobs that are there already: `{"op": "cancel", "job_id": ...}`, and retry."""

from typing import Literal

from pydantic import Field

from configs.common import JobFields, JobId

CONTROL_OPS = ("cancel", "retry")


class ControlRequest(JobFields):
    """A request to end a job, or to run one anew that has ended without success."""

    op: Literal["cancel", "retry"] = Field(
        description="cancel = end the job, whether it waits, runs or is still to come; "
        "retry = run it anew after it failed, timed out or was cancelled"
    )
    job_id: JobId
