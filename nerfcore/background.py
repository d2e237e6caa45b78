"""Owns the colour of rays that leave the scene: a direction-only MLP shared by all experts.

colour = sigmoid(MLP(SH(direction))) in the model's compositing space, or one fixed colour.
"""

from itertools import pairwise

import torch
from torch import Tensor

from nerfcore.encoding.directions import SH_WIDTH
from nerfcore.field import mlp
from nerfcore.field.parameters import Parameters
from nerfcore.settings import ModelSettings


def initial_background(settings: ModelSettings, generator: torch.Generator) -> Parameters:
    """Draw the background MLP's parameters `bg.0`, `bg.1`; empty for a fixed colour."""
    if not settings.use_background:
        return {}
    widths = [SH_WIDTH, settings.bg_hidden, 3]
    parameters: Parameters = {}
    for i, shape in enumerate(pairwise(widths)):
        bound = (3.0 / shape[0]) ** 0.5
        values = torch.rand(shape, generator=generator)
        parameters[f"bg.{i}"] = values.mul_(2 * bound).sub_(bound)
    return parameters


def background_rgb(parameters: Parameters, settings: ModelSettings, harmonics: Tensor) -> Tensor:
    """Background colours [R, 3] for encoded directions [R, 16]; differentiable."""
    if not parameters:
        return harmonics.new_tensor(settings.background_rgb).expand(len(harmonics), 3)
    weights = [parameters["bg.0"], parameters["bg.1"]]
    return torch.sigmoid(mlp.reference(harmonics, weights))
