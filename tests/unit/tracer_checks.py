"""What every tracer must satisfy, held against the slow float64 tracer."""

import numpy as np
import ray_by_ray
import torch

from nerfcore.field.parameters import Parameters, zeros_like
from nerfcore.scene import SceneModel
from nerfcore.tracing.contract import Gradients, Rays, TracedScene, Tracer

BEGUN = 2.0**-12


def moved(parameters: Parameters, device: str) -> Parameters:
    """The same parameters on a device."""
    return {name: value.to(device) for name, value in parameters.items()}


def check_picture(
    tracer: Tracer, model: SceneModel, scene: TracedScene, rays: Rays, device: str = "cpu",
    tolerance: float = 1e-4,
) -> None:  # fmt: skip
    """Colours, opacities and depths."""
    expected = ray_by_ray.trace(
        scene, [ray_by_ray.in_double(p) for p in model.experts],
        ray_by_ray.in_double(model.background), rays,
    )  # fmt: skip
    experts = [moved(p, device) for p in model.experts]
    found = tracer.render(scene, experts, moved(model.background, device), rays)
    for name, want in zip(("rgb", "opacity", "depth"), expected[:3], strict=True):
        values = getattr(found, name)
        assert values.dtype == np.float32 and np.isfinite(values).all()
        assert np.abs(values - want.detach().numpy()).max() < tolerance, name


def check_gradient(
    tracer: Tracer, model: SceneModel, scene: TracedScene, rays: Rays, truth: np.ndarray,
    device: str = "cpu", tolerance: float = 1e-3,
) -> None:  # fmt: skip
    """The loss and its gradient to every parameter, relative to the largest of its tensor.

    The buffers are not empty before: gradients are added.
    """
    experts = [ray_by_ray.in_double(p) for p in model.experts]
    sky = ray_by_ray.in_double(model.background)
    rgb, _, _, placed = ray_by_ray.trace(scene, experts, sky, rays)
    loss = ray_by_ray.loss(scene, rgb, truth)
    loss.backward()
    own, own_sky = [moved(p, device) for p in model.experts], moved(model.background, device)
    buffers = Gradients(
        {k: _begun(zeros_like(p)) for k, p in enumerate(own)}, _begun(zeros_like(own_sky))
    )
    report = tracer.loss_gradient(scene, own, own_sky, rays, truth, buffers)
    assert abs(report.mse - float(loss.detach())) < tolerance * float(loss.detach())
    assert report.samples.count == sum(placed) == len(report.sigmas)
    assert report.touched == set(range(len(own)))
    assert buffers.background is not None
    for k, leaves in [*enumerate(experts), (None, sky)]:
        found = buffers.background if k is None else buffers.experts[k]
        for name, leaf in leaves.items():
            want = leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)
            difference = (found[name].cpu().double() - BEGUN - want).abs().max()
            assert float(difference) < tolerance * float(want.abs().max()) + 1e-9, (
                k,
                name,
                float(difference),
                float(want.abs().max()),
            )


def _begun(parameters: Parameters) -> Parameters:
    return {name: value + BEGUN for name, value in parameters.items()}
