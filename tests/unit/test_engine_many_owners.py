"""More experts within the margin than may answer: the greatest weights do, and nothing jumps."""

import numpy as np
import pytest
import torch
from engine_scenes import tiny_scene

from nerfcore.data.partition import Partition
from nerfcore.sampling.march import MAX_OWNERS, Samples, march
from nerfcore.sampling.tensor_march import tensor_march
from nerfcore.sampling.tensor_routing import DeviceScene
from nerfcore.scene import SceneModel, new_scene

ANGLES = np.linspace(0.1, 0.1 + 2 * np.pi, 7)[:6]
MARGIN = 1.15
OPTIONS = {"near": 0.0, "far": 100.0, "step": 1e6, "growth": 0.0, "max_samples": 4}


def plaza() -> SceneModel:
    """Six experts around a place that is equally far from all of them."""
    around = [np.zeros(6), 0.6 * np.cos(ANGLES), 0.6 * np.sin(ANGLES)]
    centroids = np.stack(around, 1).astype(np.float32)
    lows, highs = (
        np.tile(np.float32([-0.5, -1, -1]), (6, 1)),
        np.tile(np.float32([0.5, 1, 1]), (6, 1)),
    )
    aabb = np.array([lows[0], highs[0]])
    partition = Partition("plaza", centroids, lows, highs, aabb, True, MARGIN, None)
    small = tiny_scene(1, 1)
    return new_scene(
        small.frame, partition, small.settings, small.sampling, cell_m=2.0, device="cpu",
        backend="numba", seed=3,
    )  # fmt: skip


def raw_weights(place: np.ndarray, scene: SceneModel) -> np.ndarray:
    """Weights f64[6] by definition, not yet of sum 1."""
    away = np.linalg.norm(scene.partition.centroids[:, 1:].astype(np.float64) - place, axis=1)
    return np.maximum(MARGIN * away.min() / away - 1.0, 0.0)


def weights_at(places: np.ndarray, scene: SceneModel, by_tensors: bool) -> np.ndarray:
    """Weights f64[N, 6] that the march gives at places f[N, 2] on the ground."""
    count = len(places)
    origins = np.concatenate([np.full((count, 1), -2.0), places], 1).astype(np.float32)
    directions = np.tile(np.float32([1, 0, 0]), (count, 1))
    jitter, shared = np.full(count, 0.5, np.float32), scene.traced().march
    samples: Samples
    if by_tensors:
        inputs = [torch.from_numpy(a) for a in (origins, directions, jitter)]
        on_device = DeviceScene.of(shared, torch.device("cpu"))
        samples = tensor_march(on_device, *inputs, **OPTIONS).to_samples()  # type: ignore[arg-type]
    else:
        samples = march(shared, origins, directions, jitter, **OPTIONS)  # type: ignore[arg-type]
    assert samples.count == count
    found = np.zeros((count, 6))
    for n in range(MAX_OWNERS):
        used = samples.owners[:, n] >= 0
        found[np.flatnonzero(used), samples.owners[used, n]] += samples.owner_weights[used, n]
    return found


@pytest.mark.parametrize("by_tensors", [False, True])
def test_the_greatest_weights_answer_each_less_the_greatest_left_out(by_tensors: bool) -> None:
    scene = plaza()
    places = np.random.default_rng(0).uniform(-0.08, 0.08, (200, 2))
    found = weights_at(places, scene, by_tensors)
    crowded = 0
    for place, own in zip(places, found, strict=True):
        raw = raw_weights(place, scene)
        left_out = np.sort(raw)[-MAX_OWNERS - 1]
        crowded += left_out > 0
        expected = np.maximum(raw - left_out, 0.0)
        np.testing.assert_allclose(own, expected / expected.sum(), atol=2e-3)
    assert crowded > 50


@pytest.mark.parametrize("by_tensors", [False, True])
def test_no_weight_jumps_where_experts_come_and_go(by_tensors: bool) -> None:
    """Along a line past the middle, where all six are equally far."""
    scene = plaza()
    line = np.stack([np.linspace(-0.1, 0.1, 2001), np.full(2001, 0.013)], 1)
    found = weights_at(line, scene, by_tensors)
    assert (np.count_nonzero(found > 1e-4, axis=1) >= 3).any()
    assert np.abs(np.diff(found, axis=0)).max() < 0.01


def test_rays_that_are_not_finite_or_go_nowhere_get_no_samples() -> None:
    scene = tiny_scene()
    origins = np.zeros((4, 3), np.float32)
    directions = np.tile(np.float32([1, 0, 0]), (4, 1))
    origins[0, 1], directions[1, 2], directions[2] = np.nan, np.inf, 0.0
    jitter, shared = np.full(4, 0.5, np.float32), scene.traced().march
    options = {**OPTIONS, "step": 0.05, "far": 1e9, "max_samples": 1000}
    samples = march(shared, origins, directions, jitter, **options)  # type: ignore[arg-type]
    assert np.diff(samples.ray_starts).astype(bool).tolist() == [False, False, False, True]
    inputs = [torch.from_numpy(a) for a in (origins, directions, jitter)]
    on_device = DeviceScene.of(shared, torch.device("cpu"))
    same = tensor_march(on_device, *inputs, **options).to_samples()  # type: ignore[arg-type]
    np.testing.assert_array_equal(same.ray_starts, samples.ray_starts)
