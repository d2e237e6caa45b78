"""Owns versions of an adapted model: the new one beside the one it came from, and going back.

A job's `checkpoints/` then holds both, each complete: the original as `step<N>` (its files linked,
so it costs no space on the same disk), the adapted one as `step<M>`. `last` in index.json says
which one counts; going back changes that entry and deletes nothing.
"""

import contextlib
import errno
import json
import os
import shutil
from pathlib import Path

from nerfcore import atomic
from nerfcore.checkpoint.files import MANIFEST, read_manifest
from nerfcore.checkpoint.store import INDEX, announce, read_index
from nerfcore.errors import CheckpointError


def keep_original(folder: Path, original: Path) -> Path:
    """Put a checkpoint into a job's `checkpoints/` as the version to go back to.

    Args:
        folder: made when missing.
        original: a checkpoint folder; its optimiser state is left out.

    Returns:
        Its folder there, which may have been there before.
    """
    target = folder / f"step{int(read_manifest(original)['step'])}"
    if not (target / MANIFEST).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with atomic.new_folder(target) as temporary:
            for path in sorted(original.iterdir()):
                if path.is_file() and not path.name.startswith("optimizer_"):
                    _link(path, temporary / path.name)
    announce(folder, target.name)
    return target


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        with contextlib.suppress(FileNotFoundError):
            target.unlink()
        shutil.copyfile(source, target)


def versions(folder: Path) -> list[str]:
    """Names of the complete versions in a `checkpoints/` folder, oldest first.

    Raises:
        CheckpointError: it holds none.
    """
    index = read_index(folder)
    names = [] if index is None else index["steps"]
    found = [name for name in names if (folder / name / MANIFEST).is_file()]
    if not found:
        raise CheckpointError(f"{folder}: holds no checkpoint; name a job that saved one")
    return found


def roll_back(folder: Path, to: str | None = None) -> tuple[str, str]:
    """Make an earlier version the last one; nothing is deleted.

    Args:
        folder: a job's `checkpoints/`.
        to: the version's name; None = the one before the current one.

    Returns:
        The version that counted and the one that counts now.

    Raises:
        CheckpointError: there is no such version, or none before the current one.
    """
    names, index = versions(folder), read_index(folder) or {}
    current = str(index.get("last"))
    if to is None:
        place = names.index(current) if current in names else len(names)
        if place == 0:
            raise CheckpointError(f"{folder}: {current} is the first version; nothing is before it")
        to = names[place - 1]
    if to not in names:
        raise CheckpointError(f"{folder}: no version {to}; there are {', '.join(names)}")
    atomic.write_text(folder / INDEX, json.dumps({**index, "last": to}) + "\n")
    return current, to
