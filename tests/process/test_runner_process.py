"""The runner as a process: exit codes, failure.json, refusals before work, signals."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs import ExitCode

ROOT = Path(__file__).parents[2]
STAND_IN = Path(__file__).with_name("operations_runner.py")
DEADLINE_S = 60.0


class Place:
    """A project folder with an empty dataset, and jobs to run in it."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.logs = project / "logs"
        self.dataset = project / "data/drz/out/prepared"
        (self.dataset / "masks/g22").mkdir(parents=True)
        (self.dataset / "dataset.json").write_text("{}")
        (self.dataset / "masks/g22/partition.json").write_text("{}")
        self.logs.mkdir()

    def job(self, name: str = "job", **fields: Any) -> Path:
        """Write `<logs>/<name>/job.json` as the mediator does and return it."""
        spec = {"op": "train", "data_dirname": "prepared", "mask_dirname": "g22", **fields}
        folder = self.logs / name
        folder.mkdir(exist_ok=True)
        (folder / "job.json").write_text(json.dumps(spec))
        return folder / "job.json"

    def start(
        self, job: Path, program: tuple[str, ...] = (str(STAND_IN),)
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *program, str(job), "--project-root", str(self.project)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, job: Path, program: tuple[str, ...] = (str(STAND_IN),)) -> tuple[int, str]:
        """Run a job to its end and return exit code and output."""
        process = self.start(job, program)
        try:
            output, _ = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
        return process.returncode, output

    def failure(self, job_id: str = "job") -> dict[str, Any]:
        """Return failure.json, checking that there is no result beside it."""
        assert not (self.logs / job_id / "result.json").exists()
        return json.loads((self.logs / job_id / "failure.json").read_text())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"no {what} in {DEADLINE_S} s"
        time.sleep(0.01)


