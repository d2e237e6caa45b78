"""Owns the speed rows: the hash grid, training steps and pictures, each beside plain PyTorch.

The engine runs in this process, the reference in another one; they take turns, so that both meet
the same machine.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
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
from bench_reference_worker import STEP_RAYS, ReferenceProcess
from bench_scene import OnProgress, TrainedScene, even_rays, validation_camera

from nerfcore.checkpoint import load_checkpoint, load_optimiser
from nerfcore.data.images import ImageStore
from nerfcore.encoding import numba_grid
from nerfcore.encoding.layout import grid_layout
from nerfcore.field.backends import resolve_device
from nerfcore.geometry.camera import Camera
from nerfcore.scene import SceneModel
from nerfcore.training.learner import Learner
from nerfcore.training.loop import OCCUPANCY_CELLS, OCCUPANCY_EVERY
from nerfcore.training.pixels import PixelSampler
from nerfcore.training.schedule import decay, training_sampling
from nerfcore.training.settings import TrainSettings
from nerfcore.training.steppers import JointStepper

STEPS_A_TURN = OCCUPANCY_EVERY
GRID_REPEATS = 5
FRAME_PX, PREVIEW_PX = (512, 384), (128, 96)
PREVIEWS_A_TURN = 3
REFERENCE_BATCHES = 3
SPEEDUP = 80.0
JOBS_CHUNK_POINTS = 4_000_000
JOBS_CHUNK_RAYS = JOBS_CHUNK_POINTS // SAMPLES
# A preview in one piece. A whole chunk of the jobs takes too long for every round, see PIECE_NOTE.
PIECE_RAYS = PREVIEW_PX[0] * PREVIEW_PX[1]
SAME_CHUNK_RAYS = 4096  # 2,048 is as fast, 12,288 a quarter slower
PIECE_NOTE = (
    f"whole chunks of its jobs ({JOBS_CHUNK_RAYS:,} rays) were a fifth slower when measured once "
    "on a busy machine (rays/s by processor time: 1,620 and 1,405 at 12,288 rays, 1,480 at 16,384, "
    "1,219 at 41,666), so the smaller piece favours the reference"
)


@dataclass(frozen=True)
class Reference:
    """One baseline.

    Attributes:
        kind: of the reference process.
        text: names it; step and render add how it trains and renders.
        rays: that its picture is timed on, in one piece.
        target: whether the promised speed-up is against it.
    """

    kind: str
    text: str
    step: str
    render: str
    rays: int
    target: bool


JOBS = Reference(
    "jobs",
    f"the reference's recipe as its jobs ship it: plain PyTorch, {SAMPLES} uniform samples, "
    "T = 2^20, finest 4096, MLPs 2 + 2 x 64",
    f", steps of {STEP_RAYS:,} rays",
    f", {PIECE_RAYS:,} rays at a time (its chunks of {JOBS_CHUNK_POINTS:,} points are slower)",
    PIECE_RAYS,
    True,
)
SAME = Reference(
    "same",
    f"plain PyTorch with our shipped model, {SAMPLES} uniform samples",
    f", steps of {STEP_RAYS:,} rays",
    f", chunks of {SAME_CHUNK_RAYS:,} rays (about its fastest)",
    SAME_CHUNK_RAYS,
    False,
)
BASELINES = {"": JOBS, "_same_model": SAME}


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
        self.decay = decay(1.0, settings.decay_factor)
        self.rates = settings.rates.scaled(self.decay)
        learner.sampling = training_sampling(scene.sampling, 1.0)
        self.samples_a_ray: list[float] = []

    def rays_per_s(self, steps: int = STEPS_A_TURN) -> float:
        """Take some steps, occupancy updates included, and return their speed."""
        synchronise(self.scene.device)
        began_s = time.perf_counter()
        rays = samples = 0
        for step in range(steps):
            report = self.stepper.step(self.rates, self.decay)
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
    camera = validation_camera(trained.dataset, *FRAME_PX)
    arrays = {f"train_{name}": getattr(batch, name) for name in ("origins", "directions", "rgbs")}
    for baseline in BASELINES.values():
        origins, directions = even_rays(camera, baseline.rays)
        arrays |= {
            f"{baseline.kind}_origins": origins, f"{baseline.kind}_directions": directions,
        }  # fmt: skip
    np.savez(path, **arrays)


@contextlib.contextmanager
def _references(trained: TrainedScene, rays: Path) -> Iterator[dict[str, ReferenceProcess]]:
    """Give the process of each baseline, by the end of its rows' names."""
    device = resolve_device(trained.settings.device).type
    with contextlib.ExitStack() as stack:
        yield {
            end: stack.enter_context(
                ReferenceProcess("recipe", trained.checkpoint, rays, baseline.kind, device)
            )
            for end, baseline in BASELINES.items()
        }


def _speed(reference: ReferenceProcess, do: str) -> float:
    answer = reference.ask(do)
    return answer["rays"] / answer["seconds"]


