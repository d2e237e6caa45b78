#!/usr/bin/env python3
"""Owns the memory row: 2,000 photographs of 1024x768, trained on with the shipped settings.

The dataset is prepared on disk (hard links of a few hundred textures, each with a border mask);
a process of its own trains on it while its memory is read from /proc every 50 ms.

    bench_memory.py DATASET FOLDER SECONDS DEVICE     the process that trains
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from bench_measure import BenchError, Row, rounded
from bench_scene import EXPERTS_ACROSS, NEVER, OnProgress, grid_experts, shipped_settings
from numpy.typing import NDArray

from nerfcore.checkpoint import read_manifest
from nerfcore.data.dataset import load_dataset
from nerfcore.data.records import SceneFrame, SparsePoints
from nerfcore.data.storage import (
    DATASET_FILE,
    FORMAT_VERSION,
    DatasetRecord,
    FileRecord,
    FrameRecord,
    ImageRecord,
    SplitRecord,
    describe_file,
    write_cameras,
    write_listing,
    write_points,
)
from nerfcore.training.loop import train

IMAGES, HELD_OUT, TEXTURES = 2000, 4, 200
WIDTH_PX, HEIGHT_PX, FOCAL_PX = 1024, 768, 800.0
COLUMNS, SPACING_M, HEIGHT_M, SCALE_M = 50, 12.0, 100.0, 300.0
POINTS = 40_000
BORDER_PX = 6
LIMIT_GB = 3.0
POLL_S = 0.05
TRAIN_S = 15.0


def make_dataset(root: Path, images: int = IMAGES, textures: int = TEXTURES) -> None:
    """Write a prepared dataset of random textures: a flight in rows, all cameras looking down."""
    rng = np.random.default_rng(0)
    for part in ("rgbs", "valid"):
        (root / "train" / part).mkdir(parents=True)
        (root / "val" / part).mkdir(parents=True)
    made = [_texture(root, f"train/rgbs/{i:06d}.jpg", rng) for i in range(min(textures, images))]
    mask = np.full((HEIGHT_PX, WIDTH_PX), 255, np.uint8)
    mask[:BORDER_PX], mask[:, :BORDER_PX] = 0, 0
    cv2.imwrite(str(root / "train/valid/000000.png"), mask)
    valid = describe_file(root, "train/valid/000000.png")
    c2w = _flight(images)
    frame = SceneFrame(SCALE_M, np.zeros(3), None, (-HEIGHT_M, 0.0))
    listing = DatasetRecord(
        format_version=FORMAT_VERSION,
        frame=FrameRecord.from_frame(frame),
        points=_points(root, c2w, rng),
        train=_split(root, "train", c2w, made, valid),
        val=_split(root, "val", c2w[:: images // HELD_OUT][:HELD_OUT], made, valid),
    )
    write_listing(root / DATASET_FILE, listing)


def _texture(root: Path, file: str, rng: np.random.Generator) -> FileRecord:
    rough = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    fine = rng.integers(0, 24, (HEIGHT_PX // 2, WIDTH_PX // 2, 3), dtype=np.uint8)
    size = (WIDTH_PX, HEIGHT_PX)
    picture = cv2.add(cv2.resize(rough, size, interpolation=cv2.INTER_CUBIC),
                      cv2.resize(fine, size))  # fmt: skip
    cv2.imwrite(str(root / file), picture)
    return describe_file(root, file)


def _flight(images: int) -> NDArray[np.float32]:
    """Poses f32[N, 3, 4] of cameras that look straight down (world axis 0)."""
    rows, columns = np.divmod(np.arange(images), COLUMNS)
    c2w = np.zeros((images, 3, 4), np.float32)
    c2w[:, 1, 0], c2w[:, 2, 1], c2w[:, 0, 2] = 1.0, -1.0, -1.0  # right East, up North, back Up
    c2w[:, 1, 3] = (columns - COLUMNS / 2) * SPACING_M / SCALE_M
    c2w[:, 2, 3] = (rows - images / COLUMNS / 2) * SPACING_M / SCALE_M
    return c2w


def _points(root: Path, c2w: NDArray[np.float32], rng: np.random.Generator) -> FileRecord:
    low, high = c2w[:, 1:, 3].min(axis=0) - 0.1, c2w[:, 1:, 3].max(axis=0) + 0.1
    xyz = np.empty((POINTS, 3), np.float32)
    xyz[:, 1:] = rng.uniform(low, high, (POINTS, 2))
    xyz[:, 0] = (HEIGHT_M - rng.uniform(0, 15, POINTS)) / SCALE_M
    nothing = np.zeros(0, np.int32)
    points = SparsePoints(
        xyz, np.zeros((POINTS, 3), np.uint8), np.ones(POINTS, np.float32),
        np.full(POINTS, 3, np.int32), (), nothing, nothing, np.zeros((0, 2), np.float32),
    )  # fmt: skip
    write_points(root / "points.npz", points)
    return describe_file(root, "points.npz")


def _split(
    root: Path, name: str, c2w: NDArray[np.float32], made: list[FileRecord], valid: FileRecord
) -> SplitRecord:
    """List a set whose files are hard links of the textures and of the mask."""
    images = []
    for index in range(len(c2w)):
        source = made[index % len(made)]
        rgb, mask = f"{name}/rgbs/{index:06d}.jpg", f"{name}/valid/{index:06d}.png"
        for old, new in ((source.file, rgb), (valid.file, mask)):
            if not (root / new).exists():
                (root / new).hardlink_to(root / old)
        images.append(
            ImageRecord(
                name=f"{name}-{index:06d}.jpg",
                rgb=source.model_copy(update={"file": rgb}),
                valid=valid.model_copy(update={"file": mask}),
                width_px=WIDTH_PX,
                height_px=HEIGHT_PX,
            )
        )
    intrinsics = np.tile([FOCAL_PX, FOCAL_PX, WIDTH_PX / 2, HEIGHT_PX / 2], (len(c2w), 1))
    write_cameras(root / name / "cameras.npz", c2w, intrinsics)
    return SplitRecord(cameras=describe_file(root, f"{name}/cameras.npz"), images=images)


def _memory_bytes(pid: int) -> dict[str, int]:
    """Return a process's memory figures, empty once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    fields = (line.split() for line in lines if line.startswith(("VmHWM:", "Rss")))
    return {field[0].rstrip(":"): int(field[1]) * 1024 for field in fields}


