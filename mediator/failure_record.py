"""Owns the failure.json of a run whose runner could not write one: killed, lost, out of time.

A runner that ends by itself leaves its own, with a traceback (`runner/failures.py`); this one has
the same fields.
"""

import dataclasses
import json
import logging
from typing import Any

from configs.artifacts import JobFolder
from configs.exit_codes import ExitCode
from mediator.job_folder import write_private
from mediator.states import JobState
from mediator.text import one_line, utc_now
from mediator.verdict import KILLED, LOST, Verdict, read_object

NO_RESULT, UNKNOWN = "no_result", "unknown"
_log = logging.getLogger("mediator")


def leave_failure(
    folder: JobFolder, verdict: Verdict, exit_code: int | None, kind: str | None = None
) -> Verdict:
    """Write failure.json for a run that did not succeed and left none.

    Args:
        folder: the job's folder.
        verdict: what becomes of the job.
        exit_code: the runner's (negative: a signal); None where nobody was there to see it.
        kind: the word for what happened; None to tell it from the rest.

    Returns:
        The verdict, with the record in its data if the job failed.
    """
    if verdict.state is JobState.SUCCEEDED or read_object(folder.failure_json) is not None:
        return verdict
    record = {
        "kind": kind or _kind(verdict.state, exit_code),
        "message": one_line(verdict.reason or ""),
        "exit_code": exit_code,
        "errors": [],
        "traceback": None,
        "time": utc_now(),
    }
    try:
        write_private(folder.failure_json, json.dumps(record, indent=1) + "\n")
    except OSError as error:
        _log.warning("%s: cannot be written (%s); the ledger has the reason",
                     folder.failure_json, error)  # fmt: skip
    if verdict.state is not JobState.FAILED:
        return verdict
    data: dict[str, Any] = {**verdict.data, "failure": record}
    return dataclasses.replace(verdict, data=data)


def _kind(state: JobState, exit_code: int | None) -> str:
    """Give the word for what happened; `judge` reads it after a restart."""
    if state is not JobState.FAILED:
        return state.value
    if exit_code is None:
        return LOST
    if exit_code < 0:
        return KILLED
    if exit_code == ExitCode.OK:
        return NO_RESULT
    known = {member.value: member.kind for member in ExitCode}
    return known.get(exit_code, UNKNOWN)