def train_rows(
    trained: TrainedScene, folder: Path, rounds: int, on_progress: OnProgress
) -> list[Row]:
    """Training steps at the end of the run, against the recipe with both models."""
    scene = load_checkpoint(trained.checkpoint, trained.settings.device, trained.settings.backend)
    learner = Learner(scene, np.random.default_rng(0))
    learner.adams, learner.background_adam = load_optimiser(trained.checkpoint, scene)
    rays, settings = folder / "rays.npz", trained.settings
    with ImageStore(trained.dataset.train, budget_bytes=settings.memory_bytes) as store:
        _draw_rays(trained, store, rays)
        steps = Steps(scene, learner, store, settings)
        with _references(trained, rays) as references:
            measures: dict[str, Callable[[], float]] = {"ours": steps.rays_per_s}
            for end, process in references.items():
                measures[f"train_rays{end}"] = lambda p=process: _speed(p, "step")
            found = in_turn(measures, rounds, lambda done: on_progress("train_rays", done, rounds))
            threads = references[""].about["threads"]
    detail = {
        **trained.facts,
        "samples_per_ray": rounded(median(steps.samples_a_ray)),
        "batch_rays": settings.batch_rays,
        "reference_threads": threads,
    }
    return [_train_row(f"train_rays{end}", b, found, detail) for end, b in BASELINES.items()]


def _train_row(
    name: str, against: Reference, found: Mapping[str, list[float]], detail: dict[str, Any]
) -> Row:
    ratio = paired_ratio(found["ours"], found[name])
    return Row(
        name,
        rounded(median(found["ours"])),
        "rays/s",
        rounded(ratio),
        against.text + against.step,
        f">= {SPEEDUP:g}x" if against.target else None,
        ratio >= SPEEDUP if against.target else None,
        {
            **detail,
            "reference_rays_per_s": rounded(median(found[name])),
            "reference_batch_rays": STEP_RAYS,
            "ours_min_max": spread(found["ours"]),
            "reference_min_max": spread(found[name]),
        },
    )


def _picture_seconds(scene: SceneModel, camera: Camera, pictures: int) -> float:
    synchronise(scene.device)
    began_s = time.perf_counter()
    for _ in range(pictures):
        scene.render(camera, cancelled=lambda: False)
    return (time.perf_counter() - began_s) / pictures


def frame_rows(
    trained: TrainedScene, folder: Path, rounds: int, on_progress: OnProgress
) -> list[Row]:
    """A whole picture and the viewer's preview of it, against the recipe."""
    scene = load_checkpoint(trained.checkpoint, trained.settings.device, trained.settings.backend)
    rays = folder / "rays.npz"
    with ImageStore(trained.dataset.train, budget_bytes=trained.settings.memory_bytes) as store:
        _draw_rays(trained, store, rays)
    frame, preview = (validation_camera(trained.dataset, *size) for size in (FRAME_PX, PREVIEW_PX))
    with _references(trained, rays) as references:
        measures: dict[str, Callable[[], float]] = {
            "frame": lambda: _picture_seconds(scene, frame, 1),
            "preview": lambda: _picture_seconds(scene, preview, PREVIEWS_A_TURN),
        }
        for end, process in references.items():
            measures[f"reference{end}"] = lambda p=process: _speed(p, "render")
        found = in_turn(measures, rounds, lambda done: on_progress("pictures", done, rounds))
    return [
        _picture_row("frame", "", found, trained.facts),
        _picture_row("frame", "_same_model", found, trained.facts),
        _picture_row("preview", "", found, trained.facts),
    ]


def _picture_row(
    view: str, end: str, found: Mapping[str, list[float]], facts: dict[str, Any]
) -> Row:
    """A row of the seconds of our pictures and the rays/s of a baseline."""
    width, height = FRAME_PX if view == "frame" else PREVIEW_PX
    against, count = BASELINES[end], width * height
    ours, theirs = found[view], [count / speed for speed in found[f"reference{end}"]]
    ours_s, ratio = median(ours), paired_ratio(theirs, ours)
    detail = {
        "seconds": rounded(ours_s),
        "seconds_min_max": spread(ours),
        "rays_per_s": rounded(count / ours_s),
        "rendered": "SceneModel.render, as the viewer renders (its previews differ in size alone)",
        "reference_seconds": rounded(median(theirs)),
        "reference_seconds_min_max": spread(theirs),
        "reference_rays_per_s": rounded(count / median(theirs)),
        "reference_timed": f"{against.rays:,} rays spread evenly over the view, in one piece, "
        f"scaled by {count:,}/{against.rays:,}" + (f"; {PIECE_NOTE}" if against is JOBS else ""),
        **{name: facts[name] for name in ("model", "trained_s", "validation_psnr_db")},
    }
    name, text = f"{view}_{width}x{height}{end}", against.text + against.render
    if view == "preview":
        return Row(
            name, rounded(1 / ours_s), "1/s", rounded(ratio), text, ">= 10 a second",
            1 / ours_s >= 10.0, detail,
        )  # fmt: skip
    return Row(
        name, rounded(ours_s), "s", rounded(ratio), text,
        f">= {SPEEDUP:g}x" if against.target else None,
        ratio >= SPEEDUP if against.target else None, detail,
    )  # fmt: skip