def test_a_job_that_succeeds_leaves_its_records(place: Place) -> None:
    """run.json, progress.jsonl, runner.log and result.json are there, and torch was not needed."""
    code, output = place.run(place.job(seed=7))
    assert code == ExitCode.OK, output
    folder = place.logs / "job"
    result = json.loads((folder / "result.json").read_text())
    assert (result["job_id"], result["step"], result["torch_imported"]) == ("job", 10, False)
    run = json.loads((folder / "run.json").read_text())
    assert (run["seed"], run["spec"]["outer_steps"], run["device"]) == (7, 20000, {"asked": "auto"})
    assert run["versions"]["torch"] and run["cpus"] >= 1
    lines = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["progress", "checkpoint"]
    assert (lines[0]["loss"], lines[0]["psnr"], lines[1]["path"]) == (None, 20, "checkpoints/step1")
    assert "train 1/10" in (folder / "runner.log").read_text()
    assert not (folder / "failure.json").exists()


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        ("data", ExitCode.BAD_DATA),
        ("checkpoint", ExitCode.BAD_CHECKPOINT),
        ("nonfinite", ExitCode.NON_FINITE),
        ("backend", ExitCode.BACKEND_UNAVAILABLE),
        ("port", ExitCode.PORT_IN_USE),
        ("memory", ExitCode.OUT_OF_MEMORY),
        ("disk", ExitCode.DISK_FULL),
        ("crash", ExitCode.INTERNAL),
    ],
)
def test_an_error_becomes_its_exit_code(place: Place, wish: str, code: ExitCode) -> None:
    """Each kind of error has its code, its kind in failure.json and a one-line message."""
    exit_code, output = place.run(place.job(dataset=wish))
    assert exit_code == code, output
    failure = place.failure()
    assert (failure["kind"], failure["exit_code"]) == (code.kind, code)
    assert failure["message"] and "\n" not in failure["message"]
    assert "Traceback" in failure["traceback"]
    assert ("Traceback" in output) == (code is ExitCode.INTERNAL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_job_cleanly(place: Place, number: signal.Signals) -> None:
    """The operation sees the wish, saves, and the exit code says so."""
    process = place.start(place.job(dataset="wait"))
    try:
        progress = place.logs / "job/progress.jsonl"
        wait_for(lambda: progress.exists() and progress.stat().st_size > 0, "progress")
        process.send_signal(number)
        output, _ = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    assert process.returncode == ExitCode.INTERRUPTED, output
    failure = place.failure()
    assert failure["kind"] == "interrupted"
    assert failure["message"] == f"stopped by {number.name}; step 1 of 10 is saved"


def refuse(place: Place, code: ExitCode, *parts: str, **fields: Any) -> None:
    """Run the real runner and expect a quick refusal that names its reason."""
    exit_code, output = place.run(place.job(**fields), ("-X", "importtime", "-m", "runner"))
    assert exit_code == code, output
    message = place.failure()["message"]
    assert all(part in message for part in parts), message
    assert not re.search(r"\|\s+torch$", output, re.MULTILINE), "torch was imported for a refusal"


def test_a_missing_dataset_is_named(place: Place) -> None:
    """No dataset: field, both formats' files and mend, before torch is imported."""
    parts = ("data_dirname", "dataset.json nor coordinates.pt", "prepare_dataset.py")
    refuse(place, ExitCode.BAD_DATA, *parts, data_dirname="other")


def test_a_missing_partition_is_named(place: Place) -> None:
    """No partition: field, both formats' files and mend."""
    parts = ("mask_dirname", "partition.json nor params.pt", "create_clusters.py")
    refuse(place, ExitCode.BAD_DATA, *parts, mask_dirname="other")


def test_a_missing_batch_is_named(place: Place) -> None:
    """No such batch: the known ones are listed."""
    (place.dataset / "continual/batch_0001").mkdir(parents=True)
    fields = {"op": "eval", "checkpoint_path": "x", "batch": "batch_0002"}
    refuse(place, ExitCode.BAD_DATA, "batch_0002", "known batches: batch_0001", **fields)


def test_a_path_outside_the_roots_is_named(place: Place) -> None:
    """Leaving the data roots is a wrong spec."""
    refuse(place, ExitCode.BAD_SPEC, "data_path", "outside", data_path="../")


def test_a_missing_checkpoint_is_named(place: Place) -> None:
    """A job that has saved nothing is no starting point."""
    refuse(place, ExitCode.BAD_CHECKPOINT, "checkpoint_path", "missing", checkpoint_path="nobody")


def test_a_missing_step_is_named_with_the_steps_there_are(place: Place) -> None:
    """The prefix is named, and what could be chosen."""
    folder = place.logs / "old/checkpoints"
    folder.mkdir(parents=True)
    (folder / "index.json").write_text('{"last": "step5", "best": "step5", "steps": ["step5"]}')
    fields = {"checkpoint_path": "old", "prefix": "step7"}
    refuse(place, ExitCode.BAD_CHECKPOINT, "step7", "there are: step5", **fields)


def test_a_truncated_checkpoint_is_named(place: Place) -> None:
    """A file shorter than the manifest says is named with both sizes."""
    folder = place.logs / "old/checkpoints/step5"
    folder.mkdir(parents=True)
    (folder.parent / "index.json").write_text('{"last": "step5", "steps": ["step5"]}')
    manifest = {"files": {"expert_00.safetensors": {"bytes": 100}}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "expert_00.safetensors").write_bytes(b"x" * 40)
    parts = ("expert_00.safetensors", "40 bytes, 100 expected")
    refuse(place, ExitCode.BAD_CHECKPOINT, *parts, checkpoint_path="old")


def test_a_bad_spec_is_refused_field_by_field(place: Place) -> None:
    """The mediator's reasons are the runner's too."""
    refuse(place, ExitCode.BAD_SPEC, "did you mean 'dim_hidden'?", dim_hiden=64)
    assert place.failure()["errors"][0]["field"] == "dim_hiden"


def test_a_job_file_elsewhere_gets_a_folder(place: Place) -> None:
    """A job run by hand from any file gets `<log root>/<job id>` with its spec."""
    elsewhere = place.project / "mine.json"
    elsewhere.write_text(place.job("template").read_text().replace("{", '{"job_id": "mine", ', 1))
    code, output = place.run(elsewhere)
    assert code == ExitCode.OK, output
    assert json.loads((place.logs / "mine/job.json").read_text())["job_id"] == "mine"
    code, output = place.run(elsewhere)
    assert code == ExitCode.BAD_SPEC
    assert "holds a job already" in output
    assert (place.logs / "mine/result.json").exists()
    assert not (place.logs / "mine/failure.json").exists()


def test_another_jobs_folder_is_not_used(place: Place) -> None:
    """A spec with an id may only lie in the folder of that id."""
    refuse(place, ExitCode.BAD_SPEC, "job_id", "folder of job job", job_id="other")


def test_a_missing_file_and_a_wrong_option(place: Place) -> None:
    """No file is a wrong spec, a wrong option is a wrong use."""
    code, output = place.run(place.project / "none.json")
    assert code == ExitCode.BAD_SPEC and "none.json" in output
    code, output = place.run(place.job(), (str(STAND_IN), "--nonsense"))
    assert code == ExitCode.USAGE and "--nonsense" in output


def test_a_second_attempt_forgets_the_verdict_of_the_first(place: Place) -> None:
    """After a failure the same job can run again; only the newest verdict stays."""
    assert place.run(place.job(dataset="crash"))[0] == ExitCode.INTERNAL
    assert place.run(place.job(dataset="fine"))[0] == ExitCode.OK
    assert not (place.logs / "job/failure.json").exists()
    assert place.run(place.job(dataset="crash"))[0] == ExitCode.INTERNAL
    assert place.failure()["kind"] == "internal"


def test_a_read_only_job_folder_is_an_error_not_a_crash(place: Place) -> None:
    """Where nothing can be written the reason is on standard error and the code says internal."""
    job = place.job()
    (place.logs / "job/run.json").mkdir()
    code, output = place.run(job)
    assert code == ExitCode.INTERNAL
    assert "run.json" in output


def test_help_lists_every_exit_code(place: Place) -> None:
    """The codes are documented where a person looks first."""
    code, output = place.run(Path("--help"), ("-m", "runner"))
    assert code == ExitCode.OK
    assert all(f"{int(known):>3}  {known.kind}" in output for known in ExitCode)
