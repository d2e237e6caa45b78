"""The CPU's chunked tracer agrees with the slow one: pictures, error and every gradient."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import ray_by_ray
import torch
import tracer_checks
from engine_scenes import rays_into, tiny_scene
from tracing_scenes import traced_scene

from nerfcore.encoding import numba_grid
from nerfcore.encoding.splats import Splats
from nerfcore.field.parameters import zeros_like
from nerfcore.scene import SceneModel
from nerfcore.settings import SamplingSettings
from nerfcore.tracing import cpu
from nerfcore.tracing.contract import Gradients, Rays

RAYS = 40


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of about 64 samples, so that several are needed."""
    monkeypatch.setattr(cpu, "CHUNK_SAMPLES", 64)


def some_rays(seed: int = 0) -> Rays:
    """Rays into the box; the last one misses it."""
    origins, directions = rays_into(RAYS, seed)
    directions[-1] = (-1.0, 0.0, 0.0)
    jitter = np.random.default_rng(seed).random(RAYS, dtype=np.float32)
    return Rays(origins, directions, jitter)


# frequencies of 512 pi turn the rounding of a float32 position into a phase
CASES = [
    ({}, 1e-5),
    ({"variant": "vanilla"}, 1e-4),
    ({"colour_space": "srgb"}, 1e-5),
    ({"use_background": False, "background_rgb": (0.2, 0.5, 0.9)}, 1e-5),
    ({"sigma_depth": 1, "color_depth": 1}, 1e-5),
]


