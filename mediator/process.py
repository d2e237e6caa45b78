"""Owns one runner process: its start, its clean environment, and its certain end.

A runner is `python -m runner JOB.json` in its own session, started with a fixed argv and no shell,
below a keeper (`runner/keeper.py`) that writes its log and ends what it leaves behind.
It has ended when its whole tree was seen empty: first the runner gets SIGTERM and its grace to
save its work, then everything left of its tree gets SIGKILL. Nothing here blocks; `advance` is
called again and again.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from mediator.errors import RunnerStartError
from mediator.limits import LOG_BYTES
from mediator.proc import (
    TOKEN_VARIABLE,
    boot_id,
    identify,
    is_alive,
    keeper_of,
    send_signal,
    tree_of,
)
from mediator.records import ProcessIdentity

RUNNER_ARGV: tuple[str, ...] = (sys.executable, "-m", "runner")
LEFTOVER_GRACE_S = 5.0
REPORT_S = 10.0
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


Launch = Callable[[Sequence[str], Mapping[str, str], Path, Path, int], "RunnerProcess"]


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
    argv: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    log: Path,
    log_bytes: int = LOG_BYTES,
) -> "RunnerProcess":
    """Start a runner, and the keeper that writes its output to a log file (`runner/keeper.py`).

    Args:
        argv: the whole command.
        environment: the whole environment; holds the run's token.
        folder: working folder.
        log: file for stdout and stderr, created with mode 0640.
        log_bytes: most bytes of it.

    Raises:
        RunnerStartError: the program or the log file cannot be opened.
    """
    ear, mouth = os.pipe()
    command = [sys.executable, "-I", "-S", _keeper(), str(mouth), str(log), str(log_bytes), *argv]
    try:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(mouth,),
            start_new_session=True,
        )
    except OSError as error:
        os.close(ear)
        raise RunnerStartError(f"the runner cannot be started: {error}") from None
    finally:
        os.close(mouth)
    with os.fdopen(ear, "rb") as report:
        answered = select.select([report], [], [], REPORT_S)[0]
        said = report.readline().decode("utf-8", "replace").strip() if answered else ""
    keeper = identify(child.pid)
    numbers = said.split()
    if len(numbers) != 2 or not all(number.isdigit() for number in numbers):
        child.kill()
        child.wait()
        reason = said or f"its keeper said nothing within {REPORT_S:g} s"
        raise RunnerStartError(f"the runner cannot be started: {reason}")
    identity = ProcessIdentity(boot_id(), int(numbers[0]), int(numbers[1]))
    return RunnerProcess(identity, environment[TOKEN_VARIABLE], OwnChild(child), keeper=keeper)


@cache
def _keeper() -> str:
    """Give the path of the keeper's program, without importing the runner's package."""
    found = find_spec("runner")
    if found is None or found.origin is None:
        raise RunnerStartError("the package `runner` is not installed; see README, Installation")
    return str(Path(found.origin).with_name("keeper.py"))


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
        members: every process seen in its tree.
        keeper_killed: the exit code is that of its keeper, which was killed while the runner lived.

    Args:
        identity: the runner.
        token: the run's token.
        child: its keeper when this mediator started it; ends with the whole tree, and with the
            runner's exit code.
        begin: lets a runner go that waits until it is written down; does nothing for others.
        keeper: its keeper; looked for when it is not given.
    """

    def __init__(
        self,
        identity: ProcessIdentity,
        token: str,
        child: Child | None = None,
        begin: Callable[[], None] = lambda: None,
        keeper: ProcessIdentity | None = None,
    ) -> None:
        self.begin = begin
        self.identity = identity
        self.exit_code: int | None = None
        self.killed = False
        self.keeper_killed = False
        self.members = {identity}
        self._token = token
        self._keeper = keeper or keeper_of(identity, token)
        self._child = child
        self._kill_at: float | None = None
        self._asked_leftovers = False

    def ask_to_stop(self, now: float, grace_s: float) -> None:
        """Send SIGTERM to the runner; what is left after the grace is killed by `advance`.

        Asking again can only shorten the grace.
        """
        if self._kill_at is None:
            self.look()
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
                self._kill(self.look(), now)
            return False
        left = self.look()
        if left:
            self._end_leftovers(left, now)
        return not left

    def look(self) -> Sequence[ProcessIdentity]:
        """Give the living processes of its tree, and remember them."""
        tree = tree_of(self.identity, self._token, self.members)
        self.members |= set(tree)
        return tree

    def _runner_alive(self) -> bool:
        if self._child is not None:
            known, self.exit_code = self.exit_code, self._child.poll()
            if known is None and self.exit_code is not None and self.exit_code < 0:
                # it outlives its runner unless somebody kills it
                self.keeper_killed = is_alive(self.identity)
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
            self._kill(left, now)

    def _kill(self, members: Sequence[ProcessIdentity], now: float) -> None:
        self.killed = True
        # the keeper ends by itself after the others, and catches what is being started just now
        others = [member for member in members if member != self._keeper]
        if not others and self._kill_at is not None and now < self._kill_at + LEFTOVER_GRACE_S:
            return
        for member in others or members:
            send_signal(member, signal.SIGKILL)
