"""The tensor tracer and marcher against a slow loop a ray, and against the compiled kernels."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import ray_by_ray
import slow_compositing
import torch
import tracer_checks
from engine_scenes import tiny_scene
from hypothesis import given
from hypothesis import strategies as st
from tracing_scenes import some_rays, some_truth, traced_scene

from nerfcore.encoding.grids import NumbaGrid, TorchGrid
from nerfcore.field.parameters import Parameters, zeros_like
from nerfcore.sampling.tensor_march import TensorSamples, box_interval, tensor_march
from nerfcore.sampling.tensor_routing import DeviceScene
from nerfcore.scene import SceneModel
from nerfcore.tracing.contract import Gradients, TracedScene
from nerfcore.tracing.tensor_composite import composite, transmittance
from nerfcore.tracing.tensors import TensorTracer

CPU = torch.device("cpu")
DENSE = 3e4


def tracer_of(model: SceneModel, kind: type = TorchGrid) -> TensorTracer:
    layout = model.architecture.layout
    return TensorTracer(model.architecture, CPU, None if layout is None else kind(layout))


@pytest.mark.parametrize("kind", [TorchGrid, NumbaGrid])
def test_a_picture_of_blended_experts_matches_the_slow_loop(kind: type) -> None:
    """Four experts with soft boundaries, steps that grow, holes; rays that miss see background."""
    model = tiny_scene(2, 2)
    scene = traced_scene(model, holes=0.3, step_growth=0.05)
    tracer_checks.check_picture(tracer_of(model, kind), model, scene, some_rays())


@pytest.mark.parametrize(
    "changes",
    [
        {"colour_space": "srgb"},
        {"use_background": False, "background_rgb": (0.2, 0.4, 0.6)},
        {"variant": "vanilla"},
    ],
)
def test_other_models_match_the_slow_loop(changes: dict[str, Any]) -> None:
    """Display colours, a fixed background, no hash grid."""
    model = tiny_scene(**changes)
    tracer, scene = tracer_of(model), traced_scene(model)
    # frequencies of 512 pi turn the rounding of a float32 position into a phase
    tolerance = 1e-4 if model.architecture.layout is None else 1e-5
    tracer_checks.check_picture(tracer, model, scene, some_rays(), tolerance=tolerance)
    tracer_checks.check_gradient(
        tracer, model, scene, some_rays(), some_truth(), tolerance=tolerance
    )


def test_early_termination_matches_the_slow_loop() -> None:
    """What too little light reaches has no weight and no gradient, and is not shaded."""
    model = tiny_scene(2, 1, table_scale=DENSE)
    scene = traced_scene(model, min_transmittance=0.3)
    tracer_checks.check_picture(tracer_of(model), model, scene, some_rays())
    tracer_checks.check_gradient(tracer_of(model), model, scene, some_rays(), some_truth())
    report = report_of(model, scene)
    assert 0 < report.shaded < report.samples.count


@pytest.mark.parametrize("kind", [TorchGrid, NumbaGrid])
def test_the_gradient_matches_the_slow_loop(kind: type) -> None:
    """Every table and matrix of every expert, and the background's."""
    model = tiny_scene(2, 2)
    scene = traced_scene(model, holes=0.3, step_growth=0.05)
    tracer_checks.check_gradient(tracer_of(model, kind), model, scene, some_rays(), some_truth())


def report_of(model: SceneModel, scene: TracedScene, wanted: Sequence[int] = (0,)):  # type: ignore[no-untyped-def]
    buffers = Gradients({k: zeros_like(model.experts[k]) for k in wanted}, None)
    return tracer_of(model).loss_gradient(
        scene, model.experts, model.background, some_rays(), some_truth(), buffers
    )


def test_only_the_experts_asked_for_get_gradient() -> None:
    """An expert without buffers, and a background without, are only seen."""
    model = tiny_scene(2, 1)
    report = report_of(model, traced_scene(model), wanted=(1,))
    assert report.touched == {1}


class _Watched(Sequence[Parameters]):
    """Experts that remember which were fetched."""

    def __init__(self, experts: list[Parameters]) -> None:
        self.experts, self.fetched = experts, set[int]()

    def __getitem__(self, index: Any) -> Any:
        self.fetched.add(index)
        return self.experts[index]

    def __len__(self) -> int:
        return len(self.experts)

    def __iter__(self) -> Iterator[Parameters]:
        raise AssertionError("walks over all experts")


