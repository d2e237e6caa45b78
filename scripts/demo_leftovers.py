"""Owns what a demo may leave in the log root: its unfinished jobs, and runners without a mediator.

A job that was interrupted is queued again by the next mediator. That is right for a user's job and
wrong for the demo's, which nobody waits for any more: those are cancelled.
"""

import re
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from mediator.assembly import topics_of
from mediator.ledger import Ledger
from mediator.ledger_file import LEDGER_NAME, hold_lock
from mediator.proc import identify, is_alive, living, send_signal
from mediator.records import ProcessIdentity
from mediator.states import JobState

OWN_JOB = re.compile(r"demo-(train|eval|view)-\d{8}T\d{6}")
POLL_S = 0.1


def runners_of(folders: Iterable[Path]) -> list[ProcessIdentity]:
    """Return the living runner processes of jobs, found by the job file in their command line."""
    wanted = {str(folder / "job.json").encode() for folder in folders}
    found = []
    for stat in living():
        try:
            arguments = Path(f"/proc/{stat.pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        identity = identify(stat.pid) if wanted & set(arguments) else None
        if identity is not None:
            found.append(identity)
    return found


def end_runners(folders: Iterable[Path], grace_s: float) -> None:
    """End runners that outlived their mediator: SIGTERM, the grace, SIGKILL.

    Args:
        folders: the jobs' folders.
        grace_s: time to end, s.
    """
    left = runners_of(folders)
    for runner in left:
        send_signal(runner, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while any(map(is_alive, left)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    for runner in left:
        send_signal(runner, signal.SIGKILL)


def clear_leftovers(logs: Path, topic: str, grace_s: float) -> None:
    """End the runners and cancel the unfinished jobs of this and earlier demos.

    Args:
        logs: the log root; no mediator may be running in it.
        topic: the jobs topic.
        grace_s: time for a runner to end, s.

    Raises:
        MediatorError: a mediator holds the log root, or the ledger is damaged; one line.
    """
    if not (logs / LEDGER_NAME).exists():
        return
    with hold_lock(logs):
        own = [folder for folder in logs.iterdir() if OWN_JOB.fullmatch(folder.name)]
        end_runners(own, grace_s)
        ledger = Ledger(logs, topics_of(topic))
        try:
            for job in ledger.jobs(JobState.QUEUED, JobState.RUNNING, JobState.INTERRUPTED):
                if OWN_JOB.fullmatch(job.job_id):
                    ledger.move(job.job_id, JobState.CANCELLED, reason="the demo was stopped")
        finally:
            ledger.close()
