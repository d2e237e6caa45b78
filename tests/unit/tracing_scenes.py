"""Traced scenes and rays for the tracers' tests, from the tiny scenes of `engine_scenes`."""

import dataclasses

import numpy as np
from engine_scenes import rays_into

from nerfcore.sampling.columns import pack_columns
from nerfcore.scene import SceneModel
from nerfcore.tracing.contract import Rays, TracedScene


def traced_scene(model: SceneModel, *, holes: float = 0.0, **sampling: object) -> TracedScene:
    """What a tracer needs of a model.

    Args:
        model: a tiny scene.
        holes: share of occupancy cells that are emptied at random.
        sampling: settings to replace.
    """
    scene = model.traced()
    cells = scene.march.cells.copy()
    cells[np.random.default_rng(5).random(len(cells)) < holes] = 0
    columns = pack_columns(cells, scene.march.cell_offsets, scene.march.cell_dims)
    return dataclasses.replace(
        scene,
        march=dataclasses.replace(scene.march, cells=cells, columns=columns),
        sampling=dataclasses.replace(scene.sampling, **sampling),  # type: ignore[arg-type]
    )


def some_rays(count: int = 60, misses: int = 4, seed: int = 0) -> Rays:
    """Rays into the scene at random, the last few of them pointing away from it."""
    origins, directions = rays_into(count, seed)
    if misses:
        directions[-misses:] *= -1
    jitter = np.random.default_rng(seed + 1).random(count, dtype=np.float32)
    return Rays(origins, directions, jitter)


def some_truth(count: int = 60) -> np.ndarray:
    """sRGB colours f32[count, 3]."""
    return np.random.default_rng(9).random((count, 3), dtype=np.float32)
