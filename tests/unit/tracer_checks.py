"""What every tracer must satisfy, held against the slow float64 tracer.

Values and gradients are compared at the very samples that the tracer placed: moved by a rounding
error, a sample may cross a cell's border, where the gradient jumps. Placing has tests of its own.
"""

import numpy as np
import ray_by_ray
import torch
from torch import Tensor

from nerfcore.field.parameters import Parameters, zeros_like
from nerfcore.scene import SceneModel
from nerfcore.tracing.contract import Gradients, LossReport, Rays, TracedScene, Tracer

BEGUN = 2.0**-12
TOLERANCE = 1e-5


def moved(parameters: Parameters, device: str) -> Parameters:
    """The same parameters on a device."""
    return {name: value.to(device) for name, value in parameters.items()}


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Length of the difference over the expected length."""
    difference = (found.detach().cpu().double() - expected.detach().cpu().double()).norm()
    return float(difference / expected.detach().cpu().double().norm().clamp_min(1e-12))


def places_of(rays: Rays, wanted: Rays) -> np.ndarray:
    """Where each of `wanted` stands among `rays`, which are the same in another order."""
    places = {(o.tobytes(), d.tobytes()): i for i, (o, d) in enumerate(_pairs(rays))}
    return np.array([places[o.tobytes(), d.tobytes()] for o, d in _pairs(wanted)])


def _pairs(rays: Rays) -> zip:  # type: ignore[type-arg]
    return zip(rays.origins, rays.directions, strict=True)


def check_picture(
    tracer: Tracer, model: SceneModel, scene: TracedScene, rays: Rays, device: str = "cpu",
    tolerance: float = TOLERANCE, faint: float = 0.0,
) -> None:  # fmt: skip
    """Colours, opacities and depths.

    Args:
        faint: by how much they may differ besides, where faint samples may stay dark.
    """
    experts, sky = [moved(p, device) for p in model.experts], moved(model.background, device)
    nothing = np.zeros((len(rays), 3), np.float32)
    report = tracer.loss_gradient(scene, experts, sky, rays, nothing, Gradients({}, None))
    own = [ray_by_ray.in_double(p) for p in model.experts]
    with torch.no_grad():
        expected = ray_by_ray.trace(
            scene, own, ray_by_ray.in_double(model.background), report.rays, report.samples
        )
    found = tracer.render(scene, experts, sky, rays)
    order = places_of(rays, report.rays)
    for name, want in zip(("rgb", "opacity", "depth"), expected, strict=True):
        values = getattr(found, name)
        assert values.dtype == np.float32 and np.isfinite(values).all()
        difference = np.abs(values[order] - want.numpy()).max()
        assert difference <= tolerance * max(1.0, float(want.abs().max())) + faint, name


def check_gradient(
    tracer: Tracer, model: SceneModel, scene: TracedScene, rays: Rays, truth: np.ndarray,
    device: str = "cpu", tolerance: float = TOLERANCE,
) -> LossReport:  # fmt: skip
    """The loss and its gradient to every parameter.

    The buffers are not empty before: gradients are added.
    """
    own, own_sky = [moved(p, device) for p in model.experts], moved(model.background, device)
    buffers = Gradients(
        {k: _begun(zeros_like(p)) for k, p in enumerate(own)}, _begun(zeros_like(own_sky))
    )
    report = tracer.loss_gradient(scene, own, own_sky, rays, truth, buffers)
    experts = [ray_by_ray.in_double(p) for p in model.experts]
    sky = ray_by_ray.in_double(model.background)
    rgb, _, _ = ray_by_ray.trace(scene, experts, sky, report.rays, report.samples)
    loss = ray_by_ray.loss(scene, rgb, truth[places_of(rays, report.rays)])
    loss.backward()
    assert abs(report.mse - float(loss.detach())) < tolerance * float(loss.detach())
    assert report.samples.count == len(report.sigmas)
    assert report.touched == set(range(len(own)))
    assert buffers.background is not None
    for k, leaves in [*enumerate(experts), (None, sky)]:
        found = buffers.background if k is None else buffers.experts[k]
        for name, leaf in leaves.items():
            want = leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)
            error = relative_error(found[name].cpu().double() - BEGUN, want)
            assert error < tolerance, (k, name, error)
    return report


def _begun(parameters: Parameters) -> Parameters:
    return {name: value + BEGUN for name, value in parameters.items()}
