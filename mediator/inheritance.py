"""Owns bringing checkpoints of other mediators here, where storage is shared.

Those of a job that is taken over, so that it goes on from them, and those of a job that has ended
elsewhere, so that jobs which build on it can run here. Nothing of the other mediator's is changed.

Storage is shared when the log root of the mediator that has gone lies beside this one's, in the
same folder, or inside one of the data roots: nothing else is read on the word of a message. Files
of a checkpoint never change once they are there, so they are linked, which takes no time and no
space.
"""

import contextlib
import logging
import os
import shutil
from pathlib import Path

from configs import JobFolder, Roots
from configs.artifacts import CHECKPOINT_INDEX

TEMPORARY_NAME, REPLACED_NAME = ".tmp-checkpoints", ".tmp-replaced"
_log = logging.getLogger("mediator")


def bring_checkpoints(job_id: str, their_logs: Path, roots: Roots) -> bool:
    """Have a job's checkpoints here as they are in the log root of the mediator where it ended.

    Args:
        job_id: a job that has ended there and is not in this mediator's ledger.
        their_logs: the other mediator's log root, by its own word.
        roots: this mediator's.

    Returns:
        True when they are here.
    """
    theirs = JobFolder(their_logs / job_id)
    mine = JobFolder(roots.logs.resolve() / job_id)
    if not _is_shared(theirs.checkpoints, roots):
        return False
    if not (theirs.checkpoints / CHECKPOINT_INDEX).is_file() or mine.root.is_symlink():
        return False
    if _is_same(theirs.checkpoints, mine.checkpoints):
        return True
    if not _link_aside(theirs.checkpoints, mine):
        return False
    _log.info("job %s: its checkpoints in %s are linked here", job_id, theirs.checkpoints)
    return True


def inherit_checkpoints(job_id: str, their_logs: Path, roots: Roots) -> bool:
    """Give a job the checkpoints that another mediator's run of it has left.

    Args:
        job_id: the job.
        their_logs: the other mediator's log root, by its own word.
        roots: this mediator's.

    Returns:
        True when the job goes on from them; False when it begins anew.
    """
    theirs = JobFolder(their_logs / job_id)
    mine = JobFolder(roots.logs.resolve() / job_id)
    if not _is_shared(theirs.checkpoints, roots):
        return False
    if mine.checkpoints.exists() or not (theirs.checkpoints / CHECKPOINT_INDEX).is_file():
        return mine.checkpoints.exists()
    if not _link_aside(theirs.checkpoints, mine):
        _log.warning("job %s: begins anew", job_id)
        return False
    _log.info("job %s: goes on from the checkpoints in %s", job_id, theirs.checkpoints)
    return True


def _link_aside(theirs: Path, mine: JobFolder) -> bool:
    """Link a whole folder of checkpoints or nothing; what an older run left here makes way."""
    temporary, old = mine.root / TEMPORARY_NAME, mine.root / REPLACED_NAME
    try:
        mine.root.mkdir(mode=0o750, exist_ok=True)
        for leftover in (temporary, old):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(leftover)
        _link_tree(theirs, temporary)
        if mine.checkpoints.exists():
            mine.checkpoints.rename(old)
        temporary.rename(mine.checkpoints)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _log.warning("%s cannot be linked to %s: %s", theirs, mine.checkpoints, error)
        return False
    shutil.rmtree(old, ignore_errors=True)
    return True


def _is_same(theirs: Path, mine: Path) -> bool:
    """Tell whether a folder holds what another one holds, by the identity of the files."""
    if not (mine / CHECKPOINT_INDEX).is_file():
        return False
    if (mine / CHECKPOINT_INDEX).read_bytes() != (theirs / CHECKPOINT_INDEX).read_bytes():
        return False
    return all(_is_linked(path, mine / path.relative_to(theirs)) for path in theirs.rglob("*"))


def _is_linked(theirs: Path, mine: Path) -> bool:
    if theirs.name == CHECKPOINT_INDEX or ".tmp-" in str(theirs) or not theirs.is_file():
        return True
    return mine.is_file() and mine.samefile(theirs)


def _is_shared(checkpoints: Path, roots: Roots) -> bool:
    try:
        # a link anywhere below the log root may lead out of it
        logs, real = checkpoints.parents[1].resolve(), checkpoints.resolve()
    except (OSError, RuntimeError, ValueError):
        return False
    own = roots.logs.resolve()
    beside = logs.parent == own.parent
    inside = any(logs.is_relative_to(root.resolve()) for root in roots.data_roots)
    return logs != own and (beside or inside) and real.is_relative_to(logs) and real.is_dir()


def _link_tree(source: Path, target: Path) -> None:
    target.mkdir(mode=0o750)
    for entry in source.iterdir():
        if entry.is_symlink():
            raise OSError(f"{entry} is a symbolic link")
        if entry.name.startswith(".tmp-"):
            continue
        if entry.is_dir():
            _link_tree(entry, target / entry.name)
        elif entry.name == CHECKPOINT_INDEX:
            shutil.copyfile(entry, target / entry.name)  # the one file that is written again
        else:
            os.link(entry, target / entry.name, follow_symlinks=False)
