"""Marching and routing against slow loops."""

import math

import numpy as np
import pytest
import ray_by_ray
import torch
from engine_scenes import grid_partition, rays_into, tiny_scene
from hypothesis import given, settings
from hypothesis import strategies as st
from tracing_scenes import some_rays, traced_scene

from nerfcore.data.partition import Partition
from nerfcore.sampling.entries import group_by_expert, local_positions
from nerfcore.sampling.march import MarchScene, Samples, march
from nerfcore.sampling.tensor_march import tensor_march
from nerfcore.sampling.tensor_routing import DeviceScene
from nerfcore.tracing.contract import Rays


def slow_owners(point: np.ndarray, partition: Partition) -> dict[int, float]:
    """Experts and weights at a point, from the definition."""
    first = 1 if partition.cluster_2d else 0
    distances = np.linalg.norm(
        point[first:].astype(np.float64) - partition.centroids[:, first:], axis=1
    )
    raw = {}
    for k, d in enumerate(distances):
        inside = (point >= partition.box_mins[k]).all() and (point < partition.box_maxs[k]).all()
        if d <= partition.boundary_margin * distances.min() and inside:
            raw[k] = max(1e-6, partition.boundary_margin * distances.min() / d - 1.0)
    total = sum(raw.values())
    return {k: w / total for k, w in raw.items()}


def march_all(scene, count: int = 40, **changes):  # type: ignore[no-untyped-def]
    origins, directions = rays_into(count)
    options = {"near": 0.0, "far": 100.0, "step": 0.05, "growth": 0.0, "max_samples": 1000}
    jitter = np.full(count, 0.5, np.float32)
    shared = scene.traced().march
    return origins, directions, march(shared, origins, directions, jitter, **(options | changes))


def test_samples_cover_the_box_in_steps() -> None:
    scene = tiny_scene()
    origins, directions, samples = march_all(scene)
    for r in range(len(origins)):
        span = slice(samples.ray_starts[r], samples.ray_starts[r + 1])
        inverse = 1.0 / directions[r].astype(np.float64)
        a = (scene.partition.aabb[0] - origins[r]) * inverse
        b = (scene.partition.aabb[1] - origins[r]) * inverse
        length = max(0.0, min(np.maximum(a, b)) - max(0.0, max(np.minimum(a, b))))
        assert samples.dts[span].sum() == pytest.approx(length, abs=0.051)
        assert (np.diff(samples.ts[span]) > 0).all()


def test_owners_match_the_slow_routing() -> None:
    scene = tiny_scene(2, 2, margin=1.3)
    origins, directions, samples = march_all(scene)
    several = 0
    for s in range(samples.count):
        r = samples.ray_ids[s]
        expected = slow_owners(origins[r] + samples.ts[s] * directions[r], scene.partition)
        found = {
            int(k): float(w)
            for k, w in zip(samples.owners[s], samples.owner_weights[s], strict=True)
            if k >= 0
        }
        if len(found) == len(expected):
            assert found == pytest.approx(expected, abs=2e-3)
        else:  # only where a margin is met to within rounding
            assert min({**found, **expected}.values()) < 2e-3
        several += len(found) > 1
    assert several > 20


def test_empty_cells_get_no_samples() -> None:
    scene = tiny_scene()
    grid = scene.occupancy
    occupied = np.zeros(tuple(grid.dims[0]), np.uint8)
    occupied[3] = 1
    grid.restore((grid.allowed, occupied.ravel(), grid.opacity))
    low = -0.5 + 3 / grid.dims[0][0]
    origins, directions, samples = march_all(scene)
    heights = origins[samples.ray_ids, 0] + samples.ts * directions[samples.ray_ids, 0]
    assert samples.count
    assert (heights >= low - 1e-4).all() and (heights <= low + 1 / grid.dims[0][0] + 1e-4).all()


def test_more_occupied_steps_than_allowed_are_stretched_not_cut() -> None:
    scene = tiny_scene()
    _, _, full = march_all(scene)
    _, _, few = march_all(scene, max_samples=8)
    assert np.diff(few.ray_starts).max() <= 8
    for r in range(40):
        whole = full.dts[full.ray_starts[r] : full.ray_starts[r + 1]].sum()
        assert few.dts[few.ray_starts[r] : few.ray_starts[r + 1]].sum() >= 0.8 * whole


def test_rays_that_miss_the_box_have_no_samples() -> None:
    scene = tiny_scene()
    origins = np.array([[-2.0, 5.0, 5.0], [-2.0, 0.0, 0.0]], np.float32)
    directions = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], np.float32)
    samples = march(
        scene.traced().march, origins, directions, np.full(2, 0.5, np.float32),
        near=0.0, far=100.0, step=0.1, growth=0.0, max_samples=10,
    )  # fmt: skip
    assert samples.count == 0


def test_entries_are_grouped_by_expert_and_local() -> None:
    scene = tiny_scene(2, 2)
    origins, directions, samples = march_all(scene)
    entries = group_by_expert(samples, 4, None)
    assert entries.starts[-1] == (samples.owners >= 0).sum()
    for k in range(4):
        ids = entries.sample_ids[entries.starts[k] : entries.starts[k + 1]]
        assert (samples.owners[ids] == k).any(axis=1).all()
        low, high = scene.partition.box_mins[k], scene.partition.box_maxs[k]
        local = local_positions(samples, ids, origins, directions, low, high).T
        rays = samples.ray_ids[ids]
        world = origins[rays] + samples.ts[ids, None] * directions[rays]
        assert np.allclose(local, np.clip((world - low) / (high - low).max(), 0, 1), atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.floats(-0.99, 0.99), st.floats(-0.99, 0.99), st.floats(1.0, 2.0))