def gradients_of(
    scene: SceneModel, rays: Rays, truth: np.ndarray, sampling: SamplingSettings | None = None
) -> tuple[float, list[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    grads = [zeros_like(p) for p in scene.experts]
    background = zeros_like(scene.background)
    report = scene.tracer.loss_gradient(
        scene.traced(sampling), scene.experts, scene.background, rays, truth,
        Gradients(dict(enumerate(grads)), background),
    )  # fmt: skip
    return report.mse, grads, background


@pytest.mark.parametrize(("model", "limit"), CASES)
@pytest.mark.parametrize("floor", [0.0, 0.3])
def test_error_and_gradients_match_the_slow_tracer(
    model: dict[str, object], limit: float, floor: float
) -> None:
    """Blended experts, steps that grow, holes, rays that stop early, a ray that misses."""
    scene = tiny_scene(2, 2, margin=1.5, **model)
    traced = traced_scene(scene, holes=0.3, step_growth=0.05, min_transmittance=floor)
    truth = np.random.default_rng(1).random((RAYS, 3), dtype=np.float32)
    tracer_checks.check_gradient(scene.tracer, scene, traced, some_rays(), truth, tolerance=limit)


@pytest.mark.parametrize(("model", "limit"), CASES)
def test_pictures_match_the_slow_tracer(model: dict[str, object], limit: float) -> None:
    """A sample too faint to colour may be left out: at most 2e-4 of weight each."""
    scene = tiny_scene(2, 2, margin=1.5, **model)
    traced = traced_scene(scene, holes=0.3, step_growth=0.05)
    tracer_checks.check_picture(
        scene.tracer, scene, traced, some_rays(3), tolerance=limit, faint=1e-3
    )


@pytest.mark.parametrize("name", ["table", "sigma.0", "color.2"])
def test_gradients_match_finite_differences(name: str) -> None:
    """Central differences of the float64 loss along random directions, without autograd."""
    scene, rays = tiny_scene(1, 2, margin=1.5), some_rays()
    truth = np.random.default_rng(1).random((RAYS, 3), dtype=np.float32)
    buffers = Gradients({k: zeros_like(p) for k, p in enumerate(scene.experts)}, None)
    traced, sky = traced_scene(scene), ray_by_ray.in_double(scene.background)
    report = scene.tracer.loss_gradient(
        traced, scene.experts, scene.background, rays, truth, buffers
    )
    ordered = truth[tracer_checks.places_of(rays, report.rays)]
    way = torch.randn(scene.experts[1][name].shape, generator=torch.Generator().manual_seed(0))

    def loss(step: float) -> float:
        with torch.no_grad():
            own = [ray_by_ray.in_double(p) for p in scene.experts]
            own[1][name] += step * way.double()
            rgb, _, _ = ray_by_ray.trace(traced, own, sky, report.rays, report.samples)
            return float(ray_by_ray.loss(traced, rgb, ordered))

    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    found = float((buffers.experts[1][name].double() * way.double()).sum())
    assert found == pytest.approx(slope, rel=1e-4)


def test_splats_hold_the_same_table_gradient_as_a_buffer() -> None:
    scene = tiny_scene(1, 2, margin=1.5)
    rays = some_rays()
    truth = np.full((RAYS, 3), 0.5, np.float32)
    _, grads, _ = gradients_of(scene, rays, truth)
    mlps = {k: {n: v for n, v in zeros_like(p).items() if n != "table"}
            for k, p in enumerate(scene.experts)}  # fmt: skip
    splats: dict[int, list[Splats]] = {}
    scene.tracer.loss_gradient(
        scene.traced(), scene.experts, scene.background, rays, truth, Gradients(mlps, None, splats)
    )
    layout = scene.architecture.layout
    assert layout is not None
    for k, (one,) in splats.items():
        table = np.zeros((layout.rows, layout.features), np.float32)
        numba_grid.scatter(one.positions, one.d_features, layout, table)
        assert np.abs(table - grads[k]["table"].numpy()).max() < 1e-6 * np.abs(table).max() + 1e-12


def test_gradients_go_only_where_they_are_asked_for() -> None:
    scene = tiny_scene(1, 2, margin=1.5)
    only = zeros_like(scene.experts[1])
    report = scene.tracer.loss_gradient(
        scene.traced(), scene.experts, scene.background, some_rays(),
        np.zeros((RAYS, 3), np.float32), Gradients({1: only}, None),
    )  # fmt: skip
    assert report.touched == {1}
    assert all(bool(value.any()) for value in only.values())


def test_a_non_finite_error_leaves_the_buffers_alone() -> None:
    scene = tiny_scene(1, 2)
    truth = np.full((RAYS, 3), 0.5, np.float32)
    truth[7] = np.nan
    mse, grads, background = gradients_of(scene, some_rays(), truth)
    assert not np.isfinite(mse)
    assert not any(bool(g.any()) for one in [*grads, background] for g in one.values())


def test_rays_that_miss_everything_see_the_background() -> None:
    scene = tiny_scene(2, 2, use_background=False, background_rgb=(0.1, 0.2, 0.3))
    origins = np.full((5, 3), -2.0, np.float32)
    directions = np.tile(np.array([-1.0, 0, 0], np.float32), (5, 1))
    rays = Rays(origins, directions, np.zeros(5, np.float32))
    found = scene.tracer.render(scene.traced(), scene.experts, scene.background, rays)
    assert np.allclose(found.rgb, (0.1, 0.2, 0.3)) and not found.opacity.any()
    truth = np.zeros((5, 3), np.float32)
    mse, grads, _ = gradients_of(scene, rays, truth)
    assert np.isfinite(mse) and not any(bool(g.any()) for one in grads for g in one.values())


def test_two_callers_at_once_get_their_own_pictures() -> None:
    """As two visitors of the viewer: neither sees the other's buffers."""
    scene = tiny_scene(2, 2)
    seeds = range(4)
    batches = [rays_into(600, seed) for seed in seeds]
    alone = [scene.render_rays(*batch)[0] for batch in batches]
    with ThreadPoolExecutor(len(batches)) as pool:
        for _ in range(10):
            together = list(pool.map(lambda batch: scene.render_rays(*batch)[0], batches))
            assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
