"""The runner with the real engine on a tiny city: train, interrupt, resume, eval, view, refuse."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from configs import ExitCode, Roots
from runner.execute import Request, execute
from runner.stopping import StopRequest

ROOT = Path(__file__).parents[2]
DEADLINE_S = 120.0
DATA = {"data_path": "data/demo/", "data_dirname": "prepared", "mask_dirname": "g22"}
MODEL = {"log2_hashmap_size": 12, "max_resolution": 256}
TRAIN = {
    "op": "train",
    **DATA,
    **MODEL,
    "downscale": 0.5,
    "batch_rays": 512,
    "outer_steps": 20,
    "save_step": 10,
    "eval_step": 10,
    "print_step": 1,
}
EVAL = {
    "op": "eval",
    **DATA,
    "downscale": 0.5,
    "checkpoint_path": "trained",
    "support_rays": 256,
    "max_images": 2,
}


def script(name: str, *arguments: object) -> None:
    """Run one of the repository's scripts to its end."""
    done = subprocess.run(
        [sys.executable, f"scripts/{name}", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr


class City:
    """A project folder with a prepared tiny city, its partitions and a later batch."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.logs = project / "logs"
        demo = project / "data/demo"
        demo.mkdir(parents=True)
        size = ("--blocks", 1, "--images", 16, "--update-images", 8, "--size", "96x72")
        script("make_city.py", demo / "city", *size, "--points", 800, "--supersampling", 1)
        prepared = demo / "out/prepared"
        before = ("--data_path", demo / "city/before", "--output_path", prepared)
        script("prepare_dataset.py", *before, "--val_split", 0.25, "--ecef_to_enu")
        for name, grid in (("g22", "2 2"), ("g11", "1 1")):
            options = ("--grid_dim", *grid.split(), "--cluster_2d", "--output", name)
            script("create_clusters.py", "--data_path", prepared, *options)
        after = ("--update_path", demo / "city/after")
        script("update_dataset.py", "--data_path", prepared, *after)

    def job(self, job_id: str, spec: dict[str, Any]) -> Path:
        folder = self.logs / job_id
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "job.json").write_text(json.dumps(spec))
        return folder / "job.json"

    def start(self, job_id: str, **spec: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "runner", str(self.job(job_id, spec))]
        return subprocess.Popen(
            [*command, "--project-root", str(self.project)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, job_id: str, **spec: Any) -> tuple[int, str]:
        process = self.start(job_id, **spec)
        try:
            output, _ = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
        return process.returncode, output

    def run_here(self, job_id: str, **spec: Any) -> tuple[int, str]:
        """Run a job in this process, where the engine is imported already."""
        request = Request(self.job(job_id, spec), Roots.below(self.project))
        code = execute(request, StopRequest())
        return code, (self.logs / job_id / "runner.log").read_text()

    def record(self, job_id: str, name: str) -> dict[str, Any]:
        return json.loads((self.logs / job_id / name).read_text())

    def events(self, job_id: str) -> list[dict[str, Any]]:
        path = self.logs / job_id / "progress.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines(keepends=True)]

    def has_event(self, job_id: str, name: str, phase: str | None = None) -> bool:
        return any(
            event["event"] == name and phase in (None, event.get("phase"))
            for event in self.events(job_id)
        )


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


def test_an_eval_job_scores_a_batch_before_and_after(city: City) -> None:
    """Metrics, truth and predictions for each tto and split, and the adapted model on request."""
    extra = {"batch": "batch_0001", "tto": "0,3", "replay": 0.5, "save_adapted": True}
    code, output = city.run("scored", **{**EVAL, **extra})
    assert code == ExitCode.OK, output
    frame = pd.read_csv(city.logs / "scored/metrics.csv")
    groups = frame.groupby(["tto", "split"]).size().to_dict()
    splits = ("adapted", "new_heldout", "old_val")
    assert groups == {(tto, split): 2 for tto in (0, 3) for split in splits}
    assert len(list((city.logs / "scored/gt").glob("*.png"))) == 6
    assert len(list((city.logs / "scored/pred/3").glob("*.png"))) == 6
    result = city.record("scored", "result.json")
    assert len(result["summary"]) == 6
    assert result["summary"][0]["psnr"] > 5.0
    assert 0.0 < result["adapt_seconds"] < result["seconds_to_adapted"]
    rows = [event["rows"] for event in city.events("scored") if event["event"] == "metrics"]
    assert [len(row) for row in rows] == [3, 3]
    assert (city.logs / "scored/checkpoints/step23/manifest.json").exists()
    code, output = city.run_here("rescored", **{**EVAL, "checkpoint_path": "scored", "tto": 0})
    assert code == ExitCode.OK, output


def test_an_adaptation_that_diverges_keeps_the_original(city: City) -> None:
    """The job fails with the step and both models named; what was scored before stays."""
    rates = {"encoding_lr": 1.0, "sigma_lr": 1.0, "color_lr": 1.0}
    extra = {"batch": "batch_0001", "tto": 5, "save_adapted": True, "change_map": False}
    code, output = city.run_here("wild", **{**EVAL, **rates, **extra})
    assert code == ExitCode.NON_FINITE, output
    message = city.record("wild", "failure.json")["message"]
    assert re.match(r"(after )?adaptation step [1-5]: ", message), message
    assert "the original model trained:step20 is kept, no adapted one is saved" in message
    assert set(pd.read_csv(city.logs / "wild/metrics.csv")["tto"]) == {0}
    assert not (city.logs / "wild/checkpoints").exists()


@pytest.mark.parametrize(
    ("protocol", "splits"),
    [("holdout", ["new_heldout"] * 2 + ["adapted"] * 2), ("fit", ["adapted"] * 4)],
)
def test_an_eval_job_without_a_batch_takes_validation_images(
    city: City, protocol: str, splits: list[str]
) -> None:
    """holdout adapts on even ones and scores both halves apart, fit scores all it adapted to."""
    spec = {**EVAL, "protocol": protocol, "tto": 1, "max_images": None}
    code, output = city.run_here(f"val-{protocol}", **spec)
    assert code == ExitCode.OK, output
    frame = pd.read_csv(city.logs / f"val-{protocol}/metrics.csv")
    assert list(frame["tto"]) == [0] * 4 + [1] * 4
    assert list(frame["split"]) == splits * 2
    gains = [row["psnr_gain"] for row in city.record(f"val-{protocol}", "result.json")["summary"]]
    half = len(gains) // 2
    assert not any(gains[:half]) and all(gains[half:])


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
