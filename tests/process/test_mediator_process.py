"""Real runner processes: isolated, and gone when they are said to be gone."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from mediator_bench import HERE, alive, wait_for

from mediator.errors import RunnerStartError
from mediator.proc import identify, is_alive, keeper_of, send_signal, tree_of
from mediator.process import RunnerProcess, clean_environment, start_runner

TOKEN = "0123456789abcdef"


def start(folder: Path, does: str, token: str = TOKEN) -> RunnerProcess:
    """Start a fake runner and wait until it is at work."""
    (folder / "job.json").write_text(json.dumps({"dataset": does}))
    argv = [sys.executable, str(HERE / "fake_runner.py"), str(folder / "job.json")]
    process = start_runner(argv, clean_environment(token, ""), folder, folder / "runner.log")
    wait_for("work", lambda: (folder / "progress.jsonl").exists())
    return process


def run_out(process: RunnerProcess, deadline_s: float = 15.0) -> None:
    """Advance until the whole tree is gone."""
    wait_for("end", lambda: process.advance(time.monotonic()), deadline_s)


def members(process: RunnerProcess, number: int) -> list[int]:
    """Wait until the tree has so many processes; give their numbers."""

    def tree() -> list[int] | None:
        found = [p.pid for p in tree_of(process.identity, TOKEN)]
        return found if len(found) == number else None

    return wait_for(f"{number} processes", tree)


def test_it_runs_alone_with_a_clean_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Own session, no input, output in the log, nothing of the mediator's secrets."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    program = (
        "import os, sys; print(os.getsid(0) == os.getpid(), os.getcwd(), sys.stdin.read() == '',"
        " sorted(os.environ))"
    )
    log = tmp_path / "runner.log"
    argv = [sys.executable, "-c", program]
    process = start_runner(argv, clean_environment(TOKEN, "3"), tmp_path, log)
    run_out(process)
    output = log.read_text()
    assert output.startswith(f"True {tmp_path} True")
    assert "SECRET" not in output and "PYTHONPATH" not in output
    assert "CUDA_VISIBLE_DEVICES" in output
    assert process.exit_code == 0
    assert log.stat().st_mode & 0o777 == 0o640


def test_a_runner_that_listens_ends_by_itself(tmp_path: Path) -> None:
    """SIGTERM, then its own exit code."""
    process = start(tmp_path, "sleep:60")
    assert not process.advance(time.monotonic())
    process.ask_to_stop(time.monotonic(), 10.0)
    run_out(process)
    assert (process.exit_code, process.killed) == (75, False)


def test_a_deaf_runner_is_killed_with_its_whole_tree(tmp_path: Path) -> None:
    """Its keeper, its children, and those that left its session, included."""
    process = start(tmp_path, "deaf+grandchild+escapee+sleep:60")
    pids = members(process, 4)
    process.ask_to_stop(time.monotonic(), 0.2)
    run_out(process)
    assert (process.exit_code, process.killed) == (-9, True)
    assert not any(alive(pid) for pid in pids)


def test_what_a_runner_leaves_behind_is_ended(tmp_path: Path) -> None:
    """It is not over while a process of it lives."""
    process = start(tmp_path, "grandchild+escapee+sleep:0.3")
    pids = members(process, 4)
    run_out(process)
    assert process.exit_code == 0
    assert not any(alive(pid) for pid in pids)


def test_a_stopped_runner_is_killed_too(tmp_path: Path) -> None:
    """SIGSTOP is no way out."""
    process = start(tmp_path, "sleep:60")
    send_signal(process.identity, signal.SIGSTOP)
    process.ask_to_stop(time.monotonic(), 0.2)
    run_out(process)
    assert process.exit_code == -9


def test_a_runner_found_again_is_watched_and_ended(tmp_path: Path) -> None:
    """By its identity alone, or by its token alone; its exit code stays unknown."""
    for identity_known in (True, False):
        folder = tmp_path / str(identity_known)
        folder.mkdir()
        started = start(folder, "sleep:60+grandchild")
        pids = members(started, 3)
        oldest = min(tree_of(None, TOKEN), key=lambda p: (p.start_ticks, p.pid))
        assert keeper_of(started.identity, TOKEN) == oldest
        found = RunnerProcess(started.identity if identity_known else oldest, TOKEN)
        found.ask_to_stop(time.monotonic(), 0.5)
        wait_for("end", lambda s=started, f=found: (s.advance(0), f.advance(time.monotonic()))[1])
        assert found.exit_code is None
        assert not any(alive(pid) for pid in pids)


def test_a_reused_number_is_another_process(tmp_path: Path) -> None:
    """A forged identity is dead, has no tree, and its signals reach nobody."""
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        real = identify(stranger.pid)
        assert real is not None and is_alive(real)
        for forged in (
            replace(real, start_ticks=real.start_ticks - 1),
            replace(real, boot_id="another boot"),
        ):
            assert not is_alive(forged)
            assert tree_of(forged, TOKEN) == []
            send_signal(forged, signal.SIGKILL)
            process = RunnerProcess(forged, TOKEN)
            process.ask_to_stop(time.monotonic(), 0.0)
            assert process.advance(time.monotonic() + 1)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
    assert not is_alive(real)
    send_signal(real, signal.SIGKILL)


def test_what_cannot_be_started_is_named(tmp_path: Path) -> None:
    """A missing program, and a log that would lead elsewhere."""
    environment = clean_environment(TOKEN, None)
    with pytest.raises(RunnerStartError, match="cannot be started"):
        start_runner(["/no/such/python"], environment, tmp_path, tmp_path / "runner.log")
    (tmp_path / "link.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunnerStartError):
        start_runner([sys.executable], environment, tmp_path, tmp_path / "link.log")
    assert not (tmp_path / "elsewhere").exists()