def test_only_the_experts_that_rays_meet_are_fetched() -> None:
    """Straight rays into one corner of a 3 x 3 city load that corner's expert."""
    model = tiny_scene(3, 3, margin=1.0)
    rays = some_rays(8, misses=0)
    rays.origins[:] = (-2.0, -0.9, -0.9)
    rays.directions[:] = (1.0, 0.0, 0.0)
    watched = _Watched(model.experts)
    tracer_of(model).render(traced_scene(model), watched, model.background, rays)
    assert watched.fetched == {0}


def test_rays_that_miss_everything_see_the_background() -> None:
    """No sample at all: finite, opacity 0, and still a gradient for the background."""
    model = tiny_scene()
    scene, rays = traced_scene(model), some_rays(8, misses=8)
    tracer_checks.check_picture(tracer_of(model), model, scene, rays)
    sky = zeros_like(model.background)
    report = tracer_of(model).loss_gradient(
        scene, model.experts, model.background, rays, some_truth(8),
        Gradients({0: zeros_like(model.experts[0])}, sky),
    )  # fmt: skip
    assert (report.samples.count, report.shaded, report.touched) == (0, 0, frozenset())
    assert math.isfinite(report.mse) and sky["bg.0"].any()


def test_a_loss_that_is_not_finite_leaves_the_buffers_alone() -> None:
    """The report tells, the gradients stay as they were."""
    model = tiny_scene()
    model.experts[0]["color.0"][0, 0] = torch.nan
    buffers = Gradients({0: zeros_like(model.experts[0])}, zeros_like(model.background))
    report = tracer_of(model).loss_gradient(
        traced_scene(model), model.experts, model.background, some_rays(), some_truth(), buffers
    )
    assert math.isnan(report.mse) and not report.touched
    assert not any(value.any() for value in buffers.experts[0].values())


def test_densities_are_the_fields() -> None:
    """Densities at points, alone, are those that rays see."""
    model = tiny_scene()
    points = np.random.default_rng(3).random((50, 3), dtype=np.float32)
    plain, compiled = (
        tracer_of(model, kind).densities(model.experts[0], points)
        for kind in (TorchGrid, NumbaGrid)
    )
    assert plain.shape == (50,) and np.allclose(plain, compiled, rtol=1e-5)


def test_bf16_matrices_come_close() -> None:
    """use_bf16 changes pictures by less than a hundredth."""
    fine, coarse = tiny_scene(), tiny_scene(use_bf16=True)
    pictures = [
        tracer_of(m).render(traced_scene(m), m.experts, m.background, some_rays()).rgb
        for m in (fine, coarse)
    ]
    assert 0 < np.abs(pictures[0] - pictures[1]).max() < 1e-2


def test_a_scene_is_uploaded_when_it_changes() -> None:
    """The same occupancy is not copied to the device again; a changed one is."""
    model = tiny_scene(2, 2)
    tracer, rays = tracer_of(model), some_rays(20)

    def found() -> tuple[Any, np.ndarray]:
        scene = model.traced()
        opacity = tracer.render(scene, model.experts, model.background, rays).opacity
        return tracer._scene, opacity

    (first, before), (second, _) = found(), found()
    assert first is second
    for k in range(4):
        model.occupancy.restrict(k, np.zeros(np.prod(model.occupancy.dims[k]), np.bool_))
    third, after = found()
    assert third is not first and before.any() and not after.any()


def test_routing_looks_at_candidates_not_at_all_experts() -> None:
    """Of 64 experts a place has a few; samples are routed as by all."""
    scene = traced_scene(tiny_scene(8, 8, margin=1.2))
    on_device, rays = DeviceScene.of(scene.march, CPU), some_rays(40)
    assert on_device.candidates.shape[1] < 16
    inputs = [torch.from_numpy(a) for a in (rays.origins, rays.directions, rays.jitter)]
    options = {"step": 0.05, "growth": 0.0, "max_samples": 200}
    found = tensor_march(on_device, *inputs, near=0.0, far=1e9, **options)  # type: ignore[arg-type]
    samples = found.to_samples()
    for r in range(len(rays)):
        slow = ray_by_ray.walk(scene.march, rays, r, **options)  # type: ignore[arg-type]
        own = ray_by_ray.given(samples, rays, r)
        assert [[k for k, _ in s[3]] for s in own] == [[k for k, _ in s[3]] for s in slow]


