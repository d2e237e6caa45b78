"""The supervisor with real runners, no broker: what counts, what does not, what is left."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mediator_bench import HERE, alive, wait_for

from mediator.events import Topics
from mediator.ledger import Ledger
from mediator.limits import Limits
from mediator.proc import identify
from mediator.process import RunnerCommand
from mediator.records import NewJob, ProcessIdentity, Source
from mediator.slots import make_slots
from mediator.states import JobState
from mediator.supervisor import Supervisor


class Desk:
    """A ledger, and one supervisor after another on it, each as a restarted mediator has one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = Ledger(folder, Topics("s", "e", "d"))
        self._jobs = 0
        self.restart()

    def restart(self, limits: Limits | None = None) -> None:
        """Begin anew on the same ledger; what the last one ran is left as it is."""
        argv = (sys.executable, str(HERE / "fake_runner.py"))
        command = RunnerCommand(self.folder, self.folder, (self.folder,), argv)
        self.supervisor = Supervisor(self.ledger, make_slots((), 1, 0), command, limits)
        self.supervisor.recover()

    def give(self, name: str, does: str) -> None:
        """Queue a job."""
        self._jobs += 1
        spec = json.dumps({"dataset": does})
        self.ledger.accept(Source("c", "t", 0, self._jobs), NewJob(name, "train", spec, name))
        self.ledger.mark_claimed([(name, 1)])
        self.supervisor.wake()

    def wait(self, name: str, state: JobState) -> str:
        """Work until a job is in a state; give the reason."""

        def there() -> bool:
            self.supervisor.tick()
            return self.ledger.state_of(name) is state

        wait_for(f"{name} {state}", there)
        return self.record(name).reason or ""

    def record(self, name: str):
        """Give a job's row."""
        record = self.ledger.job(name)
        assert record is not None
        return record

    def runner(self, name: str, number: int = 1) -> int:
        """Work until a job's runner is at work for the n-th time; give its process number."""
        path = self.folder / name / "runs.txt"

        def numbers() -> list[str]:
            self.supervisor.tick()
            return path.read_text().splitlines()[number - 1 :] if path.exists() else []

        return int(wait_for(f"{name} runs", numbers)[0].split()[0])

    def failure(self, name: str, below: str = "") -> dict:
        """Give a job's failure.json."""
        return json.loads((self.folder / name / below / "failure.json").read_text())

    def close(self) -> None:
        """End what runs."""
        self.supervisor.stop(0.0)
        self.supervisor.tick()
        wait_for("end", lambda: self.supervisor.tick() or not self.supervisor.running)
        self.ledger.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Give a desk."""
    desk = Desk(tmp_path)
    yield desk
    desk.close()


def test_only_the_wait_for_the_first_attempt_is_limited(desk: Desk) -> None:
    """A job that rests after a failure for longer than that is tried again all the same."""
    desk.restart(Limits(wait_s=1, max_attempts=2, backoff_s=2.2))
    desk.give("a", "exit:15")
    reason = desk.wait("a", JobState.FAILED)
    assert "exit code 15" in reason and desk.record("a").attempt == 2
    desk.give("b", "sleep:60")
    desk.runner("b")
    desk.give("c", "work")
    assert "--wait-limit-s" in desk.wait("c", JobState.TIMED_OUT)
    assert desk.record("b").state is JobState.RUNNING


def test_a_drain_costs_nothing_and_other_interruptions_are_limited(desk: Desk) -> None:
    """However often the mediator stops cleanly; a stranger's SIGTERM counts."""
    limits = Limits(max_interruptions=1)
    desk.give("a", "sleep:60")
    for drain in range(3):
        desk.runner("a", drain + 1)
        desk.supervisor.stop(5.0)
        desk.wait("a", JobState.INTERRUPTED)
        desk.restart(limits)
    assert (desk.record("a").attempt, desk.record("a").interruptions) == (3, 0)
    for stranger in range(2):
        os.kill(desk.runner("a", 4 + stranger), signal.SIGTERM)
    reason = desk.wait("a", JobState.FAILED)
    assert "broken off 2 times" in reason and "limit 1" in reason


def test_a_runner_that_cannot_say_why_it_failed_has_it_said(desk: Desk) -> None:
    """Killed: each attempt has its failure.json, which the event tells too."""
    desk.restart(Limits(max_attempts=2, backoff_s=0.05))
    desk.give("a", "sleep:60")
    for number in (1, 2):
        os.kill(desk.runner("a", number), signal.SIGKILL)
    reason = desk.wait("a", JobState.FAILED)
    for below in ("attempts/1", ""):
        failure = desk.failure("a", below)
        assert (failure["kind"], failure["exit_code"], failure["traceback"]) == ("killed", -9, None)
        assert failure["message"] == reason and "SIGKILL" in reason
    (told,) = [
        event
        for entry in desk.ledger.unsent(0, 10**6)
        if entry.topic == "e" and (event := json.loads(entry.payload))["state"] == "failed"
    ]
    assert told["data"]["failure"]["kind"] == "killed"


@pytest.mark.parametrize(
    ("does", "kind"), [("noresult", "no_result"), ("exit:99", "unknown"), ("fail", "bad_data")]
)
def test_what_a_runner_says_itself_stays(desk: Desk, does: str, kind: str) -> None:
    """Only what is missing is added."""
    desk.give("a", does)
    desk.wait("a", JobState.FAILED)
    assert desk.failure("a")["kind"] == kind
    assert (desk.failure("a")["traceback"] == "...") == (does == "fail")


def test_a_job_out_of_time_leaves_a_failure_that_outlives_a_crash(desk: Desk) -> None:
    """A mediator killed before it wrote the end down comes to the same end from the file."""
    desk.restart(Limits(run_s=0.3))
    desk.give("a", "sleep:60")
    began = desk.wait("a", JobState.RUNNING)
    reason = desk.wait("a", JobState.TIMED_OUT)
    assert desk.failure("a") == {**desk.failure("a"), "kind": "timed_out", "message": reason}
    assert not began
    desk.ledger._connection.execute("UPDATE jobs SET state='running' WHERE job_id='a'")
    desk.restart()
    assert desk.wait("a", JobState.TIMED_OUT) == reason


def test_a_forged_process_number_harms_no_stranger(desk: Desk) -> None:
    """The number led a stranger's session once, whose child lives on: neither is the job's."""
    leader = subprocess.Popen(
        ["sh", "-c", "sleep 222 & echo $!"], start_new_session=True, stdout=subprocess.PIPE
    )
    assert leader.stdout is not None
    child = int(leader.stdout.readline())
    stranger, there = identify(leader.pid), identify(child)
    leader.wait()
    try:
        assert there is not None
        desk.give("a", "work")
        (desk.folder / "a").mkdir()
        desk.ledger.begin_run("a", "work-0", "f" * 32)
        ticks = there.start_ticks if stranger is None else stranger.start_ticks
        forged = ProcessIdentity(there.boot_id, leader.pid, ticks)
        desk.ledger.record_process("a", forged)
        desk.restart(Limits(max_attempts=1))
        assert desk.supervisor.running == ()
        assert "runner gone" in desk.wait("a", JobState.FAILED)
        assert desk.failure("a")["kind"] == "lost"
        time.sleep(0.1)
        assert alive(child)
    finally:
        os.kill(child, signal.SIGKILL)
