"""Owns one runner process: its start, its clean environment, and its certain end.

A runner is `python -m runner JOB.json` in its own session, started with a fixed argv and no shell.
It has ended when its whole tree was seen empty: first the runner gets SIGTERM and its grace to
save its work, then everything left of its tree gets SIGKILL. Nothing here blocks; `advance` is
called again and again.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mediator.errors import RunnerStartError
from mediator.proc import TOKEN_VARIABLE, identify, is_alive, send_signal, tree_of
from mediator.records import ProcessIdentity

RUNNER_ARGV: tuple[str, ...] = (sys.executable, "-m", "runner")
LEFTOVER_GRACE_S = 5.0
_PASSED_ON = (
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "TORCH_HOME",
    "XDG_CACHE_HOME",
    "NUMBA_CACHE_DIR",
    "NUMBA_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
)


Launch = Callable[[Sequence[str], Mapping[str, str], Path, Path], "RunnerProcess"]


@dataclass(frozen=True)
class RunnerCommand:
    """How runners are started.

    Attributes:
        argv: the fixed beginning of the command; the job file and the roots follow.
        project_root: working folder.
        log_root: given to the runner, who writes below it.
        data_roots: given to the runner, who reads below them.
    """

    project_root: Path
    log_root: Path
    data_roots: tuple[Path, ...]
    argv: tuple[str, ...] = RUNNER_ARGV

    def for_job(self, job_json: Path) -> list[str]:
        """Give the whole command for one job file."""
        roots = [f"--data-root={root}" for root in self.data_roots]
        return [
            *self.argv,
            str(job_json),
            f"--log-root={self.log_root}",
            f"--project-root={self.project_root}",
            *roots,
        ]


def clean_environment(
    token: str, cuda_devices: str | None, outer: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Give the runner's environment: an allow-list, the slot's devices and the run's token.

    Args:
        token: the run's token.
        cuda_devices: value of CUDA_VISIBLE_DEVICES; None leaves the mediator's own.
        outer: the environment to take from.
    """
    environment = {name: outer[name] for name in _PASSED_ON if name in outer}
    if cuda_devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = cuda_devices
        # the order in which nvidia-smi and --devices number them
        environment.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    environment["PYTHONUNBUFFERED"] = "1"
    environment[TOKEN_VARIABLE] = token
    return environment


def start_runner(
    argv: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path
) -> "RunnerProcess":
    """Start a runner whose output is appended to a log file.

    Args:
        argv: the whole command.
        environment: the whole environment; holds the run's token.
        folder: working folder.
        log: file for stdout and stderr, created with mode 0640.

    Raises:
        RunnerStartError: the program or the log file cannot be opened.
    """
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        output = os.open(log, flags, 0o640)
        try:
            child = subprocess.Popen(
                list(argv),
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        finally:
            os.close(output)
    except OSError as error:
        raise RunnerStartError(f"the runner cannot be started: {error}") from None
    # not reaped yet, so the number is still its own even if it has ended
    identity = identify(child.pid)
    if identity is None:
        raise RunnerStartError(f"the runner (pid {child.pid}) cannot be seen in /proc")
    return RunnerProcess(identity, environment[TOKEN_VARIABLE], OwnChild(child))


class Child(Protocol):
    """What tells a runner's exit code to the mediator that started it."""

    def poll(self) -> int | None:
        """Give the exit code (negative: a signal), or None while it is not known."""

    def will_tell(self) -> bool:
        """Tell whether the exit code will come to be known."""
        ...


@dataclass(frozen=True)
class OwnChild:
    """A child of this very process."""

    child: subprocess.Popen[bytes]

    def poll(self) -> int | None:
        """Give the exit code, or None while it runs."""
        return self.child.poll()

    def will_tell(self) -> bool:
        """Always: nobody else can take it."""
        return True


class RunnerProcess:
    """A runner and its tree, started by this mediator or found alive after a restart.

    Attributes:
        pids: every process number seen in its tree.

    Args:
        identity: the runner.
        token: the run's token.
        child: the process when this mediator started it; gives the exit code.
        begin: lets a runner go that waits until it is written down; does nothing for others.
    """

    def __init__(
        self,
        identity: ProcessIdentity,
        token: str,
        child: Child | None = None,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        self.begin = begin
        self.identity = identity
        self.exit_code: int | None = None
        self.killed = False
        self.pids = {identity.pid}
        self._token = token
        self._child = child
        self._kill_at: float | None = None
        self._asked_leftovers = False

    def ask_to_stop(self, now: float, grace_s: float) -> None:
        """Send SIGTERM to the runner; what is left after the grace is killed by `advance`.

        Asking again can only shorten the grace.
        """
        if self._kill_at is None:
            send_signal(self.identity, signal.SIGTERM)
        due = now + grace_s
        self._kill_at = due if self._kill_at is None else min(due, self._kill_at)

    def advance(self, now: float) -> bool:
        """Look again, and push the end on when it is due.

        Args:
            now: monotonic seconds.

        Returns:
            True when the runner and its whole tree are gone.
        """
        if self._runner_alive():
            if self._kill_at is not None and now >= self._kill_at:
                self._kill(tree_of(self.identity, self._token))
            return False
        left = tree_of(self.identity, self._token)
        self.pids |= {member.pid for member in left}
        if left:
            self._end_leftovers(left, now)
        return not left

    def _runner_alive(self) -> bool:
        if self._child is not None:
            self.exit_code = self._child.poll()
            if self.exit_code is not None or self._child.will_tell():
                return self.exit_code is None
        return is_alive(self.identity)

    def _end_leftovers(self, left: Sequence[ProcessIdentity], now: float) -> None:
        if not self._asked_leftovers:
            self._asked_leftovers = True
            due = now + LEFTOVER_GRACE_S
            self._kill_at = due if self._kill_at is None else min(due, self._kill_at)
            for member in left:
                send_signal(member, signal.SIGTERM)
        elif self._kill_at is not None and now >= self._kill_at:
            self._kill(left)

    def _kill(self, members: Sequence[ProcessIdentity]) -> None:
        self.killed = True
        for member in members:
            send_signal(member, signal.SIGKILL)
