"""A runner's keeper: a log with a limit that needs no mediator, and nothing left behind."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mediator_bench import alive, wait_for

from mediator import runner_log
from mediator.process import RunnerProcess, clean_environment, start_runner
from mediator.runner_log import CUT_LINE, follow_log
from runner.keeper import CappedLog

TOKEN = "0123456789abcdef"
LIMIT_BYTES = 60_000
CHATTY = """
import sys, time
for number in range(20000):
    sys.stdout.write(f"line {number:06d} of many, and some words to fill it\\n")
    if number % 1000 == 0:
        sys.stdout.flush(); time.sleep(0.02)
"""
LAST_LINE = b"line 019999 of many, and some words to fill it\n"
# a child in a session of its own, without the run's token, as `env -i setsid` makes one
ESCAPE = """
import subprocess, sys, time
child = subprocess.Popen(["sleep", "300"], env={}, start_new_session=True)
open(sys.argv[1], "w").write(str(child.pid))
"""


def start(folder: Path, program: str, *arguments: str) -> RunnerProcess:
    """Start a program as a runner."""
    argv = [sys.executable, "-c", program, *arguments]
    environment = clean_environment(TOKEN, "")
    return start_runner(argv, environment, folder, folder / "runner.log", LIMIT_BYTES)


def run_out(process: RunnerProcess) -> None:
    """Advance until the whole tree is gone."""
    wait_for("end", lambda: process.advance(time.monotonic()))


def test_the_log_is_never_over_its_limit(tmp_path: Path) -> None:
    """Not while it is written either; it keeps its beginning and its end and counts the rest."""
    log, peak, done = tmp_path / "runner.log", [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            sizes = (_size(path) for path in tmp_path.iterdir())
            peak[0] = max(peak[0], sum(sizes))

    process = start(tmp_path, CHATTY)
    watcher = threading.Thread(target=watch)
    watcher.start()
    run_out(process)
    done.set()
    watcher.join()
    text = log.read_bytes()
    assert 0 < peak[0] <= LIMIT_BYTES and len(text) <= LIMIT_BYTES
    assert text.startswith(b"line 000000 ")
    assert text.endswith(LAST_LINE)
    cut = CUT_LINE.search(text)
    assert cut is not None
    whole = 20000 * len(LAST_LINE)
    assert int(cut[1]) + len(text) - len(cut[0]) == whole
    assert log.stat().st_mode & 0o777 == 0o640


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def test_the_log_is_written_without_a_mediator(tmp_path: Path) -> None:
    """Whoever started the runner is killed; all that the runner says later is there, capped."""
    program = (
        "import json, sys; from pathlib import Path; from mediator.process import *;"
        f"folder = Path(sys.argv[1]); p = start_runner([sys.executable, '-c', sys.argv[2]],"
        f" clean_environment({TOKEN!r}, ''), folder, folder / 'runner.log', {LIMIT_BYTES});"
        "print(p.identity.pid, flush=True); import time; time.sleep(60)"
    )
    late = f"import time; time.sleep(0.5)\n{CHATTY}"
    command = [sys.executable, "-c", program, str(tmp_path), late]
    starter = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    runner = int(starter.stdout.readline())
    starter.kill()
    starter.communicate()
    assert alive(runner)
    log = tmp_path / "runner.log"
    wait_for("end", lambda: log.read_bytes().endswith(LAST_LINE))
    assert log.stat().st_size <= LIMIT_BYTES
    wait_for("gone", lambda: not alive(runner))


def test_a_follower_misses_nothing_but_what_was_cut_before_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line once and in order, though the log is cut again and again under it."""
    monkeypatch.setattr(runner_log, "FOLLOW_S", 0.0)
    path = tmp_path / "runner.log"
    log = CappedLog(str(path), 6000)
    numbers = iter(range(10**6))

    def writing_ended() -> bool:
        """Write as the follower looks: less than the log keeps, so that nothing escapes it."""
        number = 0
        for _ in range(40):
            number = next(numbers)
            log.write(f"line {number:06d}\n".encode())
        return number > 4000

    text = "".join(follow_log(path, writing_ended, follow=True))
    lines = [int(n) for n in re.findall(r"line (\d+)\n", text)]
    assert b"were cut here" in path.read_bytes() and path.stat().st_size <= 6000
    assert lines == list(range(len(lines))) and len(lines) > 4000


