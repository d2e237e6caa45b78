"""Owns the scene that is measured: a prepared dataset, or a city made for the run, and a model
trained on it as a job with the shipped configs/train.json trains."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench_measure import BenchError
from numpy.typing import NDArray

from configs import JobRefused, TrainJob, parse_job
from nerfcore.checkpoint import read_manifest
from nerfcore.city import CitySettings, Event, write_city
from nerfcore.data.clusters import ClusterSettings, make_partition
from nerfcore.data.dataset import load_dataset
from nerfcore.data.partition import Partition
from nerfcore.data.prepare import PrepareSettings, prepare_dataset
from nerfcore.data.records import Dataset
from nerfcore.geometry.camera import Camera
from nerfcore.training.loop import train
from nerfcore.training.settings import TrainSettings
from runner.ops.settings import model_settings, train_settings

ROOT = Path(__file__).resolve().parents[1]
SHIPPED_JOB = ROOT / "configs" / "train.json"
EXPERTS_ACROSS = 2
NEVER = 1 << 30

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TrainedScene:
    """A trained scene and how its training went.

    Attributes:
        dataset, settings: what it was trained on and how.
        checkpoint: its folder.
        facts: of the run, for rows' details.
    """

    dataset: Dataset
    settings: TrainSettings
    checkpoint: Path
    facts: dict[str, Any]


def shipped_settings(device: str = "auto", **changes: Any) -> TrainSettings:
    """Return the training settings of the shipped train job.

    Args:
        device: "auto", "cpu" or "cuda".
        changes: fields of `TrainSettings` to replace.

    Raises:
        BenchError: the shipped file is no train job.
    """
    try:
        job = parse_job(SHIPPED_JOB.read_bytes())
    except JobRefused as error:
        raise BenchError(f"{SHIPPED_JOB}: {error}") from error
    if not isinstance(job, TrainJob):
        raise BenchError(f"{SHIPPED_JOB}: op is {job.op}, expected train")
    settings = train_settings(job, model_settings(job), resume=False)
    return dataclasses.replace(settings, device=device, **changes)


def make_city_dataset(folder: Path, on_progress: OnProgress) -> Dataset:
    """Make a small city, fly over it at 512x384 and prepare the flight below `folder`."""
    city = CitySettings(
        images=64, update_images=4, width_px=512, height_px=384, event=Event.NONE, supersampling=1
    )
    write_city(folder / "city", city, on_progress)
    return prepare_dataset(
        folder / "city" / "before",
        folder / "prepared",
        PrepareSettings(val_split=0.12, ecef_to_enu=True),
        on_progress,
    )


def open_dataset(path: Path | None, folder: Path, on_progress: OnProgress) -> Dataset:
    """Load the dataset given, or make one below `folder`."""
    return make_city_dataset(folder, on_progress) if path is None else load_dataset(path)


def grid_experts(dataset: Dataset, across: int) -> Partition:
    """Divide the scene into across x across experts as create_clusters.py does."""
    settings = ClusterSettings(grid_dim=(across, across), cluster_2d=True)
    return make_partition(dataset, settings, f"g{across}")


def train_scene(
    dataset: Dataset, settings: TrainSettings, folder: Path, on_progress: OnProgress
) -> TrainedScene:
    """Train with four experts until the time limit and return what came out."""
    limit_s = settings.time_limit_s or 0.0
    partition = grid_experts(dataset, EXPERTS_ACROSS)
    reports: list[dict[str, Any]] = []

    def listen(event: dict[str, Any]) -> None:
        if event.get("phase") == "train":
            reports.append(event)
            on_progress("training", min(round(event["elapsed_s"]), round(limit_s)), round(limit_s))

    result = train(
        dataset, partition, settings, folder=folder, start=None, on_progress=listen,
        should_stop=lambda: False,
    )  # fmt: skip
    if not reports:
        raise BenchError(f"train_seconds: {limit_s:g} s is not enough for one report; allow more")
    run = read_manifest(result.checkpoint)["extra"]
    facts = {
        "model": f"configs/train.json with time_limit_s {limit_s:g}",
        "trained_s": round(float(run["used_s"]), 1),
        "trained_steps": result.last_step,
        "rays_per_s_mean_of_run": round(run["rays"] / run["used_s"]),
        "validation_psnr_db": None if result.psnr is None else round(result.psnr, 2),
        "experts": len(partition),
        "scene": dataset.root.name if dataset.root.parent.name != "out" else str(dataset.root),
    }
    return TrainedScene(dataset, settings, result.checkpoint, facts)


def validation_camera(dataset: Dataset, width_px: int, height_px: int) -> Camera:
    """Return a held-out view (a training view if none is held out) at another size.

    The width is scaled; rows are taken around the middle, so that the view keeps its shape.
    """
    images = dataset.val if len(dataset.val) else dataset.train
    middle = len(images) // 2
    fx, fy, cx, cy = (float(x) for x in images.intrinsics[middle])
    scale = width_px / float(images.widths_px[middle])
    lost = (float(images.heights_px[middle]) * scale - height_px) / 2.0
    return Camera(
        images.c2w[middle], fx * scale, fy * scale, cx * scale, cy * scale - lost, width_px,
        height_px,
    )  # fmt: skip


def even_rays(camera: Camera, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return `count` of a picture's rays spread evenly over it, each f32[count, 3]."""
    origins, directions = camera.rays()
    # A golden-ratio stride visits rows and columns evenly, whatever the count.
    steps = np.arange(count) * ((5**0.5 - 1) / 2)
    chosen = np.sort((steps % 1.0 * len(origins)).astype(np.int64))
    return origins[chosen], directions[chosen]
