"""Owns the checks of a job that need the disk or the ledger: what it names must be there.

Done before a job is accepted, so that a wrong name is refused at once and not after a wait in the
queue. What lies inside a dataset or a checkpoint is the runner's to check.
"""

from collections.abc import Callable
from pathlib import Path

from configs import (
    EvalJob,
    Job,
    JobRefused,
    Roots,
    VideoJob,
    ViewJob,
    resolve_checkpoint,
    resolve_data,
)
from configs.artifacts import CHECKPOINT_INDEX, CHECKPOINT_MANIFEST, JobFolder
from configs.paths import resolve_camera_path, resolve_partition
from configs.video import PRESETS
from mediator.states import JobState

# Any one of them makes a folder a dataset, or a partition; the second is the reference system's.
DATASET_FILES = ("dataset.json", "coordinates.pt")
PARTITION_FILES = ("partition.json", "params.pt")
_WILL_HAVE_ONE = frozenset({JobState.QUEUED, JobState.RUNNING, JobState.INTERRUPTED})


class JobUnknown(JobRefused):
    """What is missing may be a job whose message has not come yet."""


def check_requirements(
    job: Job, roots: Roots, state_of: Callable[[str], JobState | None]
) -> str | None:
    """Check that the dataset, the partition, the batch and the checkpoint are there.

    Args:
        job: a parsed job.
        roots: the folders jobs may touch.
        state_of: a job's state; None when the ledger does not know it.

    Returns:
        The id of the unfinished job whose checkpoint this one must wait for, or None.

    Raises:
        JobRefused: one of them is missing or outside the roots; names the field and the mend.
        JobUnknown: what is missing may be a job that is still to come.
    """
    _check_data(job, roots)
    if job.checkpoint_path is None:
        return None
    owner = _check_checkpoint(job.checkpoint_path, roots, state_of)
    follows = isinstance(job, ViewJob) and job.follow  # such a job waits by itself
    return None if follows else owner


def checkpoint_owner(job: Job, roots: Roots) -> str | None:
    """Give the id of the job whose checkpoint a job names, known or not; None for a data folder.

    Raises:
        JobRefused: `checkpoint_path` leads out of the roots.
    """
    if job.checkpoint_path is None:
        return None
    return _owner_of(resolve_checkpoint(roots, job.checkpoint_path), roots.logs.resolve())


def _check_data(job: Job, roots: Roots) -> None:
    dataset = resolve_data(roots, job.data_path, job.data_dirname)
    base = roots.project / job.data_path
    if not base.is_dir():
        raise JobRefused.because(
            f"there is no folder {base}; relative paths start from the project folder",
            "data_path",
            job.data_path,
        )
    if not _holds_one(dataset, DATASET_FILES):
        raise JobRefused.because(
            f"{dataset} holds neither {' nor '.join(DATASET_FILES)}; make the dataset with "
            "scripts/prepare_dataset.py",
            "data_dirname",
            job.data_dirname,
        )
    partition = resolve_partition(roots, dataset, job.mask_dirname)
    if not _holds_one(partition, PARTITION_FILES):
        raise JobRefused.because(
            f"{partition} holds neither {' nor '.join(PARTITION_FILES)}; make the partition with "
            "scripts/create_clusters.py",
            "mask_dirname",
            job.mask_dirname,
        )
    if isinstance(job, EvalJob | ViewJob) and job.batch is not None:
        _check_batch(dataset, job.batch)
    if isinstance(job, VideoJob) and job.camera_path not in PRESETS:
        _check_camera_path(job.camera_path, roots)


def _check_camera_path(value: str, roots: Roots) -> None:
    file = resolve_camera_path(roots, value)
    if not file.is_file():
        raise JobRefused.because(
            f"there is no file {file}; name one of {', '.join(PRESETS)}, or a path saved from the "
            "viewer",
            "camera_path",
            value,
        )


def _holds_one(folder: Path, names: tuple[str, ...]) -> bool:
    return any((folder / name).is_file() for name in names)


def _check_batch(dataset: Path, batch: str) -> None:
    continual = dataset / "continual"
    if not (continual / batch).is_dir():
        known = sorted(p.name for p in continual.iterdir())[:10] if continual.is_dir() else []
        raise JobRefused.because(
            f"there is no batch {continual / batch}; known batches: {', '.join(known) or 'none'}; "
            "name one of them, or add one with scripts/update_dataset.py",
            "batch",
            batch,
        )


def _check_checkpoint(
    value: str, roots: Roots, state_of: Callable[[str], JobState | None]
) -> str | None:
    folder = resolve_checkpoint(roots, value)
    owner = _owner_of(folder, roots.logs.resolve())
    state = None if owner is None else state_of(owner)
    if owner is not None and state in _WILL_HAVE_ONE:
        return owner
    if not folder.is_dir():
        hint = f" (job {owner} ended as {state})" if state is not None else ""
        refusal = JobUnknown if owner is not None and state is None else JobRefused
        raise refusal.because(
            f"there is no job or folder {folder}{hint}; name a train job, or a folder that "
            "holds a checkpoint",
            "checkpoint_path",
            value,
        )
    index = JobFolder(folder).checkpoints / CHECKPOINT_INDEX
    if not index.is_file() and not (folder / CHECKPOINT_MANIFEST).is_file():
        raise JobRefused.because(
            f"{folder} holds no checkpoint (neither checkpoints/{CHECKPOINT_INDEX} nor "
            f"{CHECKPOINT_MANIFEST}); name a train job, or one of its checkpoints",
            "checkpoint_path",
            value,
        )
    return None


def _owner_of(folder: Path, logs: Path) -> str | None:
    """Give the job whose folder this is or lies in, or None."""
    if not folder.is_relative_to(logs):
        return None
    parts = folder.relative_to(logs).parts
    return parts[0] if parts else None
