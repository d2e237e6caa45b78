"""Owns `--cleanup`: emptying the log root of what is done with, and of nothing else.

Removed: folders and ledger rows of ended jobs, entries nobody knows, rotated mediator logs. Kept:
`example`, hidden files, the files of the ledger and the broker, `mediator.log`, jobs that wait or
run, and folders whose checkpoint such a job needs. Symbolic links are unlinked, never followed; a
folder on which something is mounted is left.
"""

import json
import logging
import os
import shutil
from pathlib import Path

from configs import JobRefused, Roots, resolve_checkpoint
from configs.artifacts import MEDIATOR_LOG
from mediator.errors import SettingsError
from mediator.job_folder import EXAMPLE_NAME, OWN_PREFIXES
from mediator.ledger import Ledger
from mediator.states import ENDED

_log = logging.getLogger("mediator")


def check_log_root(roots: Roots) -> None:
    """Refuse to clean a folder that holds more than logs.

    Raises:
        SettingsError: the log root is or contains the project, a data root or the home folder.
    """
    logs = roots.logs.resolve()
    for precious in (roots.project.resolve(), *roots.data_roots, Path.home().resolve()):
        if precious.is_relative_to(logs):
            raise SettingsError(
                f"--cleanup with --log-root {logs}: {precious} lies in it and would be removed; "
                "name a folder that holds only logs"
            )


def clean(ledger: Ledger, roots: Roots, *, ledger_is_new: bool) -> int:
    """Remove what is done with below the log root.

    Args:
        ledger: open for writing; its lock makes sure that no mediator runs here.
        roots: the log root is cleaned.
        ledger_is_new: the log root had no ledger until now, so what lies there may be anything;
            then nothing is removed.

    Returns:
        The number of entries removed.
    """
    if ledger_is_new:
        _log.info("cleanup: %s had no ledger, so nothing in it is touched", roots.logs)
        return 0
    jobs = ledger.jobs()
    unfinished = [job for job in jobs if job.state not in ENDED]
    needed = {job.job_id for job in unfinished} | {
        name for job in unfinished for name in _checkpoint_owner(job.spec, roots)
    }
    removed = 0
    for entry in sorted(roots.logs.iterdir()):
        if entry.name not in needed and not _is_kept(entry.name) and _remove(entry):
            removed += 1
    for job in jobs:
        if job.job_id not in needed:
            ledger.forget(job.job_id)
    _log.info("cleanup: %d entries removed below %s", removed, roots.logs)
    return removed


def _is_kept(name: str) -> bool:
    if name.startswith(f"{MEDIATOR_LOG}."):
        return False
    return name == EXAMPLE_NAME or name.startswith((".", *OWN_PREFIXES))


def _checkpoint_owner(spec: str, roots: Roots) -> set[str]:
    """Give the name below the log root that a job's checkpoint_path leads into, if any."""
    value = json.loads(spec).get("checkpoint_path")
    if not isinstance(value, str):
        return set()
    logs = roots.logs.resolve()
    try:
        folder = resolve_checkpoint(roots, value)
    except JobRefused:
        return set()
    return set(folder.relative_to(logs).parts[:1]) if folder.is_relative_to(logs) else set()


def _remove(entry: Path) -> bool:
    try:
        if entry.is_symlink() or not entry.is_dir():
            entry.unlink(missing_ok=True)
        elif _is_mounted_on(entry):
            _log.warning("cleanup: %s left: something is mounted in it", entry)
            return False
        else:
            shutil.rmtree(entry)
    except OSError as error:
        _log.warning("cleanup: %s not removed: %s", entry, error)
        return False
    return True


def _is_mounted_on(folder: Path) -> bool:
    device = folder.parent.stat().st_dev
    walked = os.walk(folder, followlinks=False)
    return any(Path(path).lstat().st_dev != device for path, _, _ in walked)
