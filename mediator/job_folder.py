"""Owns a job's folder as the mediator prepares it: `<log_root>/<job_id>/` with `job.json`.

The folder itself holds the latest attempt, where people and programs look for it. What tells of an
earlier one (its log, its verdict, its progress) is moved to `attempts/<number>/` before the next
begins, so that each attempt is judged by its own. Checkpoints and results of the work stay.
"""

import os
from pathlib import Path

from configs.artifacts import JobFolder

EXAMPLE_NAME = "example"
OWN_PREFIXES = ("ledger.", "broker.", "mediator.")


def clash_of(log_root: Path, job_id: str) -> str | None:
    """Tell why a new job cannot have this folder, or None.

    Args:
        log_root: the log root.
        job_id: an id the ledger does not know.
    """
    path = log_root / job_id
    if job_id == EXAMPLE_NAME:
        return f"{job_id!r} is kept for an example checkpoint; choose another job_id"
    if job_id.lower().startswith(OWN_PREFIXES):
        return f"names that begin with {', '.join(OWN_PREFIXES)} are the mediator's own files'"
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        return f"{path} exists already and is not a job's folder; choose another job_id"
    if path.is_dir() and any(path.iterdir()):
        return (
            f"{path} exists already, and the ledger knows no such job; choose another job_id, "
            "or remove the folder"
        )
    return None


def prepare(folder: JobFolder, spec: str, earlier_attempts: int) -> None:
    """Make the folder ready for a new attempt and write `job.json` into it.

    Args:
        folder: the job's folder.
        spec: the job's spec as JSON.
        earlier_attempts: number of attempts so far.

    Raises:
        OSError: the folder cannot be made or written.
    """
    if folder.root.is_symlink():
        raise OSError(f"{folder.root} is a symbolic link; a job's folder must be a real one")
    folder.root.mkdir(mode=0o750, exist_ok=True)
    _set_aside(folder, earlier_attempts)
    write_private(folder.job_json, spec + "\n")


def _set_aside(folder: JobFolder, attempt: int) -> None:
    there = [path for path in folder.of_one_attempt if path.is_symlink() or path.exists()]
    if not there:
        return
    if folder.attempts.is_symlink():
        raise OSError(f"{folder.attempts} is a symbolic link; it must be a real folder")
    aside = folder.attempts / str(attempt)
    aside.mkdir(mode=0o750, parents=True, exist_ok=True)
    for path in there:
        path.rename(aside / path.name)


def write_private(target: Path, content: str) -> None:
    """Write a text file atomically with mode 0640.

    Raises:
        OSError: it cannot be written; the old content is still there.
    """
    temporary = target.with_name(f".tmp-{target.name}-{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o640)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
