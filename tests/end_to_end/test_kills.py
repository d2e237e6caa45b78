"""kill -9 in the middle of a real training: of the runner, and of the mediator."""

import os
import re
import signal
from pathlib import Path

from mediator_bench import alive, end, wait_for
from running_system import System, small_train


def test_a_killed_runner_frees_its_slot_and_its_job_is_tried_again(system: System) -> None:
    """The reason names the signal and the log; the job that waited runs first."""
    system.send(small_train(job_id="killed-train", time_limit_s=3.0))
    job = system.wait_training("killed-train")
    assert job.process is not None
    system.send(small_train(job_id="next-train", time_limit_s=1.0))
    system.wait_state("next-train", "queued")
    os.kill(job.process.pid, signal.SIGKILL)
    system.wait_state("next-train", "succeeded", 60.0)
    assert system.wait_state("killed-train", "succeeded", 60.0).attempt == 2
    told = ("queued", "running", "interrupted", "queued", "running", "succeeded")
    system.assert_told("killed-train", *told)
    system.assert_told("next-train", "queued", "running", "succeeded")
    (line,) = [row for row in system.log().splitlines() if "killed-train: attempt 1 failed" in row]
    assert "killed by SIGKILL" in line and "runner.log" in line and "tried again" in line
    assert system.tree("killed-train") == []


def test_a_killed_mediator_takes_its_job_up_again(own_system: System) -> None:
    """The runner trains on alone; the next mediator adopts it, and it ends succeeded, run once."""
    own_system.send(small_train(job_id="adopted-train", time_limit_s=6.0))
    job = own_system.wait_training("adopted-train")
    assert job.process is not None
    end(own_system.mediators[-1], signal.SIGKILL)
    assert alive(job.process.pid)
    steps = own_system.progress("adopted-train")[-1]["step"]
    own_system.start_and_listen()
    found = re.search(r"job adopted-train: found running \(pid ([\d, ]+)\)", own_system.log())
    assert found is not None and str(job.process.pid) in found[1].split(", ")
    ended = own_system.wait_state("adopted-train", "succeeded", 60.0)
    assert ended.attempt == 1 and ended.process == job.process
    assert own_system.progress("adopted-train")[-1]["step"] > steps
    own_system.assert_told("adopted-train", "queued", "running", "succeeded")


def test_an_interrupted_training_goes_on_from_its_checkpoint(own_system: System) -> None:
    """SIGTERM of the mediator saves the work; the next one runs the job again from there."""
    own_system.send(small_train(job_id="resumed-train", time_limit_s=3.0))
    own_system.wait_training("resumed-train")
    own_system.stop()
    job = own_system.job("resumed-train")
    assert job is not None and job.state == "interrupted"
    own_system.start_and_listen()
    assert own_system.wait_state("resumed-train", "succeeded", 60.0).attempt == 2
    log = own_system.folder("resumed-train").runner_log.read_text()
    assert "going on from there" in log
    states = ("queued", "running", "interrupted", "queued", "running", "succeeded")
    own_system.assert_told("resumed-train", *states)


def test_a_mediator_whose_broker_is_down_says_so(own_system: System, tmp_path: Path) -> None:
    """`--broker-wait-s`: exit code 1, one line with the address and the mend, also in the log."""
    own_system.stop()
    down = own_system.start(broker="127.0.0.1:1", broker_wait_s=1)
    assert down.wait(30) == 1
    (line,) = [row for row in own_system.log().splitlines() if " ERROR " in row]
    assert "127.0.0.1:1" in line and "--broker" in line and "waited 1 s" in line
    wait_for("no leftovers", lambda: not list(tmp_path.glob("**/.tmp*")))
