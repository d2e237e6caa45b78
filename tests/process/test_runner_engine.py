"""The runner with the real engine on a tiny city: train, interrupt, resume, eval, view, refuse."""

import json
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from runner_city import DATA, DEADLINE_S, EVAL, TRAIN, City

from configs import ExitCode


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> City:
    """A city with a job `trained` that ended well."""
    made = City(tmp_path_factory.mktemp("city"))
    code, output = made.run("trained", **TRAIN)
    assert code == ExitCode.OK, output
    return made


def wait_for(process: subprocess.Popen[str], condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if process.poll() is not None:
            pytest.fail(f"the runner ended before {what}: {process.communicate()[0]}")
        assert time.monotonic() < deadline, f"no {what} in {DEADLINE_S} s"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_train_job_leaves_checkpoints_plots_and_a_result(city: City) -> None:
    """What the documentation promises of a train job is in its folder."""
    result = city.record("trained", "result.json")
    assert result["step"] == 20
    assert result["checkpoint"] == "checkpoints/step20"
    folder = city.logs / "trained"
    assert json.loads((folder / "checkpoints/index.json").read_text())["last"] == "step20"
    assert any((folder / "tensorboard").iterdir())
    run = city.record("trained", "run.json")
    assert run["device"]["used"].startswith(("cpu", "cuda"))
    assert run["backend"]["asked"] == "auto"
    assert run["backend"]["used"] in ("numba", "torch", "triton", "tcnn")
    saved = [event for event in city.events("trained") if event["event"] == "checkpoint"]
    assert [event["path"] for event in saved] == ["checkpoints/step10", "checkpoints/step20"]
    last = [event for event in city.events("trained") if event["event"] == "progress"][-1]
    assert (last["phase"], last["step"], last["total"]) == ("train", 20, 20)


def test_a_stopped_training_saves_and_goes_on_where_it_was(city: City) -> None:
    """SIGTERM: exit code 75 and a checkpoint; the next attempt begins from it."""
    spec = {**TRAIN, "outer_steps": 100_000, "save_step": 100_000, "eval_step": 100_000}
    process = city.start("stopped", **spec)
    try:
        wait_for(process, lambda: city.has_event("stopped", "progress", "train"), "training")
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    assert process.returncode == ExitCode.INTERRUPTED, output
    failure = city.record("stopped", "failure.json")
    step = int(re.findall(r"step (\d+) of 100000 is saved", failure["message"])[0])
    assert (city.logs / f"stopped/checkpoints/step{step}/manifest.json").exists()
    code, output = city.run("stopped", **{**spec, "outer_steps": step + 5})
    assert code == ExitCode.OK, output
    assert f"saved step{step}; going on from there" in output
    assert city.record("stopped", "result.json")["step"] == step + 5


def test_a_time_limit_ends_training_well(city: City) -> None:
    """Out of time is not a failure: the checkpoint is saved and the job succeeds."""
    limits = {"outer_steps": 10_000_000, "time_limit_s": 1.0, "save_step": 10_000_000}
    code, output = city.run("limited", **{**TRAIN, **limits})
    assert code == ExitCode.OK, output
    result = city.record("limited", "result.json")
    assert 0 < result["step"] < 10_000_000
    assert (city.logs / "limited" / result["checkpoint"]).is_dir()


def test_training_continues_from_another_jobs_weights(city: City) -> None:
    """checkpoint_path with the same architecture is accepted; steps count from 0."""
    more = {"checkpoint_path": "trained", "outer_steps": 2, "algo": "fomaml", "inner_iter": 1}
    small = {"support_rays": 64, "query_rays": 64, "cell_dim": 1, "batch_size": 1}
    code, output = city.run_here("continued", **{**TRAIN, **more, **small})
    assert code == ExitCode.OK, output
    assert city.record("continued", "result.json")["step"] == 2


@pytest.mark.parametrize(
    ("backend", "bf16", "told"), [("auto", False, True), ("torch", True, False)]
)
def test_a_run_says_what_computes_and_what_it_does_not_do(
    city: City, backend: str, bf16: bool, told: bool
) -> None:
    """On the CPU: auto is numba, which computes in float32 whatever use_amp says, and says so."""
    spec = {**TRAIN, "device": "cpu", "backend": backend, "use_amp": True, "outer_steps": 1}
    code, log = city.run_here(f"amp-{backend}", **{**spec, "batch_rays": 64})
    assert code == ExitCode.OK, log
    run = city.record(f"amp-{backend}", "run.json")
    assert run["backend"] == {"asked": backend, "used": "torch" if bf16 else "numba"}
    assert run["bf16"] is bf16 and run["device"]["threads"] >= 1
    assert ("use_amp: has no effect" in log) is told


def test_a_view_job_answers_and_ends_by_signal(city: City) -> None:
    """The URL is told, the page answers, SIGTERM ends it with the documented code."""
    port = free_port()
    view = {"op": "view", **DATA, "checkpoint_path": "trained", "batch": "batch_0001"}
    address = {"viewer_host": "127.0.0.1", "viewer_port": port}
    process = city.start("viewed", **view, **address)
    try:
        wait_for(process, lambda: city.has_event("viewed", "viewer_ready"), "the viewer")
        url = city.events("viewed")[-1]["url"]
        with urllib.request.urlopen(url, timeout=DEADLINE_S) as page:
            assert page.status == 200
        code, output = city.run("second", **view, **address)
        assert code == ExitCode.PORT_IN_USE, output
        assert str(port) in city.record("second", "failure.json")["message"]
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    assert process.returncode == ExitCode.INTERRUPTED, output


def test_a_view_job_ends_well_when_nobody_comes(city: City) -> None:
    """The idle timeout is a good end."""
    view = {"op": "view", **DATA, "checkpoint_path": "trained", "viewer_timeout": 0.5}
    code, output = city.run_here(
        "idle", **view, viewer_host="127.0.0.1", viewer_port=free_port(), num_submodules=4
    )
    assert code == ExitCode.OK, output
    assert city.record("idle", "result.json")["ended_by"] == "idle"


@pytest.mark.parametrize(
    ("changes", "code", "parts"),
    [
        (
            {"log2_hashmap_size": 13},
            ExitCode.BAD_CHECKPOINT,
            ("log2_hashmap_size 13 (checkpoint: 12)", "use_stored_args"),
        ),
        (
            {"mask_dirname": "g11"},
            ExitCode.BAD_CHECKPOINT,
            ("made with partition g22", "set mask_dirname to g22"),
        ),
        ({"num_submodules": 9}, ExitCode.BAD_DATA, ("num_submodules = 9", "4 experts")),
        ({"boundary_margin": 1.5}, ExitCode.BAD_SPEC, ("boundary_margin = 1.5", "1.05")),
    ],
)
def test_what_does_not_fit_together_is_refused_by_name(
    city: City, changes: dict[str, Any], code: ExitCode, parts: tuple[str, ...]
) -> None:
    """Job, partition and checkpoint are held against each other before any work."""
    exit_code, output = city.run_here("misfit", **{**EVAL, **changes})
    assert exit_code == code, output
    message = city.record("misfit", "failure.json")["message"]
    assert all(part in message for part in parts), message


def test_another_citys_checkpoint_is_refused_by_its_place(city: City) -> None:
    """Its partition differs too, under the same name: the frame is what is told."""
    copy = city.logs / "elsewhere/checkpoints/step20"
    shutil.copytree(city.logs / "trained/checkpoints/step20", copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["frame"]["enu_ref"]["lat_deg"] += 0.001  # 0.06 nautical miles: 111 m
    manifest["partition"]["centroids"][0][0] += 1.0
    (copy / "manifest.json").write_text(json.dumps(manifest))
    path = "logs/elsewhere/checkpoints/step20"
    code, output = city.run_here("moved", **{**EVAL, "checkpoint_path": path})
    assert code == ExitCode.BAD_CHECKPOINT, output
    message = city.record("moved", "failure.json")["message"]
    assert "another scene's frame" in message and "mask_dirname" not in message
    assert re.search(r"reference .* 111\.\d{3} m apart", message), message


def test_stored_args_win_when_asked_for(city: City) -> None:
    """With use_stored_args the checkpoint's architecture is taken whatever the job says."""
    changes = {"log2_hashmap_size": 13, "use_stored_args": True, "tto": 0}
    code, output = city.run_here("stored", **{**EVAL, **changes})
    assert code == ExitCode.OK, output


def test_a_damaged_checkpoint_is_named(city: City) -> None:
    """Same size, other bytes: the checksum tells, the file is named."""
    copy = city.logs / "damaged/checkpoints/step20"
    shutil.copytree(city.logs / "trained/checkpoints/step20", copy)
    expert = copy / "expert_02.safetensors"
    content = bytearray(expert.read_bytes())
    content[-1] ^= 0xFF
    expert.write_bytes(content)
    path = "logs/damaged/checkpoints/step20"
    code, output = city.run_here("from-damaged", **{**EVAL, "checkpoint_path": path})
    assert code == ExitCode.BAD_CHECKPOINT, output
    assert "expert_02.safetensors" in city.record("from-damaged", "failure.json")["message"]
