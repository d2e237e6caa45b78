"""Owns the files of a partition: ours, and (read only) the reference system's.

See `nerfcore.data.partition_record` for what a partition is.
"""

import json
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nerfcore import atomic
from nerfcore.data.partition_record import Partition
from nerfcore.data.reference_partition import is_reference_partition, load_reference_partition
from nerfcore.errors import DataError

__all__ = ["PARTITION_FILE", "Partition", "list_partitions", "load_partition", "save_partition"]

FORMAT_VERSION = 1
PARTITION_FILE = "partition.json"
REMAKE = "make it again with scripts/create_clusters.py"

_Vector = tuple[float, float, float]


class _PartitionRecord(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format_version: Literal[1]
    centroids: list[_Vector] = Field(min_length=1)
    box_mins: list[_Vector]
    box_maxs: list[_Vector]
    aabb: tuple[_Vector, _Vector]
    cluster_2d: bool
    boundary_margin: float = Field(ge=1.0)
    grid_dim: list[int] = Field(min_length=1, max_length=3)
    settings: dict[str, float | int | bool | str | None] = {}


def load_partition(path: Path) -> Partition:
    """Load a partition, ours or one made for the reference system.

    Args:
        path: the folder `masks/<name>` or its partition.json.

    Raises:
        DataError: missing, not JSON, a field is wrong, or a box is empty.
    """
    file = path if path.name == PARTITION_FILE else path / PARTITION_FILE
    if not file.is_file() and is_reference_partition(file.parent):
        partition = load_reference_partition(file.parent)
        _check_boxes(file.parent, partition)
        return partition
    try:
        raw = file.read_text()
    except OSError as error:
        raise DataError(f"{file}: missing or unreadable; {REMAKE}") from error
    try:
        record = _PartitionRecord.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "content"
        raise DataError(f"{file}: {where}: {first['msg']}; {REMAKE}") from error
    partition = Partition(
        file.parent.name,
        np.array(record.centroids, np.float32),
        np.array(record.box_mins, np.float32),
        np.array(record.box_maxs, np.float32),
        np.array(record.aabb, np.float32),
        record.cluster_2d,
        record.boundary_margin,
        tuple(record.grid_dim),
    )
    _check_boxes(file, partition)
    return partition


def list_partitions(root: Path) -> list[Path]:
    """Return the folders of a dataset's partitions, ours and the reference system's, by name."""
    masks = root / "masks"
    if not masks.is_dir():
        return []
    return sorted(
        folder
        for folder in masks.iterdir()
        if (folder / PARTITION_FILE).is_file() or is_reference_partition(folder)
    )


def save_partition(
    folder: Path,
    partition: Partition,
    settings: dict[str, float | int | bool | str | None] | None = None,
) -> Path:
    """Write `folder`/partition.json atomically and return its path.

    Args:
        folder: `masks/<name>`; made when missing.
        settings: how it was made, kept for the reader's information.
    """
    content = {
        "format_version": FORMAT_VERSION,
        "grid_dim": list(partition.grid_dim),
        "cluster_2d": partition.cluster_2d,
        "boundary_margin": partition.boundary_margin,
        "aabb": partition.aabb.tolist(),
        "centroids": partition.centroids.tolist(),
        "box_mins": partition.box_mins.tolist(),
        "box_maxs": partition.box_maxs.tolist(),
        "settings": settings or {},
    }
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        atomic.write_text(folder / PARTITION_FILE, json.dumps(content, indent=1) + "\n")
    except OSError:
        for made in missing:
            made.rmdir()
        raise
    return folder / PARTITION_FILE


def _check_boxes(file: Path, partition: Partition) -> None:
    count = len(partition)
    if not (len(partition.box_mins) == len(partition.box_maxs) == count):
        raise DataError(f"{file}: box_mins and box_maxs must hold {count} boxes each; {REMAKE}")
    if not (partition.aabb[0] < partition.aabb[1]).all():
        raise DataError(f"{file}: aabb: the minimum must lie below the maximum; {REMAKE}")
    empty = ~(partition.box_mins < partition.box_maxs).all(axis=1)
    if empty.any():
        raise DataError(f"{file}: box of expert {int(np.argmax(empty))} is empty; {REMAKE}")
