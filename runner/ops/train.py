"""Owns a train job: the engine's training run, its progress, plots and checkpoints."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from configs import JobFolder, TrainJob
from nerfcore.checkpoint import read_manifest
from nerfcore.checkpoint.files import require_same_frame
from nerfcore.data.dataset import load_dataset
from nerfcore.data.partition import load_partition
from nerfcore.data.records import Dataset
from nerfcore.errors import CheckpointError
from nerfcore.training.loop import TrainResult, train
from nerfcore.training.settings import TrainSettings
from runner.context import JobContext
from runner.device import note_computation
from runner.inputs import Inputs, own_checkpoint
from runner.ops.agreement import (
    job_partition,
    require_same_partition,
    require_stated_architecture,
    stored_settings,
)
from runner.ops.capping import evenly_spaced
from runner.ops.plots import Plots
from runner.ops.settings import model_settings, train_settings

_log = logging.getLogger(__name__)


def run(context: JobContext[TrainJob]) -> dict[str, Any]:
    """Train, and return what result.json says of it.

    Raises:
        InterruptedJobError: stopped on request after saving a checkpoint.
        NerfcoreError: see `nerfcore.errors`.
    """
    job, folder = context.job, context.folder
    dataset = _dataset(job, context.inputs)
    partition = job_partition(job, load_partition(context.inputs.partition))
    start, resume = _start(job, context.inputs, folder)
    if start is not None:
        require_same_frame(start, dataset)
        require_same_partition(start, partition)
    settings = _settings(job, start, resume=resume)
    settings = dataclasses.replace(
        settings, same_run=start is not None and start.is_relative_to(folder.root)
    )
    first_step = int(read_manifest(start)["step"]) if start is not None and resume else 0
    with Plots(folder.tensorboard, first_step) as plots:
        result = train(
            dataset,
            partition,
            settings,
            folder=folder.checkpoints,
            start=start,
            on_progress=_Reporter(context, plots),
            should_stop=context.stop.is_asked,
        )
    context.progress.artifact(folder.tensorboard)
    if result.stopped:
        context.stop.raise_if_asked(f"step {result.last_step} of {job.outer_steps} is saved")
    return _summary(result, dataset, folder)


class _Reporter:
    """Passes the engine's records on to progress.jsonl and the plots."""

    def __init__(self, context: JobContext[TrainJob], plots: Plots) -> None:
        self._context = context
        self._progress = context.progress
        self._plots = plots

    def __call__(self, record: dict[str, Any]) -> None:
        if record["event"] == "progress":
            self._plots.add(record)
            self._progress.progress(**{k: v for k, v in record.items() if k != "event"})
        elif record["event"] == "model":
            computation = {k: v for k, v in record.items() if k != "event"}
            note_computation(self._context.folder.run_json, self._context.job, computation)
        elif record["event"] == "validation":
            self._plots.add(record)
            row = {"split": "old_val", "step": record["step"], "psnr": record["psnr"]}
            self._progress.event("metrics", rows=[row])
        else:
            values = {k: v for k, v in record.items() if k not in ("event", "path")}
            self._progress.event(record["event"], path=Path(record["path"]), **values)


def _dataset(job: TrainJob, inputs: Inputs) -> Dataset:
    dataset = load_dataset(inputs.dataset)
    if dataset.points is None:
        _log.warning(
            "%s has no sparse points: the air before the cameras can fill with fog; "
            "scripts/triangulate_points.py finds them in the photographs",
            dataset.root,
        )
    return evenly_spaced(dataset, job.cap_images)


def _start(job: TrainJob, inputs: Inputs, folder: JobFolder) -> tuple[Path | None, bool]:
    """Return where training begins, and whether with the optimiser's state.

    An earlier attempt of the same job wins over `checkpoint_path`: what was interrupted goes on.
    """
    own = own_checkpoint(folder)
    if own is None:
        return inputs.checkpoint, job.resume
    _log.info("an earlier attempt of this job saved %s; going on from there", own.name)
    return own, True


def _settings(job: TrainJob, start: Path | None, *, resume: bool) -> TrainSettings:
    if start is None:
        return train_settings(job, model_settings(job), resume=False)
    stored = stored_settings(start)
    require_stated_architecture(job, stored, start)
    return train_settings(job, stored, resume=resume)


def _summary(result: TrainResult, dataset: Dataset, folder: JobFolder) -> dict[str, Any]:
    if not result.checkpoint.is_dir():
        raise CheckpointError(f"{result.checkpoint}: training ended without this checkpoint")
    return {
        "step": result.last_step,
        "psnr": result.psnr,
        "train_images": len(dataset.train),
        "checkpoint": str(result.checkpoint.relative_to(folder.root)),
        "artifacts": ["checkpoints", "tensorboard"],
    }
