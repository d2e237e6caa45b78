#!/usr/bin/env python3
"""Runs plain PyTorch beside the engine, in a process of its own.

The engine turns PyTorch's threads off in its process; here they are on, all cores. The parent
writes one JSON object a line ({"do": "step"}) and reads one back ({"seconds": ...}).

    bench_reference_worker.py hashgrid
    bench_reference_worker.py recipe CHECKPOINT RAYS jobs|same DEVICE

times the torch hash grid, or the reference recipe: with the model that the reference's own jobs
ship, or with the checkpoint's.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_measure import BenchError, coherent_points, grid_settings, synchronise
from bench_reference import ReferenceRecipe

from nerfcore.checkpoint import load_checkpoint
from nerfcore.encoding import torch_grid
from nerfcore.encoding.layout import grid_layout
from nerfcore.scene import SceneModel, new_scene
from nerfcore.settings import HashGridSettings

STEP_RAYS = 4000  # support_rays of the reference's jobs; rays/s have saturated there
JOBS_GRID = HashGridSettings(log2_size=20, max_resolution=4096)
END_S = 10.0
COARSE_CELL_M = 50.0  # of an occupancy grid that the recipe never looks at


class ReferenceProcess:
    """The parent's side: starts the process, asks it, ends it."""

    def __init__(self, *arguments: object) -> None:
        """Args: as on the command line.

        Raises:
            BenchError: it did not come up.
        """
        # Threads that spin between operations starve each other on a shared machine; letting them
        # sleep costs plain PyTorch nothing here, its operations last milliseconds.
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.about = self._answer()

    def ask(self, do: str, **values: object) -> dict[str, Any]:
        """Have one thing done and return what it reports.

        Raises:
            BenchError: the process ended.
        """
        assert self._process.stdin is not None
        print(json.dumps({"do": do, **values}), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise BenchError(f"the reference's process ended with exit code {code}; see above")
        return json.loads(line)

    def __enter__(self) -> "ReferenceProcess":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def _timed(work: Callable[[], object], device: torch.device) -> float:
    synchronise(device)
    began_s = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - began_s


def _hash_grid() -> dict[str, Callable[[], dict[str, Any]]]:
    """Forward and backward of the torch hash grid on the bench's points."""
    layout = grid_layout(grid_settings())
    points = torch.from_numpy(coherent_points())
    table = torch.rand(layout.rows, layout.features).requires_grad_()
    grad = torch.rand(len(points), layout.width)

    def once() -> None:
        torch.autograd.grad(torch_grid.encode(points, table, layout), table, grad)

    return {"hashgrid": lambda: {"seconds": _timed(once, points.device)}}


def with_jobs_model(scene: SceneModel) -> SceneModel:
    """Return an untrained scene of the same place with the sizes of the reference's own jobs."""
    settings = dataclasses.replace(
        scene.settings, grid=JOBS_GRID, sigma_depth=2, color_depth=2, dim_hidden=64,
        color_hidden=64,
    )  # fmt: skip
    return new_scene(
        scene.frame, scene.partition, settings, scene.sampling, cell_m=COARSE_CELL_M,
        device=scene.device.type, backend="torch",
    )  # fmt: skip


def _recipe(
    checkpoint: Path, rays: Path, model: str, device: str
) -> dict[str, Callable[[], dict[str, Any]]]:
    """Training steps and pictures of the recipe, on rays that the parent drew."""
    scene = load_checkpoint(checkpoint, device, "torch")
    recipe = ReferenceRecipe(scene if model == "same" else with_jobs_model(scene))
    with np.load(rays) as archive:
        held = {name: torch.from_numpy(archive[name]).to(recipe.device) for name in archive.files}
    steps = iter(range(1 << 30))

    def step() -> dict[str, Any]:
        begin = next(steps) * STEP_RAYS % len(held["train_origins"])
        batch = [held[f"train_{name}"][begin : begin + STEP_RAYS] for name in
                 ("origins", "directions", "rgbs")]  # fmt: skip
        seconds = _timed(lambda: recipe.step(*batch), recipe.device)
        return {"seconds": seconds, "rays": len(batch[0])}

    def render() -> dict[str, Any]:
        rays = held[f"{model}_origins"], held[f"{model}_directions"]
        with torch.no_grad():
            seconds = _timed(lambda: recipe.render(*rays), recipe.device)
        return {"seconds": seconds, "rays": len(rays[0])}

    return {"step": step, "render": render}


def main(arguments: list[str]) -> None:
    """Serve the parent until it closes our standard input."""
    kind, *paths = arguments
    tasks = (
        _hash_grid() if kind == "hashgrid" else _recipe(Path(paths[0]), Path(paths[1]), *paths[2:])
    )
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    print(json.dumps({"threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(tasks[json.loads(line)["do"]]()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
