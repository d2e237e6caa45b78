"""Owns the warm start: `python -m runner.spawner FD` imports the engine once and forks runners.

The mediator holds the other end of the socket FD (SOCK_SEQPACKET, one JSON object a packet). A fork
is safe only while one thread exists and nothing has touched CUDA: that is checked after importing,
and otherwise the spawner says why and ends. Thread pools of OpenMP, numba and CUDA begin in the
child, as after a cold start; OpenBLAS, which begins its own while it is imported, is held to one
thread here and given its threads back in the child.

A runner is its own session with its own environment, folder and log, and waits for the mediator to
have written it down ("go") before it does anything. It ends unseen when the mediator dies first.

Packets in: {"id", "argv", "env", "cwd", "log", "mark": [variable, value]}, {"go": pid}.
Packets out: {"ready": seconds} or {"refused": reason}; per runner {"id", "pid"} or {"id", "error"},
then {"pid", "exit"} (negative: a signal).
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

MODULES = ("runner.__main__", "runner.device", "runner.ops.train", "runner.ops.evaluate",
           "runner.ops.view")  # fmt: skip
PACKET_BYTES = 1 << 18
NEVER_BEGAN = 70
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
    importlib.import_module("runner.environment").look_up_versions()
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


def _serve(line: socket.socket) -> list[str] | None:
    """Fork runners on request; give None at the end, and in a child its arguments."""
    poll = select.poll()
    poll.register(line.fileno(), select.POLLIN)
    children: dict[int, int] = {}
    gates: dict[int, int] = {}
    while True:
        for descriptor, _ in poll.poll():
            if descriptor != line.fileno():
                poll.unregister(descriptor)
                _bury(line, children.pop(descriptor), descriptor, gates)
                continue
            packet = line.recv(PACKET_BYTES)
            if not packet:
                return None
            request = json.loads(packet)
            if "go" in request:
                _open_gate(gates.pop(request["go"], None))
                continue
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                return _become_runner(line, request, reader)
            os.close(reader)
            gates[pid] = writer
            watch = os.pidfd_open(pid)
            children[watch] = pid
            poll.register(watch, select.POLLIN)


def _bury(line: socket.socket, pid: int, watch: int, gates: dict[int, int]) -> None:
    os.close(watch)
    if (gate := gates.pop(pid, None)) is not None:
        os.close(gate)
    _, status = os.waitpid(pid, 0)
    _say(line, {"pid": pid, "exit": os.waitstatus_to_exitcode(status)})


def _open_gate(gate: int | None) -> None:
    if gate is None:
        return
    with contextlib.suppress(BrokenPipeError):
        os.write(gate, b"g")
    os.close(gate)


# --- in the child ------------------------------------------------------------------------------


def _become_runner(line: socket.socket, request: dict[str, Any], gate: int) -> list[str]:
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        _redirect(request["log"])
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        _write_mark(*request["mark"])
    except (OSError, ValueError) as error:
        _say(line, {"id": request["id"], "error": str(error)})
        os._exit(NEVER_BEGAN)
    _say(line, {"id": request["id"], "pid": os.getpid()})
    line.close()
    os.set_inheritable(gate, False)
    _close_all_but(gate)
    if not os.read(gate, 1):
        os._exit(NEVER_BEGAN)
    os.close(gate)
    _give_threads_back()
    sys.argv = ["runner", *request["argv"]]
    return list(request["argv"])


def _redirect(log: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    output, nothing = os.open(log, flags, 0o640), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.close(nothing)


def _close_all_but(kept: int) -> None:
    last = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208 - a moving folder
    os.closerange(3, kept)
    os.closerange(kept + 1, last + 1)


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


def _give_threads_back() -> None:
    """Let OpenBLAS use as many threads as after a cold start."""
    count = int(os.environ.get("OPENBLAS_NUM_THREADS") or len(os.sched_getaffinity(0)))
    maps = Path("/proc/self/maps").read_text().splitlines()
    for path in {row.split()[-1] for row in maps if "openblas" in row}:
        library = ctypes.CDLL(path)
        for name in _THREADS_OF_BLAS:
            if hasattr(library, name):
                getattr(library, name)(count)
                break


def _say(line: socket.socket, packet: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionError):
        line.send(json.dumps(packet).encode())


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
