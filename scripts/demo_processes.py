"""Owns the demo's child processes: their start, their certain end, and the signals meanwhile.

Long-lived children (broker, mediator) run in sessions of their own, so that a Ctrl-C in the
terminal reaches only the demo, which then ends them in order. They get SIGTERM, too, should the
demo itself be killed.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

POLL_S = 0.1
KILL_WAIT_S = 5.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class DemoError(Exception):
    """A step failed: one line, and the log that tells more."""

    def __init__(self, message: str, *logs: Path) -> None:
        super().__init__(message)
        self.logs = logs


class Stopped(BaseException):
    """A signal asked the demo to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class _Gate:
    """Whether signals have to wait, and the last that did."""

    held = False
    pending: int | None = None


def _on_signal(number: int, _frame: object) -> None:
    if _Gate.held:
        _Gate.pending = number
    else:
        raise Stopped(number)


def listen_for_signals() -> None:
    """Turn SIGINT, SIGTERM and SIGHUP into `Stopped`; a SIGHUP that nohup ignores stays ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)


def ignore_signals() -> None:
    """Let nothing interrupt the clean-up that ends the demo; its deadlines bound it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Let signals wait for the end of the block, so that no child is started and forgotten."""
    nested, _Gate.held = _Gate.held, True
    try:
        yield
    finally:
        _Gate.held = nested
    if not nested and _Gate.pending is not None:
        number, _Gate.pending = _Gate.pending, None
        raise Stopped(number)


def _follow_the_parent() -> None:
    """Ask the kernel for SIGTERM when the parent dies; runs in the child, before it starts."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Children:
    """The demo's child processes; leaving the context ends them, the newest first."""

    def __init__(self, folder: Path) -> None:
        """Start with none.

        Args:
            folder: working folder of every child.
        """
        self._folder = folder
        self._running: list[tuple[str, subprocess.Popen[bytes], float]] = []

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, *_: object) -> None:
        ignore_signals()
        for name, process, grace_s in reversed(self._running):
            _end(name, process, grace_s)

    def start(self, name: str, argv: Sequence[str], log: Path, grace_s: float) -> int:
        """Start a long-lived child whose output goes to a log.

        Args:
            name: for messages.
            argv: the command.
            log: written anew.
            grace_s: time it gets to end after SIGTERM.

        Returns:
            Its process id.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output, signals_held():
            process = subprocess.Popen(
                argv, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_follow_the_parent,
            )  # fmt: skip
            self._running.append((name, process, grace_s))
        return process.pid

    def check(self) -> None:
        """Raise if a long-lived child has ended.

        Raises:
            DemoError: naming it.
        """
        for name, process, _ in self._running:
            if process.poll() is not None:
                raise DemoError(f"the {name} ended with exit code {process.returncode}")

    def wait_for(self, what: str, ready: Callable[[], bool], limit_s: float) -> None:
        """Wait until something holds, while every long-lived child lives.

        Raises:
            DemoError: a child ended, or the limit passed.
        """
        deadline = time.monotonic() + limit_s
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(f"{what}: not within {limit_s:g} s")
            time.sleep(POLL_S)

    def run(self, argv: Sequence[str]) -> int:
        """Run a command in the terminal to its end, while every long-lived child lives.

        Returns:
            Its exit code.
        """
        process: subprocess.Popen[bytes] | None = None
        try:
            with signals_held():
                process = subprocess.Popen(
                    argv, cwd=self._folder, stdin=subprocess.DEVNULL, preexec_fn=_follow_the_parent
                )
            while process.poll() is None:
                self.check()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
            return process.returncode
        finally:
            if process is not None:
                with signals_held():
                    _end("command", process, KILL_WAIT_S)


def _end(name: str, process: "subprocess.Popen[bytes]", grace_s: float) -> None:
    """End a child: SIGTERM, the grace, SIGKILL."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        print(f"the {name} did not end within {grace_s:g} s; killing it")
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait(KILL_WAIT_S)


def tail(log: Path, lines: int = 25) -> str:
    """Return the last lines of a log, or why there are none."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) or "(empty)"
    except OSError as error:
        return f"({error.strerror})"