def test_a_follower_that_fell_behind_is_told_so(tmp_path: Path) -> None:
    """It goes on with the line that says how much is gone."""
    path = tmp_path / "runner.log"
    log = CappedLog(str(path), 6000)
    log.write(b"first\n")
    rounds = iter([False, True])

    def ended() -> bool:
        if last := next(rounds):
            for number in range(2000):
                log.write(f"line {number:06d}\n".encode())
        return last

    text = "".join(follow_log(path, ended, follow=True))
    assert text.startswith("first\nline 000000\n") and text.endswith("line 001999\n")
    assert text.count("were cut here") == 1


def test_a_full_disk_costs_lines_not_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room for a copy the end goes too; the writer never hears of it."""
    path = tmp_path / "runner.log"
    log = CappedLog(str(path), 6000)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    for number in range(1000):
        log.write(f"line {number:06d}\n".encode())
    text = path.read_bytes()
    assert len(text) <= 6000 and text.startswith(b"line 000000\n") and b"were cut here" in text
    assert text.endswith(b"line 000999\n") and list(tmp_path.iterdir()) == [path]


def test_who_leaves_session_and_environment_is_ended_too(tmp_path: Path) -> None:
    """After the runner's own end, though nothing marks it any more."""
    process = start(tmp_path, ESCAPE, str(tmp_path / "pid"))
    run_out(process)
    assert process.exit_code == 0
    assert not alive(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("how", ["kill", "ask"])
def test_who_escaped_is_ended_when_the_runner_is(tmp_path: Path, how: str) -> None:
    """Killed without warning, or asked to stop and deaf."""
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    process = start(tmp_path, f"{deaf}{ESCAPE}time.sleep(60)", str(tmp_path / "pid"))
    escaped = int(wait_for("escaped", lambda: _read(tmp_path / "pid")))
    if how == "kill":
        os.kill(process.identity.pid, signal.SIGKILL)
    else:
        process.ask_to_stop(time.monotonic(), 0.2)
    run_out(process)
    assert process.exit_code == -9 and not alive(escaped)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_a_runner_whose_keeper_is_killed_saves_its_work(tmp_path: Path) -> None:
    """It gets SIGTERM at once."""
    program = (
        "import signal, sys, time\n"
        "def save(*_): open(sys.argv[1], 'w').write('saved'); exit()\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "open(sys.argv[1] + '.ready', 'w'); time.sleep(60)"
    )
    process = start(tmp_path, program, str(tmp_path / "saved"))
    wait_for("ready", (tmp_path / "saved.ready").exists)
    (keeper,) = [m for m in process.look() if m != process.identity]
    os.kill(keeper.pid, signal.SIGKILL)
    wait_for("saved", lambda: _read(tmp_path / "saved") == "saved")
    run_out(process)


@pytest.mark.parametrize("killed", ["keeper", "runner"])
def test_a_killed_keeper_is_told_from_a_killed_runner(tmp_path: Path, killed: str) -> None:
    """Both give the same exit code; only a keeper leaves its runner behind, here a deaf one."""
    program = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "open(sys.argv[1], 'w'); time.sleep(60)"
    )
    process = start(tmp_path, program, str(tmp_path / "ready"))
    wait_for("ready", (tmp_path / "ready").exists)
    (keeper,) = [m for m in process.look() if m != process.identity]
    os.kill(keeper.pid if killed == "keeper" else process.identity.pid, signal.SIGKILL)
    run_out(process)
    assert process.exit_code == -9
    assert process.keeper_killed == (killed == "keeper")


def test_the_exit_code_and_the_signal_are_passed_on(tmp_path: Path) -> None:
    """As if there were no keeper."""
    for number, (program, code) in enumerate(
        {"exit(75)": 75, "import os; os.kill(os.getpid(), 11)": -11, "exit(0)": 0}.items()
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        process = start(folder, program)
        run_out(process)
        assert process.exit_code == code
