"""Owns the checks that need no engine: whatever a job names is there, or the job ends in a moment.

Paths are resolved and held inside the roots; a checkpoint's files are compared with its manifest
by size. What is inside the files is the engine's to check.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs import EvalJob, Job, JobRefused, Roots, VideoJob, ViewJob
from configs.artifacts import CHECKPOINT_INDEX, CHECKPOINT_MANIFEST, JobFolder
from configs.paths import (
    resolve_camera_path,
    resolve_checkpoint,
    resolve_data,
    resolve_partition,
)
from configs.video import PRESETS
from nerfcore.errors import CheckpointError, DataError

# Any one of them makes a folder a dataset, or a partition; the second is the reference system's.
DATASET_FILES = ("dataset.json", "coordinates.pt")
PARTITION_FILES = ("partition.json", "params.pt")
TRAIN_AGAIN = "use another checkpoint (prefix) or train again"


@dataclass(frozen=True)
class Inputs:
    """The folders a job reads.

    Attributes:
        dataset: holds one of DATASET_FILES.
        partition: holds one of PARTITION_FILES.
        checkpoint: holds manifest.json; None when the job names none, or follows a train job that
            has saved none yet.
        source: the folder that checkpoint_path names: a job's, or the checkpoint's own.
        camera_path: the camera path's file; None for a preset, and for other operations.
    """

    dataset: Path
    partition: Path
    checkpoint: Path | None
    source: Path | None = None
    camera_path: Path | None = None


def find_inputs(job: Job, roots: Roots) -> Inputs:
    """Return the folders a job reads, after checking that they are there.

    Raises:
        JobRefused: a path leaves the roots.
        DataError: the dataset, partition or batch is missing.
        CheckpointError: the checkpoint is missing, unreadable or truncated.
    """
    dataset = resolve_data(roots, job.data_path, job.data_dirname)
    if not _holds_one(dataset, DATASET_FILES):
        raise DataError(
            f"data_dirname = {job.data_dirname}: {dataset} holds neither "
            f"{' nor '.join(DATASET_FILES)}; make the dataset with scripts/prepare_dataset.py, or "
            "mend data_path or data_dirname"
        )
    partition = resolve_partition(roots, dataset, job.mask_dirname)
    if not _holds_one(partition, PARTITION_FILES):
        raise DataError(
            f"mask_dirname = {job.mask_dirname}: {partition} holds neither "
            f"{' nor '.join(PARTITION_FILES)}; make the partition with scripts/create_clusters.py, "
            "or mend mask_dirname"
        )
    if isinstance(job, EvalJob | ViewJob) and job.batch is not None:
        _check_batch(dataset, job.batch)
    checkpoint = source = None
    if job.checkpoint_path is not None:
        source = resolve_checkpoint(roots, job.checkpoint_path)
        if not (isinstance(job, ViewJob) and job.follow and _has_no_checkpoint(source)):
            checkpoint = find_checkpoint(source, job.prefix)
    return Inputs(dataset, partition, checkpoint, source, _camera_path(job, roots))


def _has_no_checkpoint(folder: Path) -> bool:
    index = JobFolder(folder).checkpoints / CHECKPOINT_INDEX
    return not index.is_file() and not (folder / CHECKPOINT_MANIFEST).is_file()


def _camera_path(job: Job, roots: Roots) -> Path | None:
    if not isinstance(job, VideoJob) or job.camera_path in PRESETS:
        return None
    file = resolve_camera_path(roots, job.camera_path)
    if not file.is_file():
        raise JobRefused.because(
            f"there is no file {file}; name one of {', '.join(PRESETS)}, or a path saved from the "
            "viewer",
            "camera_path",
            job.camera_path,
        )
    return file


def find_checkpoint(folder: Path, prefix: str) -> Path:
    """Return the checkpoint that a folder and a prefix mean, complete by its files' sizes.

    Args:
        folder: a checkpoint (holds manifest.json) or a job's folder.
        prefix: "last", "best" or "stepN"; only for a job's folder.

    Raises:
        CheckpointError: missing, unreadable or truncated.
    """
    if (folder / CHECKPOINT_MANIFEST).is_file():
        _check_sizes(folder)
        return folder
    checkpoints = JobFolder(folder).checkpoints
    while True:
        checkpoint = _chosen_step(checkpoints, prefix)
        try:
            _check_sizes(checkpoint)
        except CheckpointError:
            # a training at work may have put a newer one in its place meanwhile
            if _chosen_step(checkpoints, prefix) == checkpoint:
                raise
        else:
            return checkpoint


def own_checkpoint(folder: JobFolder) -> Path | None:
    """Return the last checkpoint of an earlier attempt of the same job, or None."""
    if not (folder.checkpoints / CHECKPOINT_INDEX).is_file():
        return None
    return find_checkpoint(folder.root, "last")


def _holds_one(folder: Path, names: tuple[str, ...]) -> bool:
    return any((folder / name).is_file() for name in names)


def _check_batch(dataset: Path, name: str) -> None:
    continual = dataset / "continual"
    if (continual / name).is_dir():
        return
    known = sorted(path.name for path in continual.iterdir()) if continual.is_dir() else []
    raise DataError(
        f"batch = {name}: {continual / name} is missing; known batches: "
        f"{', '.join(known) or 'none'}; add one with scripts/update_dataset.py"
    )


def _chosen_step(checkpoints: Path, prefix: str) -> Path:
    index = _read_json(
        checkpoints / CHECKPOINT_INDEX,
        "name a job that has saved a checkpoint, or a folder with manifest.json",
    )
    name = index.get(prefix) if prefix in ("last", "best") else prefix
    chosen = checkpoints / str(name)
    if name is None or not chosen.is_dir():
        steps = ", ".join(map(str, index.get("steps", []))) or "none"
        raise CheckpointError(
            f"prefix = {prefix}: not in {checkpoints}; there are: {steps}, and last and best"
        )
    if not (chosen / CHECKPOINT_MANIFEST).is_file():
        raise CheckpointError(
            f"prefix = {prefix}: {chosen / CHECKPOINT_MANIFEST} is missing; {TRAIN_AGAIN}"
        )
    return chosen


def _check_sizes(checkpoint: Path) -> None:
    manifest = _read_json(checkpoint / CHECKPOINT_MANIFEST, TRAIN_AGAIN)
    files = manifest.get("files")
    if not isinstance(files, dict) or not files:
        raise CheckpointError(f"{checkpoint / CHECKPOINT_MANIFEST}: names no files; {TRAIN_AGAIN}")
    for name, expected in files.items():
        path = checkpoint / name
        if not path.is_file():
            if name.startswith("optimizer_"):
                continue  # older checkpoints shed their optimiser state
            raise CheckpointError(f"{path}: missing; {TRAIN_AGAIN}")
        wanted = expected.get("bytes") if isinstance(expected, dict) else None
        if path.stat().st_size != wanted:
            raise CheckpointError(
                f"{path}: {path.stat().st_size} bytes, {wanted} expected: truncated or changed; "
                f"{TRAIN_AGAIN}"
            )


def _read_json(path: Path, mend: str) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint_path: {path} is missing; {mend}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: unreadable ({error}); {TRAIN_AGAIN}") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{path}: holds no JSON object; {TRAIN_AGAIN}")
    return record
