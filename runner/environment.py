"""Owns run.json: what ran, with which versions, on which machine; written before any work."""

import functools
import json
import os
import platform
import socket
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from configs import Job
from configs.secrets import masked
from nerfcore import atomic
from nerfcore.machine import usable_cores

PACKAGES = (
    "skyline-nerf",
    "torch",
    "numpy",
    "numba",
    "pydantic",
    "opencv-python-headless",
    "safetensors",
    "pandas",
    "scikit-image",
    "viser",
)
COMMIT_CHARS = 40


def describe_run(job: Job, job_id: str, folder: Path, project: Path) -> dict[str, Any]:
    """Return what is known of a run without importing anything heavy.

    Args:
        job: the parsed spec; every default is written out.
        job_id: the job's name.
        folder: the job's folder.
        project: the project folder; its git commit is told when it has one.
    """
    return {
        "job_id": job_id,
        "op": job.op,
        "spec": masked(job.model_dump(mode="json")),
        "seed": job.seed,
        "device": {"asked": job.device},
        "backend": {"asked": job.backend},
        "started": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "folder": str(folder),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "platform": _platform(),
        "python": sys.version.split()[0],
        "cpus": usable_cores(),
        "versions": {name: _version(name) for name in PACKAGES},
        "git_commit": git_commit(project),
    }


def write_run(path: Path, record: dict[str, Any]) -> None:
    """Write run.json atomically."""
    atomic.write_text(path, json.dumps(record, indent=1) + "\n")


def git_commit(project: Path) -> str | None:
    """Return the commit checked out in a folder, read from its .git; None without one."""
    git = project / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return _as_commit(head)
        reference = head.removeprefix("ref: ")
        loose = git / reference
        if loose.is_file():
            return _as_commit(loose.read_text().strip())
        packed = (git / "packed-refs").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    found = [line.split()[0] for line in packed if line.endswith(f" {reference}")]
    return _as_commit(found[0]) if found else None


def _as_commit(text: str) -> str | None:
    is_commit = len(text) == COMMIT_CHARS and all(c in "0123456789abcdef" for c in text)
    return text if is_commit else None


@functools.cache
def _platform() -> str:
    return platform.platform()


@functools.cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
