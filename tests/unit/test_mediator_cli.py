"""The command line: what it lists, what it refuses, and how light it is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mediator.events import Topics
from mediator.ledger import Ledger
from mediator.ledger_file import hold_lock
from mediator.records import NewJob, Source
from mediator.states import JobState


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m mediator` in a folder."""
    command = [sys.executable, "-m", "mediator", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def test_it_never_loads_the_engine() -> None:
    """A mediator costs no torch, whatever of it is used."""
    program = (
        "import pkgutil, importlib, sys, mediator\n"
        "names = [m.name for m in pkgutil.iter_modules(mediator.__path__)]\n"
        "[importlib.import_module('mediator.' + n) for n in names if n != '__main__']\n"
        "assert len(names) > 20\n"
        "print({'torch', 'numpy', 'nerfcore', 'runner'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "set()", done.stderr


def test_jobs_are_listed(tmp_path: Path) -> None:
    """As a table and as JSON, beside a running mediator."""
    (tmp_path / "logs").mkdir()
    ledger = Ledger(tmp_path / "logs", Topics("s", "e", "d"))
    for number, name in enumerate(("a", "b")):
        ledger.accept(Source("c", "t", 0, number), NewJob(name, "train", "{}", "h"))
    ledger.move("a", JobState.FAILED, reason="no\nreason")
    table = run(tmp_path, "jobs")
    assert table.returncode == 0 and "failed" in table.stdout
    listed = json.loads(run(tmp_path, "jobs", "--json").stdout)
    assert [(j["job_id"], j["state"], j["reason"]) for j in listed] == [
        ("a", "failed", "no\\nreason"), ("b", "queued", None),
    ]  # fmt: skip
    queued = json.loads(run(tmp_path, "jobs", "--json", "--state", "queued").stdout)
    assert [j["job_id"] for j in queued] == ["b"]
    ledger.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--devices", "gpu0"], "--devices"),
        (["--slots", "0"], "--slots"),
        (["--broker", "nowhere"], "host:port"),
        (["--topic", "a/b"], "topic"),
        (["--kafka-properties", "none.properties"], "none.properties"),
        (["--log-root", "file/logs"], "--log-root"),
        (["--cleanup", "--log-root", "."], "only logs"),
        (["--colour"], "No such option"),
        (["job"], "No such command"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(tmp_path: Path, arguments, words: str) -> None:
    """Nothing is started or written."""
    (tmp_path / "file").write_text("")
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_taken_or_damaged_ledger_stops_the_start(tmp_path: Path) -> None:
    """With one line and exit code 1."""
    (tmp_path / "logs").mkdir()
    with hold_lock(tmp_path / "logs"):
        done = run(tmp_path, "--broker", "127.0.0.1:1")
    assert done.returncode == 1 and "another mediator" in done.stderr
    (tmp_path / "logs/ledger.sqlite3").write_text("no ledger")
    done = run(tmp_path, "--broker", "127.0.0.1:1")
    assert done.returncode == 1 and "damaged" in done.stderr
    assert (tmp_path / "logs/ledger.sqlite3").read_text() == "no ledger"
    assert "Traceback" not in done.stderr


def test_without_a_ledger_there_is_nothing_to_list(tmp_path: Path) -> None:
    """Listing creates nothing."""
    done = run(tmp_path, "jobs")
    assert done.returncode == 1 and "no ledger here" in done.stderr
    assert list(tmp_path.iterdir()) == []