def test_a_margin_of_one_gives_every_sample_to_the_nearest_expert() -> None:
    """Rounding must not push the nearest expert out of its own reach."""
    scene = traced_scene(tiny_scene(3, 2, margin=1.0), holes=0.2)
    rays = some_rays(30)
    inputs = [torch.from_numpy(a) for a in (rays.origins, rays.directions, rays.jitter)]
    options = {"near": 0.0, "far": 1e9, "step": 0.05, "growth": 0.0, "max_samples": 200}
    found = tensor_march(DeviceScene.of(scene.march, CPU), *inputs, **options)  # type: ignore[arg-type]
    assert (found.owners[:, 0] >= 0).all() and (found.owners[:, 1:] == -1).all()
    counts = [len(ray_by_ray.walk_scene(scene, rays, r)) for r in range(30)]
    assert counts == np.diff(found.to_samples().ray_starts).tolist()


def packed(counts: list[int], seed: int = 0) -> tuple[TensorSamples, list[torch.Tensor]]:
    """Samples of rays with these counts, and random sigmas, rgbs and deltas."""
    rng = np.random.default_rng(seed)
    total = sum(counts)
    starts = torch.tensor([0, *np.cumsum(counts)])
    ids = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    ts, sigmas, deltas = (torch.from_numpy(rng.random(total, np.float32)) for _ in range(3))
    rgbs = torch.from_numpy(rng.random((total, 3), np.float32))
    nothing = torch.zeros(total, 4)
    return TensorSamples(starts, ids, ts, deltas, nothing, nothing), [sigmas * 9, rgbs, deltas]


@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_compositing_matches_the_slow_loop(floor: float) -> None:
    """Values and gradients, with empty rays among the others."""
    samples, (sigmas, rgbs, deltas) = packed([3, 0, 7, 1, 0, 12])
    leaves = [sigmas.requires_grad_(), rgbs.requires_grad_()]
    found = composite(samples, sigmas, rgbs, deltas, floor)
    slow_leaves = [v.detach().double().requires_grad_() for v in leaves]
    others = [v.detach().double() for v in (deltas, samples.ts)]
    starts = samples.ray_starts.tolist()
    expected = slow_compositing.composite(starts, *slow_leaves, *others, floor)
    for own, slow in zip(found, expected, strict=True):
        assert float((own - slow).abs().max().detach()) < 1e-6
    grads = [torch.rand(v.shape, generator=torch.Generator().manual_seed(1)) for v in found]
    own_grads = torch.autograd.grad(found, leaves, grads)
    slow_grads = torch.autograd.grad(expected, slow_leaves, [g.double() for g in grads])
    for own, slow in zip(own_grads, slow_grads, strict=True):
        assert float((own - slow).abs().max()) < 1e-5


def test_light_is_summed_ray_by_ray() -> None:
    """An opaque ray before does not eat the digits of the next one."""
    samples, _ = packed([2, 2])
    light = transmittance(samples, torch.tensor([1e7, 1e7, 1e-3, 1e-3]))
    assert torch.allclose(light, torch.tensor([1.0, 0.0, 1.0, math.exp(-1e-3)]), rtol=1e-6)


components = st.one_of(st.sampled_from([0.0, 1.0, -1.0]), st.floats(-1, 1))


@given(
    origin=st.tuples(*[st.floats(-3, 3)] * 3),
    direction=st.tuples(*[components] * 3).filter(lambda d: math.hypot(*d) > 1e-3),
    size=st.tuples(*[st.floats(0.1, 2)] * 3),
)
def test_a_ray_is_in_the_box_exactly_between_begin_and_end(
    origin: tuple[float, ...], direction: tuple[float, ...], size: tuple[float, ...]
) -> None:
    """Every point along the ray is asked whether it lies inside."""
    o, d, high = (torch.tensor(v, dtype=torch.float64) for v in (origin, direction, size))
    d = d / d.norm()
    begin, end = (
        float(v) for v in box_interval(o[None], d[None], torch.stack([-high, high]), 0.0, 8.0)
    )
    for t in np.linspace(0.0, 8.0, 161):
        depth = float((high - (o + t * d).abs()).min())
        if abs(depth) > 1e-9:
            assert (depth > 0) == (begin <= t <= end), t
