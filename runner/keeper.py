"""Owns a runner's surroundings: it is the runner's parent, writes its log, and ends what it leaves.

`python -I -S keeper.py REPORT_FD LOG LOG_BYTES COMMAND...` starts a runner cold; the warm spawner
calls `keep` in a process it forked. Only the standard library is imported, and nothing of ours, so
that a cold start costs hundredths of a second.

- The runner's stdout and stderr come through a pipe into a log that never exceeds its limit. No
  mediator need live for that.
- The keeper is the subreaper: whatever the runner starts stays below it, also what left the
  runner's session and environment. When the runner has ended, the rest is ended too, and only then
  does the keeper end: with the runner's exit code, or by the runner's signal.
- If the keeper is killed, the runner gets SIGTERM and saves its work.
"""

import contextlib
import ctypes
import os
import resource
import select
import signal
import sys
import time
import traceback
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LEFTOVER_GRACE_S = 5.0
LOOK_MS = 100
CHUNK_BYTES = 1 << 16
LEAST_LOG_BYTES = 4096
MARK = "\n[... {} bytes of this log were cut here: it had grown over its limit ...]\n"
_libc = ctypes.CDLL(None, use_errno=True)


class CappedLog:
    """A log that keeps its beginning and its end.

    The file and the copy made while its middle is cut stay below the limit together. The cut log
    takes the other's place by a rename, so whoever reads the old file has all of it.

    Args:
        path: the file; made with mode 0640, never through a symbolic link.
        limit_bytes: most bytes on disk, >= 4096.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: str, limit_bytes: int) -> None:
        self._path = path
        self._most = max(limit_bytes, LEAST_LOG_BYTES) * 2 // 3
        self._end = self._most // 4 - len(MARK)  # kept at either end
        self._file = _open(path)
        self._size = os.fstat(self._file).st_size
        self._head: int | None = None
        self._mark = b""
        self._cut = 0

    def write(self, data: bytes) -> None:
        """Append; what a full disk has no room for is lost, and the runner goes on."""
        room = self._most // 4
        for at in range(0, len(data), room):
            part = data[at : at + room]
            if self._size + len(part) > self._most:
                self._shorten()
            with contextlib.suppress(OSError):
                while part:
                    written = os.write(self._file, part)
                    self._size += written
                    part = part[written:]

    def _shorten(self) -> None:
        if self._head is None:
            first = os.pread(self._file, self._end, 0)
            self._head = first.rfind(b"\n") + 1 or len(first)
        tail = os.pread(self._file, self._end, self._size - self._end)
        tail = tail[tail.find(b"\n") + 1 :]
        try:
            self._replace(os.pread(self._file, self._head, 0), tail)
        except OSError:
            # no room for a copy: the end goes too
            os.ftruncate(self._file, self._head)
            gone, self._size = self._size - self._head - len(self._mark), self._head
            self._cut, self._mark = self._cut + gone, b""
            with contextlib.suppress(OSError):
                self._mark = MARK.format(self._cut).encode()
                self._size += os.write(self._file, self._mark)

    def _replace(self, head: bytes, tail: bytes) -> None:
        cut = self._cut + self._size - len(head) - len(self._mark) - len(tail)
        mark = MARK.format(cut).encode()
        temporary = f"{self._path}.tmp"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)  # noqa: PTH108 - pathlib is as slow to use as it is to import
        copy = _open(temporary)
        try:
            for part in (head, mark, tail):
                if os.write(copy, part) != len(part):
                    raise OSError("no room for a copy of the log")
            os.replace(temporary, self._path)  # noqa: PTH105
        except OSError:
            os.close(copy)
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
            raise
        os.close(self._file)
        self._file, self._cut, self._mark = copy, cut, mark
        self._size = len(head) + len(mark) + len(tail)


def _open(path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, 0o640)


# --- the runner's parent -----------------------------------------------------------------------


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_with(parent: int) -> None:
    """Get SIGTERM when the keeper, this process's parent, ends."""
    _libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


