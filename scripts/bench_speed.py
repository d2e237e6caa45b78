"""Owns the speed rows: the hash grid, training steps and pictures, each beside plain PyTorch.

The engine runs in this process, the reference in another one; they take turns, so that both meet
the same machine.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench_measure import (
    GRID_POINTS,
    Row,
    coherent_points,
    grid_settings,
    in_turn,
    median,
    paired_ratio,
    rounded,
    spread,
    synchronise,
)
from bench_reference import SAMPLES
from bench_reference_worker import RENDER_CHUNK_RAYS, STEP_RAYS, ReferenceProcess
from bench_scene import OnProgress, TrainedScene, even_rays, validation_camera

from nerfcore.checkpoint import load_checkpoint, load_optimiser
from nerfcore.data.images import ImageStore
from nerfcore.encoding import numba_grid
from nerfcore.encoding.layout import grid_layout
from nerfcore.geometry.camera import Camera
from nerfcore.scene import SceneModel
from nerfcore.training.learner import Learner
from nerfcore.training.loop import OCCUPANCY_CELLS, OCCUPANCY_EVERY
from nerfcore.training.pixels import PixelSampler
from nerfcore.training.schedule import decay, training_sampling
from nerfcore.training.settings import TrainSettings
from nerfcore.training.steppers import JointStepper

STEPS_A_TURN = 2 * OCCUPANCY_EVERY
GRID_REPEATS = 5
FRAME_PX, PREVIEW_PX = (512, 384), (128, 96)
PREVIEWS_A_TURN = 5
REFERENCE_FRAME_RAYS, REFERENCE_PREVIEW_RAYS = 4096, 2048
REFERENCE_BATCHES = 3
SPEEDUP = 80.0


@dataclass(frozen=True)
class Reference:
    """Which reference process to compare with, and how to name it."""

    kind: str
    text: str


SAME_MODEL = Reference("same", f"uniform {SAMPLES} samples, PyTorch")
OWN_MODEL = Reference("own", "the same with the reference's demo model, T = 2^20")


def hash_grid_row(rounds: int, on_progress: OnProgress) -> Row:
    """Forward and backward of the hash grid on a CPU, compiled against plain PyTorch."""
    layout = grid_layout(grid_settings())
    points = np.ascontiguousarray(coherent_points().T)
    rng = np.random.default_rng(1)
    table = rng.random((layout.rows, layout.features), dtype=np.float32)
    upstream = rng.random((layout.width, GRID_POINTS), dtype=np.float32)
    encoded, grad = np.empty_like(upstream), np.zeros_like(table)

    def ours() -> float:
        began_s = time.perf_counter()
        for _ in range(GRID_REPEATS):
            grad.fill(0.0)
            numba_grid.encode(points, table, layout, encoded)
            numba_grid.scatter(points, upstream, layout, grad)
        return (time.perf_counter() - began_s) / GRID_REPEATS

    with ReferenceProcess("hashgrid") as reference:
        found = in_turn(
            {"ours": ours, "torch": lambda: reference.ask("hashgrid")["seconds"]},
            rounds,
            lambda done: on_progress("hash grid", done, rounds),
        )
    ours_s, torch_s = median(found["ours"]), median(found["torch"])
    ratio = paired_ratio(found["torch"], found["ours"])
    return Row(
        "hashgrid_fwd_bwd",
        rounded(GRID_POINTS / ours_s),
        "points/s",
        rounded(ratio),
        "PyTorch operations",
        ">= 30x",
        ratio >= 30.0,
        {
            "points": GRID_POINTS,
            "table": "16 levels x 2 features, T = 2^19",
            "ours_ms": rounded(1e3 * ours_s),
            "torch_ms": rounded(1e3 * torch_s),
            "ours_ms_min_max": spread([1e3 * s for s in found["ours"]]),
            "torch_ms_min_max": spread([1e3 * s for s in found["torch"]]),
            "torch_points_per_s": rounded(GRID_POINTS / torch_s),
        },
    )


class Steps:
    """Training steps of a scene as a job takes them at the end of its run."""

    def __init__(
        self, scene: SceneModel, learner: Learner, store: ImageStore, settings: TrainSettings
    ) -> None:
        self.scene, self.learner = scene, learner
        self.stepper = JointStepper(learner, PixelSampler(store, learner.rng), settings)
        self.rates = settings.rates.scaled(decay(1.0, settings.decay_factor))
        learner.sampling = training_sampling(scene.sampling, 1.0)
        self.samples_a_ray: list[float] = []

    def rays_per_s(self, steps: int = STEPS_A_TURN) -> float:
        """Take some steps, occupancy updates included, and return their speed."""
        synchronise(self.scene.device)
        began_s = time.perf_counter()
        rays = samples = 0
        for step in range(steps):
            report = self.stepper.step(self.rates)
            rays, samples = rays + report.rays, samples + report.samples
            if step % OCCUPANCY_EVERY == 0 and self.scene.sampling.use_occupancy:
                self.scene.occupancy.update(
                    self.scene.densities,
                    self.scene.sampling.step_m,
                    OCCUPANCY_CELLS,
                    self.learner.rng,
                )
        synchronise(self.scene.device)
        self.samples_a_ray.append(samples / rays)
        return rays / (time.perf_counter() - began_s)


def _draw_rays(trained: TrainedScene, store: ImageStore, path: Path) -> None:
    """Write the rays that the reference trains on and renders."""
    batch = PixelSampler(store, np.random.default_rng(2)).draw(REFERENCE_BATCHES * STEP_RAYS)
    views = {
        "frame": even_rays(validation_camera(trained.dataset, *FRAME_PX), REFERENCE_FRAME_RAYS),
        "preview": even_rays(
            validation_camera(trained.dataset, *PREVIEW_PX), REFERENCE_PREVIEW_RAYS
        ),
    }
    arrays = {f"train_{name}": getattr(batch, name) for name in ("origins", "directions", "rgbs")}
    for view, (origins, directions) in views.items():
        arrays |= {f"{view}_origins": origins, f"{view}_directions": directions}
    np.savez(path, **arrays)


def _train_row(
    name: str, against: Reference, found: dict[str, list[float]], detail: dict[str, Any]
) -> Row:
    ours, theirs = median(found["ours"]), median(found["reference"])
    ratio = paired_ratio(found["ours"], found["reference"])
    return Row(
        name,
        rounded(ours),
        "rays/s",
        rounded(ratio),
        against.text,
        f">= {SPEEDUP:g}x",
        ratio >= SPEEDUP,
        {
            **detail,
            "reference_rays_per_s": rounded(theirs),
            "reference_batch_rays": STEP_RAYS,
            "ours_min_max": spread(found["ours"]),
            "reference_min_max": spread(found["reference"]),
        },
    )


def train_rows(
    trained: TrainedScene, folder: Path, rounds: int, on_progress: OnProgress
) -> list[Row]:
    """Training steps at the end of the run, against the recipe with both models."""
    scene = load_checkpoint(trained.checkpoint, trained.settings.device, trained.settings.backend)
    learner = Learner(scene, np.random.default_rng(0))
    learner.adams, learner.background_adam = load_optimiser(trained.checkpoint, scene)
    rays = folder / "rays.npz"
    rows = []
    settings = trained.settings
    with ImageStore(trained.dataset.train, budget_bytes=settings.memory_bytes) as store:
        _draw_rays(trained, store, rays)
        steps = Steps(scene, learner, store, settings)
        for name, against in (("train_rays", SAME_MODEL), ("train_rays_demo_model", OWN_MODEL)):
            with _recipe(trained, rays, against, scene) as reference:
                found = in_turn(
                    {"ours": steps.rays_per_s, "reference": lambda r=reference: _speed(r, "step")},
                    rounds,
                    lambda done, name=name: on_progress(name, done, rounds),
                )
                detail = {
                    **trained.facts,
                    "samples_per_ray": rounded(median(steps.samples_a_ray)),
                    "batch_rays": settings.batch_rays,
                    "reference_threads": reference.about["threads"],
                }
            rows.append(_train_row(name, against, found, detail))
    return rows


def _recipe(
    trained: TrainedScene, rays: Path, against: Reference, scene: SceneModel
) -> ReferenceProcess:
    return ReferenceProcess("recipe", trained.checkpoint, rays, against.kind, scene.device.type)


def _speed(reference: ReferenceProcess, do: str) -> float:
    answer = reference.ask(do)
    return answer["rays"] / answer["seconds"]


def _frame_seconds(scene: SceneModel, camera: Camera, pictures: int) -> float:
    synchronise(scene.device)
    began_s = time.perf_counter()
    for _ in range(pictures):
        scene.render(camera)
    return (time.perf_counter() - began_s) / pictures


def frame_rows(
    trained: TrainedScene, folder: Path, rounds: int, on_progress: OnProgress
) -> list[Row]:
    """A whole picture and the viewer's preview of it, against the recipe."""
    scene = load_checkpoint(trained.checkpoint, trained.settings.device, trained.settings.backend)
    rays = folder / "rays.npz"
    with ImageStore(trained.dataset.train, budget_bytes=trained.settings.memory_bytes) as store:
        _draw_rays(trained, store, rays)
    rows = []
    with _recipe(trained, rays, SAME_MODEL, scene) as reference:
        for view, (width, height) in (("frame", FRAME_PX), ("preview", PREVIEW_PX)):
            camera = validation_camera(trained.dataset, width, height)
            pictures = 1 if view == "frame" else PREVIEWS_A_TURN
            measures: dict[str, Callable[[], float]] = {
                "ours": lambda c=camera, n=pictures: _frame_seconds(scene, c, n),
                "reference": lambda v=view, n=width * height: n / _speed(reference, v),
            }
            name = f"{view}_{width}x{height}"
            found = in_turn(measures, rounds, lambda done, n=name: on_progress(n, done, rounds))
            rows.append(_frame_row(name, view, found, width * height, trained.facts))
    return rows


