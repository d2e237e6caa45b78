"""Owns taking the checkpoints of a job along that is taken over, where storage is shared.

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

TEMPORARY_NAME = ".tmp-checkpoints"
_log = logging.getLogger("mediator")


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
    temporary = mine.root / TEMPORARY_NAME
    try:
        mine.root.mkdir(mode=0o750, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(temporary)
        _link_tree(theirs.checkpoints, temporary)
        temporary.rename(mine.checkpoints)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _log.warning("job %s: %s cannot be linked (%s); it begins anew",
                     job_id, theirs.checkpoints, error)  # fmt: skip
        return False
    _log.info("job %s: goes on from the checkpoints in %s", job_id, theirs.checkpoints)
    return True


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