class Keeper:
    """Follows a runner to its end and that of all it started.

    Args:
        runner: its process number; a child not waited for yet.
        output: the pipe its output comes through.
        log: where it goes; None before a spare process has got a job, then nothing is written.
    """

    def __init__(self, runner: int, output: int, log: CappedLog | None) -> None:
        self._runner = runner
        self._output = output
        self._log = log
        self._status: int | None = None
        self._asked: set[int] = set()

    def keep(self) -> int:
        """Wait for the end of everything; give the runner's exit code (negative: a signal)."""
        ear, mouth = os.pipe()
        for descriptor in (ear, mouth, self._output):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._pass_on())
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        poll = select.poll()
        poll.register(ear, select.POLLIN)
        poll.register(self._output, select.POLLIN)
        ended_at = None
        while self._reap():
            if self._status is not None:
                ended_at = ended_at or time.monotonic()
                self._end_leftovers(time.monotonic() - ended_at)
            for descriptor, _ in poll.poll(None if self._status is None else LOOK_MS):
                if descriptor == ear:
                    os.read(ear, CHUNK_BYTES)
                elif not self._drain(CHUNK_BYTES):
                    poll.unregister(self._output)
        while self._drain(CHUNK_BYTES):
            pass
        return 1 if self._status is None else self._status

    def _pass_on(self) -> None:
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._runner, signal.SIGTERM)

    def _reap(self) -> bool:
        """Bury the dead; tell whether anyone is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._runner:
                self._status = os.waitstatus_to_exitcode(status)

    def _end_leftovers(self, for_s: float) -> None:
        in_grace = for_s < LEFTOVER_GRACE_S
        for pid in descendants(os.getpid()):
            if in_grace and pid in self._asked:
                continue
            self._asked.add(pid)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGTERM if in_grace else signal.SIGKILL)

    def _drain(self, most: int) -> bool:
        """Write what the pipe holds; tell whether there may be more now."""
        try:
            data = os.read(self._output, most)
        except BlockingIOError:
            return False
        if data and self._log is not None:
            self._log.write(data)
        return bool(data)


def descendants(root: int) -> list[int]:
    """Give the processes below one that are not zombies."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            state, parent = _state_and_parent(int(name))
            if state not in "ZX":
                children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    below = list(children.get(root, ()))
    while below:
        pid = below.pop()
        found.append(pid)
        below += children.get(pid, ())
    return found


def _state_and_parent(pid: int) -> tuple[str, int]:
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "X", 0
    return fields[0].decode(), int(fields[1])


def end_like(code: int) -> None:
    """End this process as the runner ended."""
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 1)


# --- a cold start ------------------------------------------------------------------------------


def main(arguments: list[str]) -> None:
    """Start a command and keep it; tell over REPORT_FD "PID START_TICKS", or why it cannot be."""
    report, (path, limit, *command) = int(arguments[0]), arguments[1:]
    os.set_inheritable(report, False)
    try:
        log = CappedLog(path, int(limit))
        adopt_orphans()
        runner, output = _start(command)
    except OSError as error:
        os.write(report, f"{error}\n".encode())
        os._exit(1)
    fields = Path(f"/proc/{runner}/stat").read_bytes().rpartition(b")")[2].split()
    # whoever asked may be gone; the runner goes on
    with contextlib.suppress(OSError):
        os.write(report, f"{runner} {int(fields[19])}\n".encode())
    os.close(report)
    end_like(keep(runner, output, log))


def keep(runner: int, output: int, log: CappedLog | None) -> int:
    """Keep a runner to its end; an error of ours ends in the log and ends the runner."""
    try:
        return Keeper(runner, output, log).keep()
    except BaseException:  # noqa: BLE001 - the process boundary
        if log is not None:
            log.write(traceback.format_exc().encode())
        os._exit(1)


def _start(command: list[str]) -> tuple[int, int]:
    """Start a command in a session of its own; give its number and the pipe of its output.

    Raises:
        OSError: it cannot be executed.
    """
    output, theirs = os.pipe()
    trouble, told = os.pipe()
    me = os.getpid()
    runner = os.fork()
    if runner == 0:
        try:
            os.setsid()
            end_with(me)
            os.dup2(theirs, 1)
            os.dup2(theirs, 2)
            for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            os.execve(command[0], command, os.environ)
        except OSError as error:
            os.write(told, f"{error.errno} {command[0]}".encode())
        os._exit(127)
    os.close(theirs)
    os.close(told)
    problem = os.read(trouble, CHUNK_BYTES).decode()
    os.close(trouble)
    if problem:
        number, _, name = problem.partition(" ")
        raise OSError(int(number), os.strerror(int(number)), name)
    return runner, output


if __name__ == "__main__":
    main(sys.argv[1:])
