"""How long jobs may take, how much they may say, and what is tried again."""

import json
from pathlib import Path

import pytest

from configs import JobFolder
from configs.exit_codes import ExitCode
from mediator.events import EventKind
from mediator.limits import LONGEST_PAUSE_S, Limits, Watchdog
from mediator.states import JobState
from mediator.verdict import Ending, judge


def progress(step: int) -> list:
    """Give a report of a step."""
    return [(EventKind.PROGRESS, {"phase": "train", "step": step})]


def test_progress_is_a_new_step_not_mere_life() -> None:
    """The same step again is no progress; a new one is."""
    now = [100.0]
    dog = Watchdog(Limits(progress_s=10), 100.0, lambda: now[0])
    now[0] = 108.0
    dog.see(progress(1))
    now[0] = 115.0
    assert dog.overdue() is None
    dog.see(progress(1))
    now[0] = 119.0
    assert "--progress-limit-s" in (dog.overdue() or "")
    dog.see(progress(2))
    assert dog.overdue() is None


def test_an_attempt_may_run_only_so_long() -> None:
    """Whatever progress it makes."""
    now = [0.0]
    dog = Watchdog(Limits(run_s=5), 0.0, lambda: now[0])
    now[0] = 5.1
    dog.see(progress(3))
    assert "ran for longer than 5 s" in (dog.overdue() or "")
    assert Watchdog(Limits(), 0.0, lambda: 1e9).overdue() is None


def test_pauses_double_up_to_a_limit() -> None:
    """A job that fails again and again is not tried in a tight loop."""
    limits = Limits(backoff_s=2)
    assert [limits.pause_s(n) for n in (1, 2, 3)] == [2, 4, 8]
    assert limits.pause_s(60) == LONGEST_PAUSE_S


@pytest.mark.parametrize(
    ("code", "kind", "heals"),
    [
        (-9, None, True),
        (None, None, True),
        (None, "killed", True),
        (None, "lost", True),
        (ExitCode.PORT_IN_USE, "port_in_use", True),
        (ExitCode.DISK_FULL, "disk_full", True),
        (ExitCode.BAD_DATA, "bad_data", False),
        (ExitCode.NON_FINITE, "non_finite", False),
        (ExitCode.OUT_OF_MEMORY, "out_of_memory", False),
        (ExitCode.INTERNAL, "internal", False),
        (ExitCode.OK, None, False),
    ],
)
def test_only_what_may_heal_is_tried_again(
    tmp_path: Path, code: int | None, kind: str | None, heals: bool
) -> None:
    """Bad data, NaN and want of memory come back the same; a kill or a taken port need not."""
    if kind is not None:
        (tmp_path / "failure.json").write_text(json.dumps({"kind": kind, "message": "m"}))
    verdict = judge(JobFolder(tmp_path), Ending(code))
    assert (verdict.state, verdict.may_heal) == (JobState.FAILED, heals)


@pytest.mark.parametrize("code", [0, None, -9])
def test_a_result_counts_even_if_the_runner_was_killed_after_it(
    tmp_path: Path, code: int | None
) -> None:
    """It is written last, so the work is done and is not done again."""
    (tmp_path / "result.json").write_text("{}")
    assert judge(JobFolder(tmp_path), Ending(code)).state is JobState.SUCCEEDED
