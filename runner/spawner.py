"""Owns the warm start: `python -m runner.spawner FD` imports the engine, then forks runners.

The mediator holds the other end of the socket FD (SOCK_SEQPACKET, one JSON object a packet). A fork
is safe only while one thread exists and nothing has touched CUDA: that is checked after importing,
and otherwise the spawner says why and ends. Thread pools of OpenMP, numba and CUDA begin in the
child, as after a cold start; OpenBLAS, which would begin its own while it is imported, has one
thread, as the engine wants it anyway (see `nerfcore.field.workers`).

One process is forked ahead and rehearses while it waits: the memory it would copy from the spawner
on first use is its own by the time its job comes.

A runner is its own session with its own environment and folder, below a keeper that writes its log
(see `keeper`), and waits for the mediator to have written it down ("go") before it does anything.
It ends unseen when the mediator dies first.

Packets in: {"id", "argv", "env", "cwd", "log", "log_bytes", "mark": [variable, value]}, and
{"go": keeper}.
Packets out: {"ready": seconds} or {"refused": reason}; per runner {"id", "pid", "keeper"} or
{"id", "error"}, then {"keeper", "exit"} (negative: a signal).
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import itertools
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nerfcore.machine import set_thread_variables
from runner import keeper

MODULES = ("runner.__main__", "runner.device", "runner.ops.train", "runner.ops.evaluate",
           "runner.ops.view")  # fmt: skip
PACKET_BYTES = 1 << 18
NEVER_BEGAN = 70
IDLE_MS = 30  # a runner that has just begun has the processor to itself first
_THREADS_OF_BLAS = (
    "scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads",
    "openblas_set_num_threads64_", "openblas_set_num_threads",
)  # fmt: skip


def main(descriptor: int) -> int:
    """Serve until the mediator closes the socket; in a forked child, run its job.

    Args:
        descriptor: the socket.

    Returns:
        The exit code, of the spawner or of the job.
    """
    line = socket.socket(fileno=descriptor)
    began = time.monotonic()
    reason = _import_all()
    if reason is not None:
        _say(line, {"refused": reason})
        return 1
    importlib.import_module("runner.rehearsal").rehearse()
    gc.collect()
    gc.freeze()
    _say(line, {"ready": round(time.monotonic() - began, 3)})
    arguments = _serve(line)
    if arguments is None:
        return 0
    code = importlib.import_module("runner.__main__").main(arguments)
    # What the interpreter does at its end, in its order, without the last part: taking the engine
    # apart object by object would copy every page shared with the spawner.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _import_all() -> str | None:
    """Import the engine; give the reason why forking would not be safe, or None."""
    try:
        for name in MODULES:
            importlib.import_module(name)
    except ImportError as error:
        return f"the engine cannot be imported: {error}"
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        return f"importing the engine began {threads - 1} further threads; a fork would lose them"
    if importlib.import_module("torch").cuda.is_initialized():
        return "importing the engine has begun CUDA; a forked process cannot use it"
    return None


class _Nursery:
    """The forked keepers, each with its runner: one that waits for its job, and those at work.

    Attributes:
        spare: the waiting keeper's number, or None.
        gates: by keeper, the pipe through which its runner gets its job and then its "go".
        watches: by pidfd, the keeper.
    """

    def __init__(self, line: socket.socket, poll: select.poll) -> None:
        self._line = line
        self._poll = poll
        self.spare: int | None = None
        self.gates: dict[int, int] = {}
        self.watches: dict[int, int] = {}

    def fork(self) -> "_Cradle | None":
        """Fork a keeper and its runner ahead of their job; in the runner, give what it needs."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            _close_all_but(reader, self._line.fileno())
            return _fork_runner(reader, self._line.fileno())
        os.close(reader)
        self.spare = pid
        self.gates[pid] = writer
        watch = os.pidfd_open(pid)
        self.watches[watch] = pid
        self._poll.register(watch, select.POLLIN)
        return None

    def hand_over(self, request: bytes) -> None:
        """Give the waiting process its job."""
        if self.spare is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self.gates[self.spare], request + b"\n")
        self.spare = None

    def let_go(self, pid: int) -> None:
        """Let a runner begin that the mediator has written down."""
        gate = self.gates.pop(pid, None)
        if gate is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(gate, b"g")
            os.close(gate)

    def bury(self, watch: int) -> None:
        """Tell of a process that has ended."""
        self._poll.unregister(watch)
        pid = self.watches.pop(watch)
        os.close(watch)
        if (gate := self.gates.pop(pid, None)) is not None:
            os.close(gate)
        if pid == self.spare:
            self.spare = None
        _, status = os.waitpid(pid, 0)
        _say(self._line, {"keeper": pid, "exit": os.waitstatus_to_exitcode(status)})


