"""Owns the way from an error to an exit code, and failure.json.

Errors people cause or can mend have a kind of their own and one line; everything else is INTERNAL
with its traceback.
"""

import errno
import json
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from configs import ExitCode, JobRefused
from nerfcore import atomic
from nerfcore.errors import (
    BackendUnavailableError,
    CheckpointError,
    DataError,
    NonFiniteError,
    PortInUseError,
    SettingsError,
)
from runner.stopping import InterruptedJobError

_KINDS: tuple[tuple[type[BaseException], ExitCode], ...] = (
    (InterruptedJobError, ExitCode.INTERRUPTED),
    (JobRefused, ExitCode.BAD_SPEC),
    (SettingsError, ExitCode.BAD_SPEC),
    (DataError, ExitCode.BAD_DATA),
    (CheckpointError, ExitCode.BAD_CHECKPOINT),
    (NonFiniteError, ExitCode.NON_FINITE),
    (BackendUnavailableError, ExitCode.BACKEND_UNAVAILABLE),
    (PortInUseError, ExitCode.PORT_IN_USE),
)
_FULL = (errno.ENOSPC, errno.EDQUOT)
# Libraries written in other languages hand the system's error over as text only.
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded")
_MEMORY_TEXTS = ("can't allocate memory", "CUDA out of memory", "Cannot allocate memory")
TRACEBACK_CHARS = 20_000


def exit_code_of(error: BaseException) -> ExitCode:
    """Return the exit code for an error that ended a job."""
    for part in _chain(error):
        if _is_disk_full(part):
            return ExitCode.DISK_FULL
        if _is_out_of_memory(part):
            return ExitCode.OUT_OF_MEMORY
    for kind, code in _KINDS:
        if isinstance(error, kind):
            return code
    return ExitCode.INTERNAL


def message_of(error: BaseException, code: ExitCode) -> str:
    """Return one line for people: what happened, and for a full disk or memory what to do."""
    text = " ".join(str(error).split()) or type(error).__name__
    if code is ExitCode.DISK_FULL:
        return f"the disk is full ({text}); free some space and publish the job again"
    if code is ExitCode.OUT_OF_MEMORY:
        return f"memory ran out ({text}); lower batch_rays, log2_hashmap_size or downscale"
    if code is ExitCode.INTERNAL:
        return f"{type(error).__name__}: {text}"
    return text


def write_failure(path: Path, error: BaseException, code: ExitCode) -> None:
    """Write failure.json atomically.

    Raises:
        OSError: it cannot be written (a full disk, a read-only folder).
    """
    record = {
        "kind": code.kind,
        "message": message_of(error, code),
        "exit_code": int(code),
        "errors": error.as_dicts() if isinstance(error, JobRefused) else [],
        "traceback": "".join(traceback.format_exception(error))[-TRACEBACK_CHARS:],
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    atomic.write_text(path, json.dumps(record, indent=1) + "\n")


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    part: BaseException | None = error
    while part is not None and id(part) not in seen:
        seen.add(id(part))
        yield part
        part = part.__cause__ or (None if part.__suppress_context__ else part.__context__)


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL
    return any(text in str(error) for text in _FULL_TEXTS)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or _is_torch_out_of_memory(error):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MEMORY_TEXTS)


def _is_torch_out_of_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")  # never imported here: refusals must be quick
    return torch is not None and isinstance(error, torch.OutOfMemoryError)
