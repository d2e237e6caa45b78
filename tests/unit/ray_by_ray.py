"""Traces one ray after another, one sample after another, in float64: slow, and easy to believe.

Written from the definitions in `nerfcore.tracing.contract`, the placing of samples too;
differentiable by autograd.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from nerfcore.background import background_rgb
from nerfcore.colour import linear_to_srgb
from nerfcore.encoding import torch_grid
from nerfcore.encoding.directions import frequencies, spherical_harmonics
from nerfcore.field.parameters import Architecture, Parameters
from nerfcore.sampling.march import MAX_OWNERS, MOST_STRETCHES, MarchScene, Samples
from nerfcore.tracing.contract import Rays, TracedScene

# Middle and length (world units), point f64[3], experts with their weights.
Sample = tuple[float, float, np.ndarray, list[tuple[int, float]]]


def in_double(parameters: Parameters) -> Parameters:
    """Float64 leaves with the same values."""
    return {name: value.double().requires_grad_() for name, value in parameters.items()}


def box_span(origin: np.ndarray, direction: np.ndarray, march: MarchScene) -> tuple[float, float]:
    """Distances between which a ray is inside the scene's box; (1, 0) for never."""
    begin, end = 0.0, math.inf
    for axis in range(3):
        o, d = float(origin[axis]), float(direction[axis])
        low, high = float(march.aabb[0, axis]), float(march.aabb[1, axis])
        if abs(d) < 1e-12:
            if not low <= o <= high:
                return 1.0, 0.0
            continue
        first, second = sorted([(low - o) / d, (high - o) / d])
        begin, end = max(begin, first), min(end, second)
    return begin, end


def owners_of(point: np.ndarray, march: MarchScene) -> tuple[list[tuple[int, float]], bool]:
    """Experts of a point with weights that sum to 1, and whether any calls its cell occupied."""
    axes = slice(march.first_axis, 3)
    away = [float(np.linalg.norm(point[axes] - c[axes])) for c in march.centroids.astype(float)]
    found, occupied = [], False
    for k, distance in enumerate(away):
        low, high = march.box_mins[k].astype(float), march.box_maxs[k].astype(float)
        unit = (point - low) / (high - low)
        near = distance <= march.margin * min(away)
        if not near or (unit < 0).any() or (unit >= 1).any():
            continue
        found.append((k, max(1e-6, march.margin * min(away) / distance - 1.0)))
    found.sort(key=lambda one: -one[1])
    if len(found) > MAX_OWNERS:
        left_out = found[MAX_OWNERS][1]
        found = [(k, max(weight - left_out, 1e-6)) for k, weight in found[:MAX_OWNERS]]
    found.sort()
    for k, _ in found:
        low, high = march.box_mins[k].astype(float), march.box_maxs[k].astype(float)
        unit = (point - low) / (high - low)
        i, j, m = (int(u * n) for u, n in zip(unit, march.cell_dims[k], strict=True))
        _, wide, deep = march.cell_dims[k]
        occupied |= bool(march.cells[march.cell_offsets[k] + (i * wide + j) * deep + m])
    total = sum(weight for _, weight in found)
    return [(k, weight / total) for k, weight in found], occupied


def steps(
    scene: MarchScene, rays: Rays, r: int, step: float, growth: float, stretch: float
) -> Iterator[Sample]:
    """A ray's samples in occupied cells, without a cap."""
    origin, direction = rays.origins[r].astype(float), rays.directions[r].astype(float)
    t, end = box_span(origin, direction, scene)
    while t < end:
        dt = min(max(step, growth * t) * stretch, end - t)
        middle = t + float(rays.jitter[r]) * dt
        t += dt
        point = origin + middle * direction
        owners, occupied = owners_of(point, scene)
        if occupied:
            yield middle, dt, point, owners


def walk(
    scene: MarchScene, rays: Rays, r: int, *, step: float, growth: float, max_samples: int
) -> list[Sample]:
    """A ray's samples; lengths in world units.

    A ray with more than `max_samples` is walked again with longer steps, up to three times, and
    then cut.
    """
    stretch, found = 1.0, []
    for _ in range(1 + MOST_STRETCHES):
        found = list(steps(scene, rays, r, step, growth, stretch))
        if len(found) <= max_samples:
            break
        stretch *= len(found) / max_samples * 1.02
    return found[:max_samples]


