"""The tracer's contract written as plainly as possible: float64, one ray and one sample at a time.

Only the placing of samples is shared with the engine (it has its own slow test); everything else
is written from the formulas, with PyTorch's autograd for gradients.
"""

import numpy as np
import torch

from nerfcore.colour import linear_to_srgb
from nerfcore.encoding import torch_grid
from nerfcore.encoding.directions import frequencies, spherical_harmonics
from nerfcore.field.mlp import reference
from nerfcore.field.parameters import Architecture, Parameters, mlp
from nerfcore.tracing.contract import Rays, TracedScene
from nerfcore.tracing.placing import place_samples


def double(parameters: Parameters) -> Parameters:
    """A float64 copy that autograd follows."""
    return {name: value.double().requires_grad_() for name, value in parameters.items()}


def field(
    architecture: Architecture, parameters: Parameters, point: torch.Tensor, direction: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Density (per metre) and colour of one expert at one point of its unit cube."""
    layout = architecture.layout
    if layout is None:
        features = frequencies(point[None])
    else:
        features = torch_grid.encode(point[None], parameters["table"], layout)
    hidden = reference(features, mlp(parameters, "sigma"))[0]
    sigma = torch.exp(torch.clamp(hidden[0] - 2.0, max=15.0))
    one = torch.ones(1, dtype=torch.float64)
    inputs = torch.cat([hidden[1:], spherical_harmonics(direction[None])[0], one])
    return sigma, torch.sigmoid(reference(inputs[None], mlp(parameters, "color"))[0])


def trace(
    scene: TracedScene,
    architecture: Architecture,
    experts: list[Parameters],
    background: Parameters,
    rays: Rays,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Composited colour over the background [R, 3], opacity [R] and depth [R]."""
    samples = place_samples(scene, rays)
    colours, opacities, depths = [], [], []
    for r in range(len(rays)):
        origin, direction = (
            torch.from_numpy(a[r]).double() for a in (rays.origins, rays.directions)
        )
        light = torch.ones((), dtype=torch.float64)
        colour = torch.zeros(3, dtype=torch.float64)
        opacity, depth = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for s in range(samples.ray_starts[r], samples.ray_starts[r + 1]):
            if float(light) < scene.sampling.min_transmittance:
                break
            t = float(samples.ts[s])
            sigma, rgb = torch.zeros((), dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
            for k, weight in zip(samples.owners[s], samples.owner_weights[s], strict=True):
                if k < 0:
                    continue
                low = torch.from_numpy(scene.march.box_mins[k]).double()
                edge = float((scene.march.box_maxs[k] - scene.march.box_mins[k]).max())
                point = ((origin + t * direction - low) / edge).clamp(0, 1)
                found = field(architecture, experts[k], point, direction)
                sigma = sigma + float(weight) * found[0]
                rgb = rgb + float(weight) * found[1]
            alpha = 1 - torch.exp(-sigma * float(samples.dts[s]) * scene.scale_m)
            colour = colour + light * alpha * rgb
            opacity, depth = opacity + light * alpha, depth + light * alpha * t
            light = light * (1 - alpha)
        harmonics = spherical_harmonics(direction[None])
        behind = torch.tensor(scene.settings.background_rgb, dtype=torch.float64)
        if background:
            weights = [background["bg.0"], background["bg.1"]]
            behind = torch.sigmoid(reference(harmonics, weights)[0])
        colours.append(colour + (1 - opacity) * behind)
        opacities.append(opacity)
        depths.append(depth)
    return torch.stack(colours), torch.stack(opacities), torch.stack(depths)


def mse(scene: TracedScene, colours: torch.Tensor, truth: np.ndarray) -> torch.Tensor:
    """Mean squared error in sRGB."""
    shown = colours
    if scene.settings.colour_space == "linear":
        shown = linear_to_srgb(colours.clamp_min(0.0))
    return (shown - torch.from_numpy(truth).double()).square().mean()
