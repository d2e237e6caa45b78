"""The supervisor with real runners and a stand-in for what a GPU says."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from mediator_bench import HERE, alive, wait_for

from mediator.events import Topics
from mediator.ledger import Ledger
from mediator.proc import boot_id
from mediator.process import RunnerCommand
from mediator.records import NewJob, Source
from mediator.slots import make_slots
from mediator.states import JobState
from mediator.supervisor import Supervisor


class Gpu:
    """Lists the processes it was told of."""

    busy: frozenset[int] = frozenset()

    def look(self) -> frozenset[int]:
        """Give them."""
        return self.busy


def queue(ledger: Ledger, folder: Path, *names: str) -> None:
    """Queue jobs: the first works until the file `go` is there, the others hardly."""
    for number, name in enumerate(names):
        does = "work" if number else f"hold:{folder}/go"
        new = NewJob(name, "train", json.dumps({"dataset": does}), name)
        ledger.accept(Source("c", "t", 0, number), new)
    ledger.mark_claimed([(name, 1) for name in names])


def begin(ledger: Ledger, folder: Path, devices: tuple[str, ...] | None, gpu: Gpu) -> Supervisor:
    """Give a supervisor that has looked after what an earlier one left."""
    argv = (sys.executable, str(HERE / "fake_runner.py"))
    command = RunnerCommand(folder, folder, (folder,), argv)
    supervisor = Supervisor(ledger, make_slots(devices, 1, 0), command, gpus=gpu)
    supervisor.recover()
    return supervisor


@pytest.mark.parametrize(("devices", "held"), [(("0",), True), ((), False), (None, True)])
def test_the_next_job_waits_until_the_gpu_is_free(
    tmp_path: Path, devices: tuple[str, ...] | None, held: bool
) -> None:
    """The first job's end is told at once; its slot is given on when the driver has let go."""
    ledger = Ledger(tmp_path, Topics("s", "e", "d"))
    gpu = Gpu()
    supervisor = begin(ledger, tmp_path, devices, gpu)
    queue(ledger, tmp_path, "a", "b")

    def state(name: str) -> JobState | None:
        supervisor.tick()
        return ledger.state_of(name)

    wait_for("a runs", lambda: state("a") is JobState.RUNNING)
    job = ledger.job("a")
    assert job is not None and job.process is not None
    first = job.process.pid
    gpu.busy = frozenset({first})
    (tmp_path / "go").write_text("")
    wait_for("a is done", lambda: state("a") is JobState.SUCCEEDED)
    assert not alive(first)
    if held:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert state("b") is JobState.QUEUED
            time.sleep(0.02)
        gpu.busy = frozenset()
    wait_for("b is done", lambda: state("b") is JobState.SUCCEEDED)
    ledger.close()


@pytest.mark.parametrize("layout", [("0",), ("1",)])
@pytest.mark.parametrize("how", ["its end", "a kill", "a kill of both"])
def test_a_restarted_mediator_waits_for_the_gpu_too(
    tmp_path: Path, how: str, layout: tuple[str, ...]
) -> None:
    """Whatever the last one saw of the job's end, and whichever GPUs the slots have now."""
    ledger = Ledger(tmp_path, Topics("s", "e", "d"))
    gpu = Gpu()
    queue(ledger, tmp_path, "a", "b")
    supervisors = [begin(ledger, tmp_path, ("0",), gpu)]

    def state(name: str) -> JobState | None:
        supervisors[-1].tick()
        return ledger.state_of(name)

    wait_for("a runs", lambda: state("a") is JobState.RUNNING)
    job = ledger.job("a")
    assert job is not None and job.process is not None
    runner = job.process.pid
    gpu.busy = frozenset({runner})
    if how == "a kill of both":
        os.kill(runner, signal.SIGKILL)
        wait_for("a is gone", lambda: not alive(runner))
    elif how == "its end":
        (tmp_path / "go").write_text("")
        wait_for("a is done", lambda: state("a") is JobState.SUCCEEDED)
    supervisors.append(begin(ledger, tmp_path, layout, gpu))
    if how == "a kill":
        (tmp_path / "go").write_text("")
        wait_for("a is done", lambda: state("a") is JobState.SUCCEEDED)
    until = time.monotonic() + 0.7
    while time.monotonic() < until:
        assert state("b") is JobState.QUEUED
        time.sleep(0.02)
    (tmp_path / "go").write_text("")
    gpu.busy = frozenset()
    wait_for("b is done", lambda: state("b") is JobState.SUCCEEDED)
    wait_for(
        "no slot is held", lambda: supervisors[-1].tick() or not ledger.slot_processes(boot_id())
    )
    ledger.close()
