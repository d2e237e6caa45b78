"""The supervisor with real runners and a stand-in for what a GPU says."""

import sys
import time
from pathlib import Path

import pytest
from mediator_bench import HERE, alive, wait_for

from mediator.events import Topics
from mediator.ledger import Ledger
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


@pytest.mark.parametrize(("devices", "held"), [(("0",), True), ((), False), (None, True)])
def test_the_next_job_waits_until_the_gpu_is_free(
    tmp_path: Path, devices: tuple[str, ...] | None, held: bool
) -> None:
    """The first job's end is told at once; its slot is given on when the driver has let go."""
    ledger = Ledger(tmp_path, Topics("s", "e", "d"))
    gpu = Gpu()
    command = RunnerCommand(
        tmp_path, tmp_path, (tmp_path,), (sys.executable, str(HERE / "fake_runner.py"))
    )
    supervisor = Supervisor(ledger, make_slots(devices, 1, 0), command, gpus=gpu)
    for number, name in enumerate("ab"):
        spec = '{"dataset": "work"}' if name == "b" else f'{{"dataset": "hold:{tmp_path}/go"}}'
        ledger.accept(Source("c", "t", 0, number), NewJob(name, "train", spec, name))
    ledger.mark_claimed([("a", 1), ("b", 1)])

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
