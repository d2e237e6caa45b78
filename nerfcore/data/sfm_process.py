"""Owns the reconstruction's process as its parent sees it: start, progress, and its end.

Whatever ends it becomes an error of ours; nothing of it outlives the call.
"""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, Final

from nerfcore.data.reconstruction import Request
from nerfcore.data.sfm_worker import encode_request
from nerfcore.errors import DataError

Progress = Callable[[str, int, int], None]
WORKER_ARGV: Final = (sys.executable, "-m", "nerfcore.data.sfm_worker")
_ROOT: Final = Path(__file__).parents[2]  # where the package is found, installed or not
_KEPT_LINES: Final = 200
_FULL_TEXTS: Final = ("database or disk is full", "No space left on device")
_FULL_BELOW_BYTES: Final = 4_000_000  # SQLite's own files need as much
_TRACE_MARKS: Final = ("*** ", "PC: @", "@ ")  # what the crash handler adds to what was said


def run_apart(request: Request, on_progress: Progress) -> None:
    """Run a reconstruction in a process of its own.

    Args:
        request: what to reconstruct; its work folder exists.
        on_progress: called with (phase, done, total).

    Raises:
        DataError: see `reconstruct_photographs`; or the process ended by itself.
        OSError: the disk is full.
    """
    process = subprocess.Popen(
        [*WORKER_ARGV, str(os.getpid())],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    said: deque[str] = deque(maxlen=_KEPT_LINES)
    listener = threading.Thread(target=_listen, args=(process.stderr, said), daemon=True)
    listener.start()
    try:
        _hand_over(process, request)
        outcome = _follow(process, on_progress)
        code = process.wait()
    finally:
        _end(process)
        listener.join()
    if not outcome.get("done") or code != 0:
        raise _error_of(request, outcome, code, said)


def _listen(stream: IO[str] | None, said: deque[str]) -> None:
    if stream is not None:
        with stream:
            said.extend(line.rstrip() for line in stream)


def _hand_over(process: subprocess.Popen[str], request: Request) -> None:
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(encode_request(request))


def _follow(process: subprocess.Popen[str], on_progress: Progress) -> dict[str, Any]:
    """Pass progress on until the channel ends; return the last word, {} if there was none."""
    outcome: dict[str, Any] = {}
    if process.stdout is None:
        return outcome
    with process.stdout:
        for line in process.stdout:
            if not line.endswith("\n"):
                break  # cut off by its death
            message = json.loads(line)
            if "progress" in message:
                on_progress(*message["progress"])
            else:
                outcome = message
    return outcome


def _end(process: subprocess.Popen[str]) -> None:
    """Leave nothing of the process's session running."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _error_of(
    request: Request, outcome: dict[str, Any], code: int, said: Iterable[str]
) -> DataError | OSError:
    """Return what went wrong."""
    if "error" in outcome:
        return DataError(outcome["error"])
    if "os_error" in outcome:
        number, text, file = outcome["os_error"]
        return OSError(number, text, file or str(request.work))
    last = last_words(said)
    is_full = any(text in last for text in _FULL_TEXTS)
    if is_full or shutil.disk_usage(request.work).free < _FULL_BELOW_BYTES:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(request.work))
    return DataError(death(request.folder, code, last))


def last_words(said: Iterable[str]) -> str:
    """Return the last line that a process said on standard error before its stack trace."""
    last = ""
    for line in said:
        text = line.strip()
        if text.startswith(_TRACE_MARKS):
            break
        last = text or last
    return last


def death(folder: Path, code: int, last: str) -> str:
    """Return what a process's end means, in one line.

    Args:
        folder: the photographs.
        code: its exit code; negative, a signal's number.
        last: its last line on standard error.
    """
    by_signal = f"by signal {_signal_name(-code)}"
    how = by_signal if code < 0 else f"with exit code {code}"
    said = f" ({last})" if last else ""
    mend = "run it again; if it ends so once more, use other photographs or bring a COLMAP model"
    if code == -signal.SIGKILL:
        mend = "most often memory ran out: free some, or use fewer or smaller photographs"
    return f"{folder}: the reconstruction's process ended {how}{said}; {mend}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