def _serve(line: socket.socket) -> list[str] | None:
    """Fork runners on request; give None at the end, and in a child its arguments.

    A process is forked ahead, when nothing else is to be done: copying the page tables of a process
    with the engine in it takes longer than all the rest of a start.
    """
    poll = select.poll()
    poll.register(line.fileno(), select.POLLIN)
    nursery = _Nursery(line, poll)
    while True:
        events = poll.poll(IDLE_MS if nursery.spare is None else None)
        if not events and (cradle := nursery.fork()) is not None:
            return _become_runner(line, cradle)
        for descriptor, _ in events:
            if descriptor != line.fileno():
                nursery.bury(descriptor)
                continue
            packet = line.recv(PACKET_BYTES)
            if not packet:
                return None
            request = json.loads(packet)
            if "go" in request:
                nursery.let_go(request["go"])
                continue
            if nursery.spare is None and (cradle := nursery.fork()) is not None:
                return _become_runner(line, cradle)
            nursery.hand_over(packet)


# --- in the child ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cradle:
    """What a runner forked ahead has.

    Attributes:
        gate: the pipe its job comes through.
        keeper: the socket on which it tells its keeper of the job.
        output: the pipe to its keeper that its output goes into.
    """

    gate: int
    keeper: socket.socket
    output: int


def _fork_runner(gate: int, line: int) -> _Cradle:
    """Become a keeper for good and fork the runner, in which alone this returns."""
    keeper.adopt_orphans()
    os.setsid()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    output, end = os.pipe()
    me = os.getpid()
    runner = os.fork()
    if runner == 0:
        ours.close()
        os.close(output)
        keeper.end_with(me)
        return _Cradle(gate, theirs, end)
    theirs.close()
    for descriptor in (gate, line, end):
        os.close(descriptor)
    _silence(0, 1, 2)
    keeper.end_like(keeper.keep(runner, output, _hear_of_job(ours)))
    raise AssertionError  # it has ended


def _hear_of_job(ear: socket.socket) -> "keeper.CappedLog | None":
    """In a keeper, wait for the job and open its log; None when the runner ends without one."""
    try:
        packet = ear.recv(PACKET_BYTES)
        if not packet:
            return None
        job = json.loads(packet)
        _write_mark(*job["mark"])
        log = keeper.CappedLog(job["log"], job["log_bytes"])
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError):
            ear.send(str(error).encode())
        return None
    with contextlib.suppress(OSError):
        ear.send(b"ok")
    return log


def _tell_keeper(cradle: _Cradle, request: dict[str, Any]) -> None:
    """Have the keeper open the log.

    Raises:
        OSError: it cannot.
    """
    job = {name: request[name] for name in ("mark", "log", "log_bytes")}
    cradle.keeper.send(json.dumps(job).encode())
    said = cradle.keeper.recv(PACKET_BYTES).decode()
    cradle.keeper.close()
    if said != "ok":
        raise OSError(said or "its keeper has ended")


def _become_runner(line: socket.socket, cradle: _Cradle) -> list[str]:
    importlib.import_module("runner.rehearsal").rehearse()
    gate = cradle.gate
    request = _read_request(gate)
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        _tell_keeper(cradle, request)
        _silence(0)
        for standard in (1, 2):
            os.dup2(cradle.output, standard)
        os.close(cradle.output)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        set_thread_variables()
        _write_mark(*request["mark"])
    except (OSError, ValueError) as error:
        _say(line, {"id": request["id"], "error": str(error)})
        os._exit(NEVER_BEGAN)
    _say(line, {"id": request["id"], "pid": os.getpid(), "keeper": os.getppid()})
    line.close()
    if not os.read(gate, 1):
        os._exit(NEVER_BEGAN)
    os.close(gate)
    sys.argv = ["runner", *request["argv"]]
    return list(request["argv"])


def _read_request(gate: int) -> dict[str, Any]:
    """Wait for the job; end with the spawner if none comes."""
    received = b""
    while not received.endswith(b"\n"):
        # the "go" comes only after the answer, so nothing can follow the line's end
        chunk = os.read(gate, PACKET_BYTES)
        if not chunk:
            os._exit(NEVER_BEGAN)
        received += chunk
    return json.loads(received)


def _silence(*descriptors: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        os.dup2(nothing, descriptor)
    os.close(nothing)


def _close_all_but(*kept: int) -> None:
    last = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208 - a moving folder
    edges = [2, *sorted(kept), last + 1]
    for low, high in itertools.pairwise(edges):
        os.closerange(low + 1, high)


def _write_mark(name: str, value: str) -> None:
    """Write a variable into the memory that /proc shows as this process's environment.

    A fork keeps the spawner's; the mediator finds a run's processes by this variable, which the
    spawner was started with at the same length.
    """
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[47]), int(fields[48])
    block = ctypes.string_at(start, end - start)
    at = (b"\0" + block).find(b"\0" + name.encode() + b"=")
    room = block.find(b"\0", at) - at - len(name) - 1 if at >= 0 else -1
    if room != len(value):
        raise ValueError(f"{name}: {len(value)} characters do not fit the {room} there")
    ctypes.memmove(start + at + len(name) + 1, value.encode(), len(value))


def _say(line: socket.socket, packet: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionError):
        line.send(json.dumps(packet).encode())


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
