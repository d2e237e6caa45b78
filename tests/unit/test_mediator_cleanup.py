"""`--cleanup` removes what is done with, and nothing else."""

import json
from pathlib import Path

import pytest

from configs import Roots
from mediator.cleanup import check_log_root, clean
from mediator.errors import SettingsError
from mediator.events import Topics
from mediator.ledger import Ledger
from mediator.records import NewJob, Source
from mediator.states import JobState


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    """Give roots whose log root holds kept things and rubbish, beside a precious folder."""
    logs = tmp_path / "project/logs"
    (logs / "example/checkpoints").mkdir(parents=True)
    (logs / "example/checkpoints/index.json").write_text("{}")
    (logs / ".gitkeep").write_text("")
    (logs / "broker.json").write_text("{}")
    (logs / "mediator.log").write_text("now")
    (logs / "mediator.log.1").write_text("before")
    (logs / "rubbish").mkdir()
    (logs / "rubbish/deep").mkdir()
    (logs / "stray.txt").write_text("x")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "flight.jpg").write_text("irreplaceable")
    (logs / "link").symlink_to(precious)
    (logs / "rubbish/link").symlink_to(precious)
    (logs / "dangling").symlink_to(tmp_path / "nowhere")
    return Roots.below(tmp_path / "project")


@pytest.fixture
def ledger(roots: Roots):
    """Give the log root's ledger."""
    ledger = Ledger(roots.logs, Topics("s", "e", "d"))
    yield ledger
    ledger.close()


def add(ledger: Ledger, roots: Roots, name: str, *states: JobState, checkpoint: str = "") -> None:
    """Add a job with a folder and take it through states."""
    spec = json.dumps({"checkpoint_path": checkpoint or None})
    source = Source("c", "t", 0, len(ledger.jobs()))
    ledger.accept(source, NewJob(name, "train", spec, "h"))
    (roots.logs / name).mkdir()
    (roots.logs / name / "runner.log").write_text("")
    for state in states:
        ledger.move(name, state)


def names(folder: Path) -> set[str]:
    """Give the names in a folder, without SQLite's side files."""
    return {p.name for p in folder.iterdir() if not p.name.endswith(("-wal", "-shm"))}


def test_ended_jobs_and_rubbish_go_the_rest_stays(roots: Roots, ledger: Ledger) -> None:
    """Links are cut, not followed; waiting, running and needed jobs stay."""
    run = JobState.RUNNING
    add(ledger, roots, "done", run, JobState.SUCCEEDED)
    add(ledger, roots, "failed", run, JobState.FAILED)
    add(ledger, roots, "needed", run, JobState.SUCCEEDED)
    add(ledger, roots, "queued", checkpoint="logs/needed")
    add(ledger, roots, "running", run)
    add(ledger, roots, "interrupted", run, JobState.INTERRUPTED)
    removed = clean(ledger, roots, ledger_is_new=False)
    kept = {"needed", "queued", "running", "interrupted"}
    assert names(roots.logs) == kept | {
        "example", ".gitkeep", "broker.json", "mediator.log", "ledger.sqlite3",
    }  # fmt: skip
    assert removed == 7
    assert {job.job_id for job in ledger.jobs()} == kept
    assert (roots.project.parent / "precious/flight.jpg").read_text() == "irreplaceable"
    assert (roots.logs / "example/checkpoints/index.json").exists()


def test_a_folder_that_was_no_log_root_is_not_touched(roots: Roots, ledger: Ledger) -> None:
    """Without an earlier ledger, what lies there may be anything."""
    before = names(roots.logs)
    assert clean(ledger, roots, ledger_is_new=True) == 0
    assert names(roots.logs) == before


def test_a_log_root_around_the_project_is_refused(tmp_path: Path) -> None:
    """Cleaning would remove the project, the data or the home folder."""
    for logs in (tmp_path, tmp_path / "project", Path("/"), Path.home()):
        roots = Roots.below(tmp_path / "project", None, logs)
        with pytest.raises(SettingsError, match="only logs"):
            check_log_root(roots)
    check_log_root(Roots.below(tmp_path / "project"))


def test_a_missing_job_folder_is_no_hindrance(roots: Roots, ledger: Ledger) -> None:
    """The row goes all the same."""
    ledger.accept(Source("c", "t", 1, 1), NewJob("gone", "train", "{}", "h"))
    ledger.move("gone", JobState.FAILED)
    clean(ledger, roots, ledger_is_new=False)
    assert ledger.jobs() == []
