"""Owns the judgement of an ended runner: which state its job goes to, and why.

What counts, in this order: the exit code when this mediator saw it, then `result.json` (written
last by a runner that did its work) and `failure.json` (kind and message). A runner that this
mediator asked to stop is interrupted, not failed: its job is queued again.
"""

import json
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.artifacts import JobFolder
from configs.exit_codes import ExitCode
from mediator.states import JobState

_READ_LIMIT_BYTES = 4 * 1024 * 1024
# what the mediator writes for a runner that could not (`failure_record`)
KILLED, LOST, NOT_STARTED = "killed", "lost", "not_started"
_HEALING = (ExitCode.PORT_IN_USE, ExitCode.DISK_FULL)
_HEALING_KINDS = {KILLED, LOST, NOT_STARTED, *(code.kind for code in _HEALING)}
_ASKED_FOR = {state.value: state for state in (JobState.CANCELLED, JobState.TIMED_OUT)}
_GONE = "mediator restarted; runner gone"


@dataclass(frozen=True)
class Ending:
    """How a runner ended, as far as this mediator saw.

    Attributes:
        exit_code: as `subprocess` gives it (negative: a signal); None for a runner found again
            after a restart, whose exit code nobody was there to see.
        asked_to_stop: this mediator sent it SIGTERM.
        killed: this mediator had to kill something of its tree.
        keeper_killed: the exit code is the keeper's, killed by somebody while the runner lived.
    """

    exit_code: int | None
    asked_to_stop: bool = False
    killed: bool = False
    keeper_killed: bool = False


@dataclass(frozen=True)
class Verdict:
    """What becomes of a job.

    Attributes:
        state: the state it goes to.
        reason: why, in one line; None for success.
        data: the event's data.
        may_heal: the same job may succeed if it is tried again.
    """

    state: JobState
    reason: str | None
    data: dict[str, Any] = field(default_factory=dict)
    may_heal: bool = False


def judge(folder: JobFolder, ending: Ending) -> Verdict:
    """Judge an ended runner.

    Args:
        folder: the job's folder, holding only files of this attempt.
        ending: how the runner ended.
    """
    result = read_object(folder.result_json)
    failure = read_object(folder.failure_json)
    code = ending.exit_code
    # written last, so whoever was killed after it has done its work and must not do it again
    if result is not None and (code is None or code == ExitCode.OK or code < 0):
        return Verdict(JobState.SUCCEEDED, None, _told_of(result))
    if code == ExitCode.INTERRUPTED or _kind_of(failure) == ExitCode.INTERRUPTED.kind:
        reason = _message_of(failure) or ExitCode.INTERRUPTED.meaning
        return Verdict(JobState.INTERRUPTED, reason)
    if ending.asked_to_stop and (code is None or code < 0):
        how = "killed after its grace" if ending.killed else "ended before it saved its work"
        return Verdict(JobState.INTERRUPTED, f"asked to stop; {how}")
    reason = _message_of(failure) or _meaning_of(code, ending.keeper_killed)
    if (state := _ASKED_FOR.get(_kind_of(failure) or "")) is not None:
        return Verdict(state, reason)
    data = {} if failure is None else {"failure": failure}
    return Verdict(JobState.FAILED, reason, data, _may_heal(failure, code))


def _may_heal(failure: dict[str, Any] | None, code: int | None) -> bool:
    """Tell whether trying again can help: never for what lies in the job or its data."""
    if failure is not None:
        return _kind_of(failure) in _HEALING_KINDS
    return code is None or code < 0 or code in _HEALING


def _told_of(result: dict[str, Any]) -> dict[str, Any]:
    return {"artifacts": result.get("artifacts", []), "result": result}


def _meaning_of(code: int | None, keeper_killed: bool) -> str:
    if code is None:
        return _GONE
    if code == ExitCode.OK:
        return "the runner ended with exit code 0 but wrote no result.json; see runner.log"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = " (out of memory?)" if -code == signal.SIGKILL else ""
        # a keeper ends by its runner's signal, so one that is killed itself looks the same unless
        # its runner was seen to live on
        if not keeper_killed:
            return f"the runner or its keeper was killed by {name}{hint}; see runner.log"
        return f"the runner's keeper was killed by {name}{hint}, the runner with it; see runner.log"
    known = {member.value: member for member in ExitCode}.get(code)
    meaning = "undocumented" if known is None else known.meaning
    return f"the runner ended with exit code {code} ({meaning}); see runner.log"


def _kind_of(failure: dict[str, Any] | None) -> str | None:
    return None if failure is None else str(failure.get("kind"))


def _message_of(failure: dict[str, Any] | None) -> str | None:
    message = None if failure is None else failure.get("message")
    return str(message) if message else None


def read_object(path: Path) -> dict[str, Any] | None:
    """Give the JSON object in a file; None when there is none, or only the beginning of one."""
    try:
        with path.open("rb") as handle:
            record = json.loads(handle.read(_READ_LIMIT_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
