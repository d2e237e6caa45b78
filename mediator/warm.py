"""Owns the warm spawner as the mediator sees it: starting it, asking it for runners, doing without.

Whatever is wrong with it, a runner is started cold instead and the log says why, once per reason.
"""

import json
import logging
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mediator.errors import RunnerStartError
from mediator.limits import LOG_BYTES
from mediator.proc import TOKEN_VARIABLE, identify
from mediator.process import RUNNER_ARGV, RunnerProcess, clean_environment, start_runner

ANSWER_S = 5.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 300.0
PACKET_BYTES = 1 << 18
_log = logging.getLogger("mediator")


class _WarmChild:
    """A runner's exit code, as the spawner tells it."""

    def __init__(self, spawner: "WarmSpawner", keeper: int) -> None:
        self._spawner = spawner
        self._keeper = keeper
        self._generation = spawner.generation
        self._code: int | None = None

    def poll(self) -> int | None:
        """Give the exit code, or None while it is not known."""
        if self._code is None and self.will_tell():
            self._code = self._spawner.take_exit_code(self._keeper)
        return self._code

    def will_tell(self) -> bool:
        """Tell whether the spawner that forked it is still there."""
        return self._spawner.generation == self._generation


class WarmSpawner:
    """Starts runners from a process that has imported the engine.

    Args:
        project_root: working folder of the spawner.
    """

    def __init__(self, project_root: Path) -> None:
        self._folder = project_root
        self._line: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self.generation = 0
        self._codes: dict[int, int] = {}
        self._answers: dict[int, dict[str, Any]] = {}
        self._next_id = 0
        self._told: str | None = None
        self._pause_s = FIRST_PAUSE_S
        self._start_at = 0.0

    def start(self) -> None:
        """Start the spawner process; it is ready some seconds later."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = clean_environment("0" * 32, None)
        environment["OPENBLAS_NUM_THREADS"] = "1"  # no thread may be there when it forks
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "runner.spawner", str(theirs.fileno())],
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            self._fall_back(f"the spawner cannot be started: {error}")
        else:
            ours.setblocking(False)
            self._line, self._ready = ours, False
        finally:
            theirs.close()

    def close(self) -> None:
        """Let the spawner end; its runners go on."""
        if self._line is not None:
            self._line.close()
            self._line = None
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def launch(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        log: Path,
        log_bytes: int = LOG_BYTES,
    ) -> RunnerProcess:
        """Start a runner, warm if possible; the arguments are those of `start_runner`.

        Raises:
            RunnerStartError: it can be started neither way.
        """
        process = self._launch_warm(argv, environment, folder, log, log_bytes)
        return process or start_runner(argv, environment, folder, log, log_bytes)

    def take_exit_code(self, keeper: int) -> int | None:
        """Give the exit code of a keeper's runner, once, if the spawner has told it."""
        self._listen()
        return self._codes.pop(keeper, None)

    def tend(self) -> None:
        """Hear what the spawner says, and start it again when it has ended."""
        self._listen()
        if self._line is None and self._process is None and time.monotonic() >= self._start_at:
            self.start()

    # --- talking ----------------------------------------------------------------------------

    def _launch_warm(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        log: Path,
        log_bytes: int,
    ) -> RunnerProcess | None:
        if tuple(argv[: len(RUNNER_ARGV)]) != RUNNER_ARGV:
            return self._fall_back("it is not the usual runner")
        self._listen()
        if self._line is None:
            return None
        if not self._ready:
            return self._fall_back("the spawner is still importing the engine")
        self._next_id += 1
        token = environment[TOKEN_VARIABLE]
        answer = self._ask({
            "id": self._next_id,
            "argv": list(argv[len(RUNNER_ARGV) :]),
            "env": dict(environment),
            "cwd": str(folder),
            "log": str(log),
            "log_bytes": log_bytes,
            "mark": [TOKEN_VARIABLE, token],
        })  # fmt: skip
        if answer is None:
            return None
        if "error" in answer:
            raise RunnerStartError(f"the runner cannot be started: {answer['error']}")
        pid, keeper = int(answer["pid"]), int(answer["keeper"])
        identity = identify(pid)
        if identity is None:
            return self._fall_back(f"runner {pid} ended before it began")
        return RunnerProcess(
            identity,
            token,
            _WarmChild(self, keeper),
            lambda: self._send({"go": keeper}),
            identify(keeper),
        )

    def _ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
        self._send(request)
        until = time.monotonic() + ANSWER_S
        while self._line is not None and (left_s := until - time.monotonic()) > 0:
            if request["id"] in self._answers:
                return self._answers.pop(request["id"])
            select.select([self._line], [], [], left_s)
            self._listen()
        # a runner that waits for its "go" ends with the spawner, so none is started twice
        return self._give_up(f"the spawner gave no answer within {ANSWER_S:g} s")

    def _send(self, packet: dict[str, Any]) -> None:
        if self._line is None:
            return
        try:
            self._line.send(json.dumps(packet).encode())
        except OSError as error:
            self._give_up(f"the spawner cannot be reached: {error}")

    def _listen(self) -> None:
        while self._line is not None:
            try:
                packet = self._line.recv(PACKET_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._give_up(f"the spawner cannot be heard: {error}")
                return
            if not packet:
                self._give_up("the spawner has ended")
                return
            self._take(json.loads(packet))

    def _take(self, packet: dict[str, Any]) -> None:
        if "ready" in packet:
            self._ready, self._told = True, None
            self._pause_s = FIRST_PAUSE_S
            _log.info("warm spawner ready after %s s (pid %d): jobs start without importing",
                      packet["ready"], self._process.pid if self._process else 0)  # fmt: skip
        elif "refused" in packet:
            self._give_up(str(packet["refused"]))
            self._start_at = float("inf")
        elif "exit" in packet:
            self._codes[int(packet["keeper"])] = int(packet["exit"])
        else:
            self._answers[int(packet["id"])] = packet

    def _give_up(self, reason: str) -> None:
        line, self._line = self._line, None
        self._ready = False
        self.generation += 1
        self._codes.clear()
        if line is not None:
            line.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._start_at = time.monotonic() + self._pause_s
        self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s)
        self._fall_back(reason)

    def _fall_back(self, reason: str) -> None:
        if reason != self._told:
            self._told = reason
            _log.warning("cold start: %s", reason)


def memory_bytes(pid: int | None = None) -> int:
    """Give a process's resident memory, in bytes; this process's by default."""
    statm = Path(f"/proc/{pid or os.getpid()}/statm").read_text().split()
    return int(statm[1]) * os.sysconf("SC_PAGE_SIZE")