def watch(command: list[str], limit_s: float) -> tuple[dict[str, int], dict[str, Any]]:
    """Run a command and return the peak of each memory figure, and its last line as JSON.

    Raises:
        BenchError: it failed or did not end in time.
    """
    peaks: dict[str, int] = {}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    deadline_s = time.monotonic() + limit_s
    try:
        while process.poll() is None:
            if time.monotonic() > deadline_s:
                raise BenchError(f"the training process did not end within {limit_s:g} s")
            for name, value in _memory_bytes(process.pid).items():
                peaks[name] = max(peaks.get(name, 0), value)
            time.sleep(POLL_S)
        said = process.communicate()[0].splitlines()
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    if process.returncode != 0 or not said:
        raise BenchError(f"the training process ended with exit code {process.returncode}")
    return peaks, json.loads(said[-1])


def memory_row(folder: Path, device: str, on_progress: OnProgress) -> Row:
    """Peak memory of a process that trains on 2,000 photographs."""
    on_progress("memory, making photographs", 0, 3)
    make_dataset(folder / "large")
    on_progress("memory, training", 1, 3)
    command = [sys.executable, __file__, folder / "large", folder / "large-run", TRAIN_S, device]
    peaks, said = watch([str(word) for word in command], 300.0 + TRAIN_S)
    on_progress("memory, training", 3, 3)
    peak_gb = peaks["VmHWM"] / 1e9
    detail = {
        "images": f"{IMAGES} of {WIDTH_PX}x{HEIGHT_PX}, with masks",
        "pixels_gb": rounded(IMAGES * WIDTH_PX * HEIGHT_PX * 3 / 1e9),
        "counted": "VmHWM: all resident memory of the process",
        **{
            f"peak_{name}_gb": rounded(peaks.get(name, 0) / 1e9)
            for name in ("RssAnon", "RssFile", "RssShmem")
        },
        **said,
    }
    return Row(
        "memory_2000_images", rounded(peak_gb), "GB", rounded(peak_gb / LIMIT_GB),
        "the limit (a share of it)", f"< {LIMIT_GB:g} GB", peak_gb < LIMIT_GB, detail,
    )  # fmt: skip


def train_large(root: Path, folder: Path, seconds: float, device: str) -> dict[str, Any]:
    """Train on a dataset and return what the parent reports."""
    began_s = time.monotonic()
    started_s: list[float] = []

    def listen(event: dict[str, Any]) -> None:
        if event.get("phase") == "train" and not started_s:
            started_s.append(time.monotonic() - began_s)

    dataset = load_dataset(root)
    settings = shipped_settings(
        device, outer_steps=NEVER, time_limit_s=seconds, save_step=NEVER, eval_step=NEVER
    )
    result = train(
        dataset, grid_experts(dataset, EXPERTS_ACROSS), settings, folder=folder, start=None,
        on_progress=listen, should_stop=lambda: False,
    )  # fmt: skip
    run = read_manifest(result.checkpoint)["extra"]
    return {
        "steps": result.last_step,
        "rays_per_s_mean_of_run": round(run["rays"] / run["used_s"]),
        "seconds_to_first_report": round(started_s[0], 1) if started_s else None,
        "memory_budget_gb": rounded(settings.memory_bytes / 1e9),
    }


if __name__ == "__main__":
    root, folder, seconds, device = sys.argv[1:]
    print(json.dumps(train_large(Path(root), Path(folder), float(seconds), device)))
