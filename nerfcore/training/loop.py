"""Owns a training run: data in, steps, validation, checkpoints, a clean stop.

Rates fall exponentially with the run's progress, which is the larger of steps done and time used.
Validation is the PSNR (sRGB) over a fixed random draw of the validation images' pixels.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nerfcore.checkpoint import CheckpointStore, load_optimiser, read_manifest
from nerfcore.data.images import ImageStore
from nerfcore.data.partition import Partition
from nerfcore.data.records import Dataset, ImageSet
from nerfcore.scene import SceneModel
from nerfcore.training.choice import make_stepper
from nerfcore.training.inner_rates import STORED_NAME, InnerRates
from nerfcore.training.learner import Learner, psnr_of
from nerfcore.training.pixels import PixelSampler, RayBatch
from nerfcore.training.schedule import decay, training_sampling
from nerfcore.training.settings import TrainSettings
from nerfcore.training.start import continued_scene, first_scene
from nerfcore.training.validation import batch_mse

OCCUPANCY_EVERY = 16
OCCUPANCY_WARM_UP = 64
OCCUPANCY_CELLS = 16384
VALIDATION_RAYS = 16384

OnProgress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrainResult:
    """How a run ended: last step, newest checkpoint, its validation PSNR, and whether stopped."""

    last_step: int
    checkpoint: Path
    psnr: float | None
    stopped: bool


def train(
    dataset: Dataset,
    partition: Partition,
    settings: TrainSettings,
    *,
    folder: Path,
    start: Path | None,
    on_progress: OnProgress,
    should_stop: Callable[[], bool],
) -> TrainResult:
    """Train a scene model.

    Args:
        dataset, partition: what to learn.
        settings: how.
        folder: a job's `checkpoints/`.
        start: checkpoint folder to begin from, or None.
        on_progress: called with one JSON-able dict an event.
        should_stop: asked before every step; then the run saves and returns.

    Raises:
        CheckpointError, SettingsError, NonFiniteError, DataError: see `nerfcore.errors`.
    """
    on_progress({"event": "progress", "phase": "load", "step": 0, "total": len(dataset.train)})
    store = ImageStore(dataset.train, settings.downscale, budget_bytes=settings.memory_bytes)
    with store:
        run = _Run(dataset, partition, settings, store, folder, start, on_progress)
        return run.until_done(should_stop)


def _evenly(images: ImageSet, count: int) -> ImageSet:
    chosen = np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).round())
    return images.subset(chosen.astype(np.int64))


class _Run:
    """State of one run."""

    def __init__(
        self,
        dataset: Dataset,
        partition: Partition,
        settings: TrainSettings,
        store: ImageStore,
        folder: Path,
        start: Path | None,
        on_progress: OnProgress,
    ) -> None:
        self.settings = settings
        self.on_progress = on_progress
        self.rng = np.random.default_rng(settings.seed)
        self.first_step = 0
        self.used_before_s, self.rays = 0.0, 0
        self.scene = self._scene(dataset, partition, store, start)
        on_progress({"event": "model", **self.scene.computation()})
        self.learner = Learner(self.scene, self.rng)
        if start is not None and settings.resume:
            self.learner.adams, self.learner.background_adam = load_optimiser(start, self.scene)
            manifest = read_manifest(start)
            self.first_step = int(manifest["step"])
            if settings.same_run:
                self.used_before_s = float(manifest["extra"].get("used_s", 0.0))
                self.rays = int(manifest["extra"].get("rays", 0))
        factors = self._inner_rates(start)
        self.stepper = make_stepper(
            self.learner, dataset, partition, settings, store, self.rng, factors
        )
        self.validation = self._validation(dataset)
        self.checkpoints = CheckpointStore(folder, settings.keep_checkpoints)
        self.psnr: float | None = None
        self.validated_step = -1

    def _scene(
        self, dataset: Dataset, partition: Partition, store: ImageStore, start: Path | None
    ) -> SceneModel:
        if start is None:
            return first_scene(dataset, partition, self.settings, store)
        return continued_scene(dataset, self.settings, store, start)

    def _inner_rates(self, start: Path | None) -> InnerRates | None:
        """Learned inner rates, those of the start where it has some; None if not wished for."""
        if not self.settings.learn_inner_rates:
            return None
        count, layout = len(self.scene.partition), self.scene.architecture.layout
        stored = None if start is None else read_manifest(start)["extra"].get(STORED_NAME)
        if stored is None:
            return InnerRates(count, layout)
        return InnerRates.from_json(stored, count, layout)

    def _validation(self, dataset: Dataset) -> RayBatch | None:
        s = self.settings
        if not len(dataset.val) or s.max_val_images < 1:
            return None
        with ImageStore(_evenly(dataset.val, s.max_val_images), s.downscale) as images:
            return PixelSampler(images, np.random.default_rng(0)).draw(VALIDATION_RAYS)

    def until_done(self, should_stop: Callable[[], bool]) -> TrainResult:
        s = self.settings
        self.began_s = self.reported_s = time.monotonic()
        self.rays_reported = self.rays
        step, stopped = self.first_step, False
        while step < s.outer_steps and self._progress(step) < 1.0:
            if should_stop():
                stopped = True
                break
            self._one_step(step)
            step += 1
            if step % s.eval_step == 0:
                self._validate(step)
            if step % s.save_step == 0 and step < s.outer_steps:
                self._save(step)
        if self.validated_step != step:
            self._validate(step)
        return TrainResult(step, self._save(step), self.psnr, stopped)

    def _progress(self, step: int) -> float:
        s = self.settings
        shares = [step / max(1, s.outer_steps)]
        if s.time_limit_s is not None:
            shares.append(self._used_s() / s.time_limit_s)
        if s.max_rays is not None:
            shares.append(self.rays / s.max_rays)
        return max(shares)

    def _used_s(self) -> float:
        """Seconds of training so far, those of interrupted attempts included."""
        return self.used_before_s + time.monotonic() - self.began_s

    def _one_step(self, step: int) -> None:
        s = self.settings
        progress = self._progress(step)
        factor = decay(progress, s.decay_factor)
        self.learner.sampling = training_sampling(self.scene.sampling, progress)
        report = self.stepper.step(s.rates.scaled(factor), factor)
        self.rays += report.rays
        every, warm_up = (OCCUPANCY_EVERY, OCCUPANCY_WARM_UP) if s.algo == "joint" else (1, 4)
        if s.sampling.use_occupancy and step % every == 0 and step >= warm_up:
            grid = self.scene.occupancy
            grid.update(self.scene.densities, self.scene.sampling.step_m, OCCUPANCY_CELLS, self.rng)
        if (step + 1) % s.print_step == 0:
            self._report(step + 1, report.mse, report.samples / max(1, report.rays))

    def _report(self, step: int, mse: float, samples_a_ray: float) -> None:
        now_s = time.monotonic()
        done = self._progress(step)
        elapsed_s = self._used_s()
        rate = (self.rays - self.rays_reported) / max(1e-6, now_s - self.reported_s)
        self.reported_s, self.rays_reported = now_s, self.rays
        self.on_progress(
            {
                "event": "progress",
                "phase": "train",
                "step": step,
                "total": self.settings.outer_steps,
                "done": round(min(1.0, done), 4),
                "loss": mse if math.isfinite(mse) else None,
                "train_psnr": psnr_of(mse) if math.isfinite(mse) else None,
                "psnr": self.psnr,
                "rays": self.rays,
                "rays_per_s": rate,
                "samples_per_ray": samples_a_ray,
                "occupied": self.scene.occupancy.share(),
                "elapsed_s": elapsed_s,
                "eta_s": elapsed_s * max(0.0, 1.0 - done) / max(1e-6, done),
            }
        )

    def _validate(self, step: int) -> None:
        if self.validation is None:
            return
        self.validated_step = step
        psnr = psnr_of(batch_mse(self.scene, self.validation))
        self.psnr = psnr if math.isfinite(psnr) else None  # no score can become the best one
        self.on_progress({"event": "validation", "step": step, "psnr": self.psnr})

    def _save(self, step: int) -> Path:
        optimisers = (self.learner.adams, self.learner.background_adam)
        extra: dict[str, Any] = {
            "algo": self.settings.algo,
            "rays": self.rays,
            "used_s": self._used_s(),
        }
        if self.stepper.factors is not None:
            extra[STORED_NAME] = self.stepper.factors.to_json()
        path = self.checkpoints.save(self.scene, step, self.psnr, extra, optimisers)
        self.on_progress(
            {"event": "checkpoint", "step": step, "path": str(path), "psnr": self.psnr}
        )
        return path
