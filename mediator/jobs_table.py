"""Owns how jobs are listed: a table for people, JSON for programs."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Column, Table

from mediator.records import JobRecord
from mediator.states import JobState

_LISTED = (
    "job_id",
    "op",
    "state",
    "attempt",
    "waits_for",
    "slot",
    "received_at",
    "started_at",
    "ended_at",
    "exit_code",
    "reason",
)


def as_json(jobs: Sequence[JobRecord]) -> str:
    """Give the jobs as a JSON list of objects, in the order they came."""
    rows = [asdict(job) for job in jobs]
    return json.dumps([{name: row[name] for name in _LISTED} for row in rows], indent=2)


def print_table(
    jobs: Sequence[JobRecord], console: Console, progress: Callable[[str], str] = lambda _: ""
) -> None:
    """Print the jobs as a table, in the order they came; below it, why some did not succeed.

    Args:
        jobs: what to print.
        console: where.
        progress: how far a running job is, in words.
    """
    table = Table(
        Column("job", overflow="fold"),
        *(Column(name, no_wrap=True) for name in ("op", "state", "try", "received", "took")),
        Column("progress", overflow="fold"),
        box=None,
        pad_edge=False,
    )
    for job in jobs:
        table.add_row(
            job.job_id,
            job.op,
            job.state,
            str(job.attempt),
            local_time(job.received_at),
            _duration(job),
            progress(job.job_id) if job.state is JobState.RUNNING else "",
        )
    console.print(table)
    for job in jobs:
        if job.reason:
            about = f"{job.job_id}: {job.reason}"
            console.print(about, markup=False, highlight=False, soft_wrap=True)


def local_time(text: str) -> str:
    """Give an ISO 8601 time as month, day and time of the reader's own clock."""
    return datetime.fromisoformat(text).astimezone().strftime("%m-%d %H:%M:%S")


def _duration(job: JobRecord) -> str:
    """Give how long the latest attempt took, or takes so far."""
    running = job.state is JobState.RUNNING
    if job.started_at is None or (job.ended_at is None and not running):
        return ""
    ended = datetime.fromisoformat(job.ended_at) if job.ended_at else datetime.now(UTC)
    seconds = (ended - datetime.fromisoformat(job.started_at)).total_seconds()
    return f"{seconds:.1f} s"
