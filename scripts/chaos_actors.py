"""The processes of a chaos run: broker, mediators, clients; starting, killing and pausing them."""

import base64
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kafka_utils import wire
from mediator.proc import TOKEN_VARIABLE, living

HERE = Path(__file__).parent
ROOT = HERE.parent
CLIENTS = ("confluent", "aiokafka", "kafka-python")
START_S = 20.0


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Actor:
    """A process that is started again after each end, its output in a file, `log`."""

    def __init__(self, name: str, command: list[str], log: Path) -> None:
        self.name = name
        self._command = command
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.due: float | None = None

    def start(self) -> None:
        """Start it, unless it runs."""
        self.due = None
        if self.process is not None and self.process.poll() is None:
            return
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self, away_s: float) -> None:
        """Kill it with -9; it is due again after a while."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.due = time.monotonic() + away_s

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def keep(self) -> None:
        """Start it again when it is due, or ended by itself."""
        ended = self.process is None or self.process.poll() is not None
        if ended and (self.due is None or time.monotonic() >= self.due):
            self.start()

    def end(self, timeout_s: float) -> int:
        """End it with SIGTERM; give its exit code, or -9 when it had to be killed."""
        if self.process is None:
            return 0
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return -9


class Client:
    """One foreign producer; calls back with the number of each confirmed message."""

    def __init__(
        self, kind: str, broker: str, topic: str, on_confirmed: Callable[[int], None]
    ) -> None:
        command = [sys.executable, str(HERE / "chaos_client.py"), kind, broker, topic]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._on_confirmed = on_confirmed
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._on_confirmed(int(line))

    def send(self, number: int, key: str | None, value: bytes) -> None:
        """Hand a message over."""
        assert self._process.stdin is not None
        record = {"n": number, "key": key, "value": base64.b64encode(value).decode()}
        self._process.stdin.write(json.dumps(record) + "\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def broker_answers(port: int) -> bool:
    """Tell whether a broker answers at a port of this machine."""
    return wire.probe("127.0.0.1", port) is not None


def runners(folder: Path) -> Iterator[tuple[int, bytes]]:
    """Give the living processes with a run's token that belong to a folder, and their commands."""
    for stat in living():
        with contextlib.suppress(OSError):
            environment = Path(f"/proc/{stat.pid}/environ").read_bytes()
            command = Path(f"/proc/{stat.pid}/cmdline").read_bytes()
            if TOKEN_VARIABLE.encode() in environment and str(folder).encode() in command:
                yield stat.pid, command


def kill_runners(folder: Path, rng: random.Random, *, everything: bool = False) -> int:
    """Kill one runner below a folder, or all of them; give how many."""
    found = sorted(pid for pid, _ in runners(folder))
    chosen = found if everything else rng.sample(found, min(1, len(found)))
    for pid in chosen:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(chosen)
