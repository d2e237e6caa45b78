"""Following a runner's progress file, and judging its end."""

import json
from pathlib import Path

import pytest

from configs.artifacts import JobFolder
from mediator.events import EventKind
from mediator.progress import READ_LIMIT_BYTES, ProgressTail, ProgressThinner
from mediator.states import JobState
from mediator.verdict import Ending, judge

STEP = EventKind.PROGRESS


def line(step: int) -> bytes:
    """Give a progress line."""
    return json.dumps({"event": "progress", "step": step}).encode() + b"\n"


def test_lines_are_read_once_and_only_when_complete(tmp_path: Path) -> None:
    """Half a line waits for its other half."""
    path = tmp_path / "progress.jsonl"
    tail = ProgressTail(path, 0)
    assert tail.read_new() == []
    path.write_bytes(line(1) + line(2)[:9])
    assert tail.read_new() == [(STEP, {"step": 1})]
    assert tail.read_new() == []
    path.write_bytes(line(1) + line(2))
    assert tail.read_new() == [(STEP, {"step": 2})]
    assert ProgressTail(path, tail.offset).read_new() == []


def test_what_is_no_event_is_counted_and_passed_over(tmp_path: Path) -> None:
    """Broken lines, other shapes and unknown names do not stop the rest."""
    path = tmp_path / "progress.jsonl"
    path.write_bytes(b'{bad\n[1]\n{"event": "dance"}\n\xff\n' + b"[" * 99_999 + b"\n" + line(7))
    tail = ProgressTail(path, 0)
    assert tail.read_new() == [(STEP, {"step": 7})]
    assert tail.bad_lines == 5


def test_an_endless_line_is_skipped(tmp_path: Path) -> None:
    """Memory stays bounded, and what follows is read."""
    path = tmp_path / "progress.jsonl"
    path.write_bytes(b"x" * (2 * READ_LIMIT_BYTES + 5) + b"\n" + line(1))
    tail = ProgressTail(path, 0)
    reports = [report for _ in range(4) for report in tail.read_new()]
    assert reports == [(STEP, {"step": 1})]


def test_a_file_begun_anew_is_read_from_its_start(tmp_path: Path) -> None:
    """As when the runner starts over."""
    path = tmp_path / "progress.jsonl"
    path.write_bytes(line(1) + line(2))
    tail = ProgressTail(path, 0)
    tail.read_new()
    path.write_bytes(line(3))
    assert tail.read_new() == [(STEP, {"step": 3})]


def test_one_progress_a_second_and_always_the_newest() -> None:
    """Everything else passes at once, after the progress that came before it."""
    thinner = ProgressThinner()
    steps = [(STEP, {"step": n}) for n in range(5)]
    saved = (EventKind.CHECKPOINT, {"path": "c"})
    assert thinner.pass_on(steps[:2], 10.0) == [steps[1]]
    assert thinner.pass_on([steps[2]], 10.5) == []
    assert thinner.pass_on([], 11.1) == [steps[2]]
    assert thinner.pass_on([steps[3], saved, steps[4]], 11.2) == [steps[3], saved]
    assert thinner.release() == [steps[4]]
    assert thinner.release() == []


RESULT = {"artifacts": ["checkpoints/step5"], "psnr": 20.5}
FAILURE = {"kind": "bad_data", "message": "image 7 is missing"}
INTERRUPTED = {"kind": "interrupted", "message": "stopped by SIGTERM; saved step 9"}


@pytest.mark.parametrize(
    ("ending", "result", "failure", "state", "words"),
    [
        (Ending(0), RESULT, None, JobState.SUCCEEDED, None),
        (Ending(0), None, None, JobState.FAILED, "no result.json"),
        (Ending(11), None, FAILURE, JobState.FAILED, "image 7 is missing"),
        (Ending(11), None, None, JobState.FAILED, "exit code 11 (the dataset"),
        (Ending(14), RESULT, None, JobState.FAILED, "memory"),
        (Ending(99), None, None, JobState.FAILED, "99 (undocumented)"),
        (Ending(-9), None, None, JobState.FAILED,
         "the runner or its keeper was killed by SIGKILL (out of memory?)"),
        (Ending(-9, keeper_killed=True), None, None, JobState.FAILED,
         "the runner's keeper was killed by SIGKILL (out of memory?), the runner with it"),
        (Ending(-11), None, None, JobState.FAILED, "SIGSEGV"),
        (Ending(75), None, INTERRUPTED, JobState.INTERRUPTED, "saved step 9"),
        (Ending(75), None, None, JobState.INTERRUPTED, "SIGTERM"),
        (Ending(-15, asked_to_stop=True), None, None, JobState.INTERRUPTED, "before it saved"),
        (Ending(-9, True, True), None, None, JobState.INTERRUPTED, "killed after its grace"),
        (Ending(0, asked_to_stop=True), RESULT, None, JobState.SUCCEEDED, None),
        (Ending(13, asked_to_stop=True), None, FAILURE, JobState.FAILED, "image 7"),
        (Ending(None), RESULT, None, JobState.SUCCEEDED, None),
        (Ending(None), None, FAILURE, JobState.FAILED, "image 7"),
        (Ending(None), None, INTERRUPTED, JobState.INTERRUPTED, "saved step 9"),
        (Ending(None), None, None, JobState.FAILED, "mediator restarted; runner gone"),
        (Ending(None, asked_to_stop=True), None, None, JobState.INTERRUPTED, "asked to stop"),
    ],
)  # fmt: skip
def test_verdicts(tmp_path: Path, ending: Ending, result, failure, state, words) -> None:
    """Exit code and files decide together."""
    folder = JobFolder(tmp_path)
    if result is not None:
        folder.result_json.write_text(json.dumps(result))
    if failure is not None:
        folder.failure_json.write_text(json.dumps(failure))
    verdict = judge(folder, ending)
    assert verdict.state is state
    assert verdict.reason is None if words is None else words in str(verdict.reason)
    if state is JobState.SUCCEEDED:
        assert verdict.data["artifacts"] == RESULT["artifacts"]


def test_a_cut_result_is_no_success(tmp_path: Path) -> None:
    """A runner that died while writing did not succeed."""
    folder = JobFolder(tmp_path)
    folder.result_json.write_text('{"artifacts": [')
    assert judge(folder, Ending(0)).state is JobState.FAILED
    folder.result_json.write_text("[]")
    assert judge(folder, Ending(None)).state is JobState.FAILED
