"""Owns holding a job, its partition and its checkpoint against each other, before any work."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from configs import Job
from nerfcore.checkpoint import read_manifest
from nerfcore.data.partition import Partition
from nerfcore.errors import CheckpointError, DataError, SettingsError
from nerfcore.settings import ModelSettings, model_settings_from_json
from runner.ops.settings import BACKGROUNDS

_CENTROID_TOLERANCE = 1e-4


def stored_settings(checkpoint: Path) -> ModelSettings:
    """Return the architecture of a checkpoint.

    Raises:
        CheckpointError: its manifest is missing or wrong.
    """
    manifest = read_manifest(checkpoint)
    try:
        return model_settings_from_json(manifest["model"])
    except (KeyError, TypeError, ValueError, SettingsError) as error:
        raise CheckpointError(
            f"{checkpoint}/manifest.json: model: {error!r}; use another checkpoint"
        ) from error


def require_stated_architecture(job: Job, stored: ModelSettings, checkpoint: Path) -> None:
    """Hold the architecture fields a job states against its checkpoint's.

    Raises:
        CheckpointError: naming every field that differs, unless `use_stored_args`.
    """
    if job.use_stored_args:
        return
    fields = _as_job_fields(stored)
    wrong = [
        f"{name} {getattr(job, name)!r} (checkpoint: {value!r})"
        for name, value in fields.items()
        if getattr(job, name) is not None and getattr(job, name) != value
    ]
    if wrong:
        raise CheckpointError(
            f"{checkpoint}: another architecture than the job's: {', '.join(wrong)}; give the job "
            "the checkpoint's values, or set use_stored_args to true"
        )


def job_partition(job: Job, partition: Partition) -> Partition:
    """Return the partition with the job's margin, held against the job's number of experts.

    Raises:
        DataError: the job wants another number of experts.
        SettingsError: the job wants a wider margin than the partition was made with.
    """
    if job.num_submodules not in (None, len(partition)):
        raise DataError(
            f"num_submodules = {job.num_submodules}: the partition {partition.name} has "
            f"{len(partition)} experts; set num_submodules to {len(partition)} or choose another "
            "mask_dirname"
        )
    margin = job.boundary_margin
    if margin is None:
        return partition
    if margin > partition.boundary_margin + 1e-6:
        raise SettingsError(
            f"boundary_margin = {margin}: the partition {partition.name} was made with "
            f"{partition.boundary_margin}, at most that can be used; make a wider one with "
            "scripts/create_clusters.py --boundary_margin"
        )
    return dataclasses.replace(partition, boundary_margin=margin)


def require_same_partition(checkpoint: Path, partition: Partition) -> None:
    """Refuse a checkpoint whose experts own other places than the job's partition says.

    Raises:
        CheckpointError: the experts' centres differ, or the manifest does not say.
    """
    try:
        stored = read_manifest(checkpoint)["partition"]
        name, centroids = str(stored["name"]), np.array(stored["centroids"], np.float32)
        is_2d = bool(stored["cluster_2d"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint}/manifest.json: partition: {error!r}; use another checkpoint"
        ) from error
    same_shape = centroids.shape == partition.centroids.shape and is_2d == partition.cluster_2d
    if same_shape and np.allclose(centroids, partition.centroids, atol=_CENTROID_TOLERANCE):
        return
    raise CheckpointError(
        f"{checkpoint}: made with partition {name} ({len(centroids)} experts), the job names "
        f"{partition.name} ({len(partition)} experts) and they differ; set mask_dirname to {name}"
    )


def _as_job_fields(stored: ModelSettings) -> dict[str, Any]:
    colours = {rgb: name for name, rgb in BACKGROUNDS.items()}
    fields = {
        "nerf_variant": stored.variant,
        "log2_hashmap_size": stored.grid.log2_size,
        "max_resolution": stored.grid.max_resolution,
        "sigma_depth": stored.sigma_depth,
        "color_depth": stored.color_depth,
        "dim_hidden": stored.dim_hidden,
        "color_hidden": stored.color_hidden,
        "no_bg_nerf": not stored.use_background,
        "color_space": stored.colour_space,
    }
    if stored.use_background:
        return fields | {"bg_hidden": stored.bg_hidden}
    return fields | {"bg_color_default": colours.get(stored.background_rgb)}
