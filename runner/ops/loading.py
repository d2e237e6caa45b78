"""Owns loading what eval, view and video jobs start from: dataset, partition, model."""

from dataclasses import dataclass, replace
from pathlib import Path

from configs import EvalJob, VideoJob, ViewJob
from nerfcore.checkpoint import load_checkpoint, read_manifest
from nerfcore.checkpoint.files import require_same_frame
from nerfcore.data.dataset import load_dataset
from nerfcore.data.partition import load_partition
from nerfcore.data.records import Dataset
from nerfcore.errors import CheckpointError
from nerfcore.field.backends import check_backend, resolve_device
from nerfcore.field.memory import experts_budget_bytes
from nerfcore.scene import SceneModel
from nerfcore.training.inner_rates import STORED_NAME, InnerRates
from runner.inputs import Inputs
from runner.ops.agreement import (
    job_partition,
    require_same_partition,
    require_stated_architecture,
    stored_settings,
)
from runner.ops.capping import evenly_spaced
from runner.ops.settings import with_job_sampling


@dataclass(frozen=True)
class Loaded:
    """A model with its data.

    Attributes:
        dataset: prepared dataset, training images capped as the job says.
        scene: the checkpoint's model with the job's ray sampling.
        checkpoint: its folder.
        step: training step the checkpoint was taken at.
    """

    dataset: Dataset
    scene: SceneModel
    checkpoint: Path
    step: int


def load_model(job: EvalJob | ViewJob | VideoJob, inputs: Inputs) -> Loaded:
    """Load dataset and checkpoint, after holding them against each other.

    Raises:
        CheckpointError: of another architecture, partition or scene, or damaged.
        DataError, SettingsError, BackendUnavailableError: see `nerfcore.errors`.
    """
    checkpoint = inputs.checkpoint
    if checkpoint is None:
        raise CheckpointError("checkpoint_path: missing; name a train job")
    stored = stored_settings(checkpoint)
    check_backend(job.backend, resolve_device(job.device), stored.variant)
    dataset = evenly_spaced(load_dataset(inputs.dataset), job.cap_images)
    partition = load_partition(inputs.partition)
    margin = job_partition(job, partition).boundary_margin
    require_stated_architecture(job, stored, checkpoint)
    require_same_frame(checkpoint, dataset)
    require_same_partition(checkpoint, partition)
    budget_bytes = experts_budget_bytes(resolve_device(job.device))
    scene = load_checkpoint(checkpoint, job.device, job.backend, budget_bytes=budget_bytes)
    if job.boundary_margin is not None:
        scene = replace(scene, partition=replace(scene.partition, boundary_margin=margin))
    step = int(read_manifest(checkpoint)["step"])
    return Loaded(dataset, with_job_sampling(scene, job), checkpoint, step)


def learned_rates(job: EvalJob, model: Loaded) -> InnerRates | None:
    """Return the inner rates that a checkpoint's training learned, None where a job wants none.

    Raises:
        CheckpointError: the job wants them and the checkpoint has none.
    """
    if not job.use_inner_rates:
        return None
    stored = read_manifest(model.checkpoint)["extra"].get(STORED_NAME)
    if stored is None:
        raise CheckpointError(
            f"use_inner_rates = true: {model.checkpoint} has none; train with learn_inner_rates, "
            "or leave it out"
        )
    scene = model.scene
    return InnerRates.from_json(stored, len(scene.partition), scene.architecture.layout)