def test_weights_are_continuous_and_sum_to_one(x: float, y: float, margin: float) -> None:
    """A hair's movement changes no weight by more than a little: opacity has no seams."""
    partition = grid_partition(2, 2, margin)
    here = slow_owners(np.array([0.0, x, y]), partition)
    assert sum(here.values()) == pytest.approx(1.0)
    if margin > 1.05 and min(abs(x), abs(y)) < 0.25:
        there = slow_owners(np.array([0.0, x + 1e-7, y]), partition)
        for k in set(here) | set(there):
            inside = (np.abs(np.array([x, y])) < 0.29).all()
            if inside:
                assert abs(here.get(k, 0) - there.get(k, 0)) < 1e-3


def by_tensors(scene: MarchScene, rays: Rays, **options: float) -> Samples:
    """The same march in tensor operations."""
    inputs = [torch.from_numpy(a) for a in (rays.origins, rays.directions, rays.jitter)]
    on_device = DeviceScene.of(scene, torch.device("cpu"))
    return tensor_march(on_device, *inputs, **options).to_samples()  # type: ignore[arg-type]


def compiled(scene: MarchScene, rays: Rays, **options: float) -> Samples:
    """The compiled march."""
    return march(scene, rays.origins, rays.directions, rays.jitter, **options)  # type: ignore[arg-type]


def is_same(found: list[ray_by_ray.Sample], expected: list[ray_by_ray.Sample]) -> bool:
    """Whether a ray's samples agree: places, lengths, experts and weights."""
    if len(found) != len(expected):
        return False
    places = np.array([sample[:2] for sample in found]).reshape(-1, 2)
    if not np.allclose(places, [sample[:2] for sample in expected] or places, atol=1e-5):
        return False
    for own, other in zip(found, expected, strict=True):
        mine, theirs = dict(own[3]), dict(other[3])
        if mine.keys() != theirs.keys():
            return False
        if any(abs(mine[k] - theirs[k]) > 1e-3 for k in mine):
            return False
    return True


@pytest.mark.parametrize("place", [compiled, by_tensors])
@pytest.mark.parametrize(
    ("holes", "growth", "cap", "margin"),
    # no cap; steps that grow; a cap that stretches once; one that cuts after three stretches
    [(0.0, 0.0, 500, 1.2), (0.3, 0.05, 500, 1.5), (0.3, 0.03, 6, 1.2), (0.2, 0.0, 2, 1.0)],
)
def test_every_sample_lies_where_the_slow_march_puts_it(
    place,  # type: ignore[no-untyped-def]
    holes: float,
    growth: float,
    cap: int,
    margin: float,
) -> None:
    """The whole march in float64, step by step; a sample on a border may round either way."""
    scene = traced_scene(tiny_scene(3, 2, margin=margin), holes=holes).march
    rays = some_rays(120, misses=10)
    options = {"step": 0.03, "growth": growth, "max_samples": cap}
    found = place(scene, rays, near=0.0, far=math.inf, **options)
    same = [
        is_same(ray_by_ray.given(found, rays, r), ray_by_ray.walk(scene, rays, r, **options))  # type: ignore[arg-type]
        for r in range(len(rays))
    ]
    counts = np.diff(found.ray_starts)
    assert np.mean(same) > 0.98 and counts.max() <= cap and not counts[-10:].any()
    assert (counts == cap).any() == (cap < 500)


SCENE = tiny_scene()
numbers = st.floats(-3, 3, width=32)
parts = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 1e-13]), st.floats(-1, 1, width=32))


@settings(max_examples=200, deadline=None)
@given(
    origin=st.tuples(numbers, numbers, numbers),
    direction=st.tuples(parts, parts, parts).filter(lambda d: math.hypot(*d) > 1e-3),
    near=st.floats(0, 2, width=32),
)
@pytest.mark.parametrize("place", [compiled, by_tensors])
def test_a_ray_is_cut_to_the_box(place, origin, direction, near) -> None:  # type: ignore[no-untyped-def]
    """One step longer than any box spans exactly what lies inside it between near and far."""
    far = 4.0
    o, d = np.array([origin], np.float32), np.array([direction], np.float64)
    d = (d / np.linalg.norm(d)).astype(np.float32)
    scene = SCENE.traced().march
    options = {"near": near, "far": far, "step": 1e6, "growth": 0.0, "max_samples": 4}
    samples = place(scene, Rays(o, d, np.full(1, 0.5, np.float32)), **options)
    begin, end = ray_by_ray.box_span(o[0], d[0], scene)
    begin, end = max(begin, near), min(end, far)
    if samples.count == 0:  # nothing inside, or all of it in an upper face, which no cell owns
        in_face = (o[0] + (begin + end) / 2 * d[0] > scene.aabb[1] - 1e-6).any()
        assert end - begin < 1e-5 or in_face
        return
    assert samples.count <= 2  # a rounding error may be left for a second step
    assert samples.ts[0] - samples.dts[0] / 2 == pytest.approx(begin, abs=1e-5)
    assert samples.dts.sum() == pytest.approx(end - begin, abs=1e-5)