def _frame_row(
    name: str, view: str, found: dict[str, list[float]], count: int, facts: dict[str, Any]
) -> Row:
    ours_s, reference_s = median(found["ours"]), median(found["reference"])
    ratio = paired_ratio(found["reference"], found["ours"])
    timed = REFERENCE_FRAME_RAYS if view == "frame" else REFERENCE_PREVIEW_RAYS
    detail = {
        "seconds": rounded(ours_s),
        "seconds_min_max": spread(found["ours"]),
        "rays_per_s": rounded(count / ours_s),
        "reference_seconds": rounded(reference_s),
        "reference_seconds_min_max": spread(found["reference"]),
        "reference_timed": f"{timed} rays spread evenly over the picture, scaled by {count}/"
        f"{timed}, in chunks of {RENDER_CHUNK_RAYS}",
        "trained_s": facts["trained_s"],
        "validation_psnr_db": facts["validation_psnr_db"],
    }
    if view == "preview":
        return Row(
            name, rounded(1 / ours_s), "1/s", rounded(ratio), SAME_MODEL.text, ">= 10 a second",
            1 / ours_s >= 10.0, detail,
        )  # fmt: skip
    return Row(
        name, rounded(ours_s), "s", rounded(ratio), SAME_MODEL.text, f">= {SPEEDUP:g}x",
        ratio >= SPEEDUP, detail,
    )  # fmt: skip
