"""Owns how jobs are listed: a table for people, JSON for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from rich.console import Console
from rich.table import Column, Table

from mediator.records import JobRecord

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


def print_table(jobs: Sequence[JobRecord], console: Console) -> None:
    """Print the jobs as a table, in the order they came; below it, why some did not succeed."""
    table = Table(
        Column("job", overflow="fold"),
        *(Column(name, no_wrap=True) for name in ("op", "state", "try", "received", "took")),
        box=None,
        pad_edge=False,
    )
    for job in jobs:
        table.add_row(
            job.job_id,
            job.op,
            job.state,
            str(job.attempt),
            job.received_at.replace("T", " ")[5:19],
            _duration(job.started_at, job.ended_at),
        )
    console.print(table)
    for job in jobs:
        if job.reason:
            about = f"{job.job_id}: {job.reason}"
            console.print(about, markup=False, highlight=False, soft_wrap=True)


def _duration(started_at: str | None, ended_at: str | None) -> str:
    if started_at is None or ended_at is None:
        return ""
    seconds = datetime.fromisoformat(ended_at) - datetime.fromisoformat(started_at)
    return f"{seconds.total_seconds():.1f} s"
