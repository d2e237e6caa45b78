"""Tiny scenes for the engine's tests: a few experts in a box, small tables."""

import numpy as np

from nerfcore.data.partition import Partition
from nerfcore.data.records import SceneFrame
from nerfcore.scene import SceneModel, new_scene
from nerfcore.settings import BackendName, HashGridSettings, ModelSettings, SamplingSettings


def grid_partition(rows: int, columns: int, margin: float = 1.2) -> Partition:
    """Experts in a rows x columns grid over [-1, 1]^2 horizontally, [-0.5, 0.5] vertically."""
    centroids, mins, maxs = [], [], []
    overlap = np.array([0, 0.3, 0.3])
    for i in range(rows):
        for j in range(columns):
            low = np.array([-0.5, -1 + 2 * i / rows, -1 + 2 * j / columns])
            high = np.array([0.5, -1 + 2 * (i + 1) / rows, -1 + 2 * (j + 1) / columns])
            centroids.append((low + high) / 2)
            mins.append(np.maximum(low - overlap, [-0.5, -1, -1]))
            maxs.append(np.minimum(high + overlap, [0.5, 1, 1]))
    aabb = np.array([[-0.5, -1, -1], [0.5, 1, 1]], np.float32)
    arrays = (np.array(a, np.float32) for a in (centroids, mins, maxs))
    return Partition("g", *arrays, aabb, True, margin, (rows, columns))


def tiny_scene(
    rows: int = 1, columns: int = 1, *, backend: BackendName = "numba", margin: float = 1.2,
    table_scale: float = 1e4, **model: object,
) -> SceneModel:  # fmt: skip
    """An untrained scene of 10 m a unit whose tables are large enough to matter."""
    grid = HashGridSettings(levels=4, log2_size=10, base_resolution=4, max_resolution=32)
    settings = ModelSettings(grid=grid, dim_hidden=16, color_hidden=16, **model)  # type: ignore[arg-type]
    frame = SceneFrame(10.0, np.zeros(3), None, (-5.0, 5.0))
    scene = new_scene(
        frame,
        grid_partition(rows, columns, margin),
        settings,
        SamplingSettings(step_m=0.5, max_samples=200, min_transmittance=0.0),
        cell_m=1.0,
        device="cpu",
        backend=backend,
        seed=3,
    )
    for parameters in scene.experts:
        if "table" in parameters:
            parameters["table"].mul_(table_scale)
    return scene


def rays_into(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rays from above into the box: origins and unit directions, f32[count, 3]."""
    rng = np.random.default_rng(seed)
    origins = np.stack(
        [np.full(count, -2.0), rng.uniform(-1, 1, count), rng.uniform(-1, 1, count)], axis=1
    )
    directions = np.stack(
        [np.ones(count), rng.uniform(-0.5, 0.5, count), rng.uniform(-0.5, 0.5, count)], axis=1
    )
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return origins.astype(np.float32), directions.astype(np.float32)