def given(samples: Samples, rays: Rays, r: int) -> list[Sample]:
    """A ray's samples as something else placed them."""
    origin, direction = rays.origins[r].astype(float), rays.directions[r].astype(float)
    found = []
    for s in range(samples.ray_starts[r], samples.ray_starts[r + 1]):
        t = float(samples.ts[s])
        pairs = zip(samples.owners[s], samples.owner_weights[s], strict=True)
        owners = [(int(k), float(weight)) for k, weight in pairs if k >= 0]
        found.append((t, float(samples.dts[s]), origin + t * direction, owners))
    return found


def walk_scene(scene: TracedScene, rays: Rays, r: int) -> list[Sample]:
    """A ray's samples with the scene's sampling settings."""
    s = scene.sampling
    step = s.step_m / scene.scale_m
    return walk(scene.march, rays, r, step=step, growth=s.step_growth, max_samples=s.max_samples)


def field(
    architecture: Architecture, parameters: Parameters, unit: np.ndarray, harmonics: Tensor
) -> tuple[Tensor, Tensor]:
    """Density per metre and colour f64[3] at one point of an expert's unit cube."""
    x = torch.from_numpy(unit)[None]
    if architecture.layout is None:
        h = frequencies(x)[0]
    else:
        h = torch_grid.encode(x, parameters["table"], architecture.layout)[0]
    settings, outputs = architecture.settings, []
    for name, depth in (("sigma", settings.sigma_depth), ("color", settings.color_depth)):
        for i in range(depth + 1):
            h = h @ parameters[f"{name}.{i}"]
            h = torch.relu(h) if i < depth else h
        outputs.append(h)
        h = torch.cat([h[1:], harmonics, torch.ones(1, dtype=torch.float64)])
    return torch.exp((outputs[0][0] - 2.0).clamp(max=15.0)), torch.sigmoid(outputs[1])


def trace_ray(
    scene: TracedScene, experts: Sequence[Parameters], rays: Rays, r: int, samples: list[Sample]
) -> tuple[Tensor, Tensor, Tensor]:
    """One ray's colour before the background, opacity and depth."""
    architecture, march = Architecture.of(scene.settings), scene.march
    direction = torch.from_numpy(rays.directions[r].astype(float))
    harmonics = spherical_harmonics(direction[None])[0]
    rgb, opacity, depth = (
        torch.zeros(3).double(),
        torch.zeros(()).double(),
        torch.zeros(()).double(),
    )
    light = torch.ones(()).double()
    for middle, dt, point, owners in samples:
        if light.detach() < scene.sampling.min_transmittance:
            continue
        sigma, colour = torch.zeros(()).double(), torch.zeros(3).double()
        for k, weight in owners:
            low, high = march.box_mins[k].astype(float), march.box_maxs[k].astype(float)
            unit = np.clip((point - low) / (high - low).max(), 0.0, 1.0)
            found = field(architecture, experts[k], unit, harmonics)
            sigma, colour = sigma + weight * found[0], colour + weight * found[1]
        alpha = 1.0 - torch.exp(-sigma * dt * scene.scale_m)
        rgb, opacity = rgb + light * alpha * colour, opacity + light * alpha
        depth = depth + light * alpha * middle
        light = light * (1.0 - alpha)
    return rgb, opacity, depth


def trace(
    scene: TracedScene, experts: Sequence[Parameters], background: Parameters, rays: Rays,
    samples: Samples | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """All rays: rgb f64[R, 3] with background, opacity f64[R] and depth f64[R].

    Args:
        samples: those of the rays, to compare what is made of them; None places them here.
    """
    placed = [
        walk_scene(scene, rays, r) if samples is None else given(samples, rays, r)
        for r in range(len(rays))
    ]
    found = [trace_ray(scene, experts, rays, r, own) for r, own in enumerate(placed)]
    rgb, opacity, depth = (torch.stack(values) for values in zip(*found, strict=True))
    harmonics = spherical_harmonics(torch.from_numpy(rays.directions).double())
    behind = background_rgb(background, scene.settings, harmonics)
    return rgb + (1 - opacity)[:, None] * behind, opacity, depth


def loss(scene: TracedScene, rgb: Tensor, truth: np.ndarray) -> Tensor:
    """Mean squared error in sRGB."""
    shown = linear_to_srgb(rgb.clamp_min(0)) if scene.settings.colour_space == "linear" else rgb
    return (shown - torch.from_numpy(truth).double()).square().mean()
