"""Bad input over the wire: each refused by name with the mend, and the mediator goes on.

A refusal is a dead letter, a line in mediator.log and, for a message with a job id, the event
`rejected`; no folder is made. What only the runner can see ends the job as failed.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from mediator_bench import wait_for
from running_system import City, System, demo_spec, script, small_train

from configs.artifacts import JobFolder

GOOD = small_train(job_id="bad", time_limit_s=1.0)


def changed(**fields: object) -> dict[str, Any]:
    """Give the good job with fields that make it bad."""
    return {**GOOD, **fields}


def without(name: str) -> dict[str, Any]:
    """Give the good job without a field."""
    return {field: value for field, value in GOOD.items() if field != name}


def evaluation(**fields: object) -> dict[str, Any]:
    """Give an eval job of the session's trained model."""
    return demo_spec("eval", **{"job_id": "bad", "checkpoint_path": "tiny-train", **fields})


NOT_JSON = [
    (b"{broken", "not JSON"),
    (b"", "empty"),
    (b"\xff\xfe", "not UTF-8"),
    (b'["op", "train"]', "one JSON object"),
    (b'{"op": "train", "op": "eval"}', "'op'|twice"),
    (b'{"op": "train", "lr": NaN}', "NaN"),
]
BAD_SPECS = [
    (changed(op="trian"), "op", "did you mean 'train'"),
    (without("op"), "op", "is missing"),
    (changed(outer_step=5), "outer_step", "did you mean 'outer_steps'"),
    (changed(tto="0,8"), "tto", "is a field of op eval"),
    (changed(outer_steps="many"), "outer_steps", "must be a valid integer"),
    (changed(batch_rays=1.5), "batch_rays", "integer"),
    (changed(downscale=2.0), "downscale", "less than or equal to 1"),
    (changed(algo="mamm"), "algo", "did you mean 'maml'"),
    (without("mask_dirname"), "mask_dirname", "is missing; add it"),
    (changed(data_dirname="nowhere"), "data_dirname", "prepare_dataset.py"),
    (changed(mask_dirname="g99"), "mask_dirname", "create_clusters.py"),
    (changed(data_path="data/nowhere"), "data_path", "there is no folder"),
    (changed(data_path="../../etc"), "data_path", "outside"),
    (changed(data_path="/etc"), "data_path", "--data-root"),
    (changed(data_path="data/../.."), "data_path", "outside"),
    (changed(data_dirname="../../x"), "data_dirname", "match"),
    (evaluation(batch="batch_0009"), "batch", "known batches: batch_0001"),
    (evaluation(checkpoint_path="../../etc"), "checkpoint_path", "outside"),
    (evaluation(checkpoint_path="/etc/passwd"), "checkpoint_path", "outside"),
    (evaluation(checkpoint_path="tiny-train/tensorboard"), "checkpoint_path", "no checkpoint"),
    (evaluation(checkpoint_path="nobody"), "checkpoint_path", "name a train job"),
]
BAD_NAMES = [
    ("../escape", "letters, digits"),
    ("a/b", "letters, digits"),
    (".hidden", "letters, digits"),
    ("", "letters, digits"),
    ("x" * 65, "letters, digits"),
    ("name\n", "printable text"),
    (7, "valid string"),
    ("example", "choose another job_id"),
    ("ledger.sqlite3", "choose another"),
]


