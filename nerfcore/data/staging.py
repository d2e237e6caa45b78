"""Owns the folder that a dataset or batch grows in until it is complete.

It lies beside its target as `.tmp-<target>-stage`, is held by a lock (so that two runs cannot share
it), and becomes the target by a rename. An error removes it; a kill leaves it, and the next run
either goes on from it (`resume`) or clears it. Photographs are noted in a journal as they are done;
each one is checked against its checksum before it is taken over.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from nerfcore import atomic
from nerfcore.data.storage import FileRecord, ImageRecord, describe_file
from nerfcore.errors import DataError

_PLAN_FILE: Final = "plan.json"
_JOURNAL_FILE: Final = "journal.jsonl"
WORK_FOLDER: Final = "work"  # removed before the target appears
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class Stage:
    """A target in the making.

    Attributes:
        root: what becomes the target.
        work: for intermediate results.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work = root / WORK_FOLDER
        self._journal = self.work / _JOURNAL_FILE
        self._done = _read_journal(self._journal)
        self._guard = threading.Lock()

    def finished(self, key: str, source: str) -> ImageRecord | None:
        """Return the record of a photograph that an earlier run finished and that is whole.

        Args:
            key: its place in the target.
            source: what it was made from; another one does not count.
        """
        found = self._done.get(key)
        if found is None or found[0] != source or not _is_whole(self.root, found[1]):
            return None
        return found[1]

    def note(self, key: str, source: str, record: ImageRecord) -> None:
        """Note that a photograph is done (called from many threads)."""
        line = json.dumps({"key": key, "source": source, "record": record.model_dump()})
        with self._guard, self._journal.open("a") as journal:
            journal.write(line + "\n")


def _read_journal(path: Path) -> dict[str, tuple[str, ImageRecord]]:
    """Read the journal; a line that a kill cut off ends it."""
    done: dict[str, tuple[str, ImageRecord]] = {}
    if not path.is_file():
        return done
    lines = path.read_text(errors="replace").splitlines()
    for number, line in enumerate(lines):
        try:
            entry = json.loads(line)
            done[entry["key"]] = (entry["source"], ImageRecord.model_validate(entry["record"]))
        except (ValueError, KeyError, TypeError, ValidationError):
            # What follows must not be glued to a half line.
            path.write_text("".join(line + "\n" for line in lines[:number]))
            break
    return done


def _is_whole(root: Path, record: ImageRecord) -> bool:
    files = [record.rgb] + ([] if record.valid is None else [record.valid])
    return all(_matches(root, file) for file in files)


def _matches(root: Path, record: FileRecord) -> bool:
    path = root / record.file
    return (
        path.is_file()
        and path.stat().st_size == record.size_bytes
        and describe_file(root, record.file) == record
    )


@contextlib.contextmanager
def staged(
    target: Path, plan: dict[str, Any], *, resume: bool = False, overwrite: bool = False
) -> Iterator[Stage]:
    """Give a stage that becomes `target` when the block ends without an error.

    Args:
        target: the folder to make.
        plan: JSON that says what is made from what; an unfinished run with another plan is
            refused.
        resume: go on from an unfinished run.
        overwrite: replace an existing target.

    Raises:
        DataError: another run is busy with the target, or its unfinished run had another plan.
        OSError: a full disk, with the mend in its text.
    """
    made = _make_parents(target)
    folder = target.parent / f"{atomic.TEMPORARY_PREFIX}{target.name}-stage"
    with _locked(folder, target):
        _check_plan(folder, plan, target, resume=resume)
        try:
            _prepare(folder, plan, resume=resume)
            yield Stage(folder)
            atomic.fsync_tree(folder)
            shutil.rmtree(folder / WORK_FOLDER)
            _publish(folder, target, overwrite=overwrite)
        except Exception as error:
            shutil.rmtree(folder, ignore_errors=True)
            told = None
            if isinstance(error, OSError) and error.errno in _FULL:
                told = _full_disk(error, target)
            for parent in made:
                with contextlib.suppress(OSError):
                    parent.rmdir()
            if told is not None:
                raise told from error
            raise


def _make_parents(target: Path) -> list[Path]:
    """Make the folders above the target; return those that were missing, innermost first."""
    missing = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _full_disk(error: OSError, target: Path) -> OSError:
    where = target.parent if error.filename is None else Path(str(error.filename))
    free_mb = shutil.disk_usage(target.parent).free / 1e6
    return OSError(
        error.errno,
        f"{where}: the disk is full; what was written for {target} was removed, "
        f"{free_mb:.0f} MB are free now; free more or choose another disk",
    )


@contextlib.contextmanager
def _locked(folder: Path, target: Path) -> Iterator[None]:
    """Make the stage's folder and hold it; the lock goes with the process."""
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{target}: another run is busy making it; wait for it") from error
        if not folder.exists() or os.fstat(descriptor).st_ino != folder.stat().st_ino:
            raise DataError(f"{target}: another run has just made it; look at that one")
        yield
    finally:
        os.close(descriptor)


def _check_plan(folder: Path, plan: dict[str, Any], target: Path, *, resume: bool) -> None:
    plan_file = folder / WORK_FOLDER / _PLAN_FILE
    if not (resume and plan_file.is_file()):
        return
    if json.loads(plan_file.read_text()) != json.loads(json.dumps(plan)):
        raise DataError(
            f"{target}: the unfinished run had other settings or other input; give the same ones, "
            "or leave --resume out to begin anew"
        )


def _prepare(folder: Path, plan: dict[str, Any], *, resume: bool) -> None:
    """Make the stage ready: as the earlier run left it, or empty."""
    plan_file = folder / WORK_FOLDER / _PLAN_FILE
    if resume and plan_file.is_file():
        return
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    plan_file.parent.mkdir()
    atomic.write_text(plan_file, json.dumps(plan))


def _publish(folder: Path, target: Path, *, overwrite: bool) -> None:
    if not target.exists():
        folder.rename(target)
        atomic.fsync_folder(target.parent)
        return
    if not overwrite:
        raise DataError(f"{target}: appeared while it was being made; remove it or choose another")
    retired = target.parent / f"{_retired_prefix(target)}{uuid.uuid4().hex[:8]}"
    target.rename(retired)
    folder.rename(target)
    atomic.fsync_folder(target.parent)
    shutil.rmtree(retired)


def _retired_prefix(target: Path) -> str:
    return f"{atomic.TEMPORARY_PREFIX}{target.name}-old-"


def restore_retired(target: Path) -> None:
    """Mend what a kill between the two renames of a replacement left: the old one comes back."""
    for path in target.parent.glob(f"{_retired_prefix(target)}*"):
        if target.exists():
            shutil.rmtree(path)
        else:
            path.rename(target)