def refused(system: System, message: bytes | dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Publish a message and give its dead letter and its line in mediator.log."""
    letters, lines = len(system.letters()), len(_refusals(system))
    folders = _folders(system)
    system.send(message)
    wait_for("a letter", lambda: len(system.letters()) > letters)
    letter = system.letters()[-1]
    line = wait_for("a line", lambda: _refusals(system)[lines:])[0]
    assert letter["reason"] in line
    assert _folders(system) == folders, "a refused job leaves no folder"
    assert system.mediators[-1].poll() is None
    return letter, line


def _refusals(system: System) -> list[str]:
    return [row for row in system.log().splitlines() if " refused (" in row]


def _folders(system: System) -> set[str]:
    return {path.name for path in system.logs.iterdir() if path.is_dir()}


@pytest.mark.parametrize(("raw", "words"), NOT_JSON)
def test_what_is_no_json_object_is_refused(system: System, raw: bytes, words: str) -> None:
    """The letter holds the reason and the original bytes."""
    letter, _ = refused(system, raw)
    assert any(word in letter["reason"] for word in words.split("|")), letter["reason"]
    assert letter["original_bytes"] == len(raw) and letter["job_id"] is None


@pytest.mark.parametrize(("spec", "field", "words"), BAD_SPECS)
def test_a_bad_field_is_refused_by_name(
    system: System, trained: JobFolder, spec: dict[str, Any], field: str, words: str
) -> None:
    """The field, its value and the mend; the event `rejected` with the same reason."""
    letter, line = refused(system, spec)
    assert letter["reason"].startswith(field) and words in letter["reason"], letter["reason"]
    assert [error["field"] for error in letter["errors"]] == [field]
    assert "job bad: refused" in line and letter["job_id"] == "bad"
    event = wait_for("the event", lambda: _events_with(system, letter["reason"]))[-1]
    assert (event["kind"], event["state"]) == ("state", "rejected")
    job = system.job("bad")
    assert job is not None and job.state == "rejected"


def _events_with(system: System, reason: str) -> list[dict[str, Any]]:
    return [event for event in system.events("bad") if event["reason"] == reason]


@pytest.mark.parametrize(("name", "words"), BAD_NAMES)
def test_a_bad_job_id_is_refused(system: System, name: object, words: str) -> None:
    """Whatever it would name, nothing is made of it."""
    above = {path.name for path in system.project.iterdir()}
    letter, _ = refused(system, changed(job_id=name))
    assert letter["reason"].startswith("job_id = ") and words in letter["reason"]
    assert {path.name for path in system.project.iterdir()} == above


def test_a_duplicate_runs_once_and_another_spec_is_refused(
    system: System, trained: JobFolder
) -> None:
    """The same job again is told to be known; another job under its id is a conflict."""
    spec = json.loads(trained.job_json.read_text())
    system.send(spec)
    wait_for("the event", lambda: _duplicates(system) == ["duplicate"])
    letter, _ = refused(system, {**spec, "seed": 1})
    assert "taken by a job with another spec; choose another job_id" in letter["reason"]
    wait_for("the event", lambda: _duplicates(system) == ["duplicate", "rejected"])
    job = system.job("tiny-train")
    assert job is not None and (job.state, job.attempt) == ("succeeded", 1)


def _duplicates(system: System) -> list[str]:
    events = system.events("tiny-train")
    return [event["data"]["outcome"] for event in events if event["kind"] == "duplicate"]


def test_a_damaged_checkpoint_fails_by_name(system: System, trained: JobFolder) -> None:
    """Given a truncated or missing expert, or a step that is not there, the file is named."""
    truncated, robbed = (_copy_of(trained, name) for name in ("truncated", "robbed"))
    path = truncated / "expert_01.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    (robbed / "expert_02.safetensors").unlink()
    for job_id, fields, words in (
        ("eval-truncated", {"checkpoint_path": "truncated"}, "expert_01.safetensors: "),
        ("eval-robbed", {"checkpoint_path": "robbed"}, "expert_02.safetensors: missing"),
        ("eval-no-step", {"prefix": "step999999"}, "prefix = step999999: not in"),
    ):
        system.send(evaluation(job_id=job_id, **fields))
        job = system.wait_state(job_id, "failed", 30.0)
        assert words in (job.reason or "") and job.exit_code == 12, job.reason
        assert f"job {job_id}: failed: {job.reason}" in system.log()
        system.assert_told(job_id, "queued", "running", "failed")
        assert not system.folder(job_id).metrics_csv.exists()


def _copy_of(trained: JobFolder, name: str) -> Path:
    """Copy a job's checkpoints under another name and give the last one's folder."""
    copy = JobFolder(trained.root.parent / name)
    shutil.copytree(trained.checkpoints, copy.checkpoints)
    return copy.checkpoints / json.loads((copy.checkpoints / "index.json").read_text())["last"]


def test_send_config_tells_a_refusal(system: System) -> None:
    """A person who waits sees the reason, and exit code 1."""
    path = system.write_config(changed(job_id="bad-by-script", algo="yoint"))
    where = ("--broker", system.address, "--topic", system.settings.jobs_topic)
    done = script("send_config.py", "--configPath", path, *where, "--wait", "--timeout", 20)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "rejected: algo = " in done.stdout and "did you mean 'joint'" in done.stdout


def test_a_good_job_runs_after_all_that(system: System) -> None:
    """Given bad messages around it, under an id that was refused before, it runs."""
    system.send(b"{")
    system.send(changed(job_id="bad", op="trian"))
    system.send(changed(job_id="bad"))
    system.send(b"}")
    wait_for("accepted", lambda: "job bad: queued" in system.log())
    system.wait_state("bad", "succeeded", 60.0)
    wait_for("the end told", lambda: system.events("bad")[-1]["state"] == "succeeded")
    states = [event["state"] for event in system.events("bad") if event["kind"] == "state"]
    assert states[-4:] == ["rejected", "queued", "running", "succeeded"]


def test_a_model_without_some_images_is_refused(city: City, tmp_path: Path) -> None:
    """prepare_dataset.py names them in one line, and nothing half-written is left."""
    flight, out = tmp_path / "flight", tmp_path / "out/prepared"
    shutil.copytree(city.flights / "before", flight)
    gone = sorted((flight / "images").iterdir())[3:6]
    for path in gone:
        path.unlink()
    options = ("--data_path", flight, "--output_path", out, "--ecef_to_enu")
    done = script("prepare_dataset.py", *options)
    assert done.returncode == 11
    assert "3 of 24" in done.stderr and gone[0].name in done.stderr and "copy" in done.stderr
    assert done.stderr.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"flight", "out"}
    assert not out.exists() and not (out.parent.exists() and list(out.parent.iterdir()))
