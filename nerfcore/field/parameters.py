"""Owns an expert's parameters: names, shapes, initial values and gradient buffers.

Names: `table` [rows, features] (variant "instant" only), `sigma.i` and `color.i`, the weight
matrices [in, out] of the MLPs' layers. The MLPs have no biases (as tiny-cuda-nn's fused MLPs).
The colour MLP sees 15 geometry features, 16 spherical harmonics and a constant 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from nerfcore.encoding.directions import FREQUENCY_WIDTH, SH_WIDTH
from nerfcore.encoding.layout import GridLayout, grid_layout
from nerfcore.settings import ModelSettings

GEOMETRY_WIDTH = 15
COLOUR_INPUT_WIDTH = GEOMETRY_WIDTH + SH_WIDTH + 1
TABLE_RANGE = 1e-4

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Architecture:
    """Shapes derived from the settings.

    Attributes:
        settings: the model's settings.
        layout: table layout, None for the "vanilla" variant.
    """

    settings: ModelSettings
    layout: GridLayout | None

    @staticmethod
    def of(settings: ModelSettings) -> "Architecture":
        layout = grid_layout(settings.grid) if settings.variant == "instant" else None
        return Architecture(settings, layout)

    @property
    def input_width(self) -> int:
        return self.layout.width if self.layout else FREQUENCY_WIDTH

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Shape of every parameter by name."""
        s = self.settings
        sigma = [self.input_width, *[s.dim_hidden] * s.sigma_depth, GEOMETRY_WIDTH + 1]
        colour = [COLOUR_INPUT_WIDTH, *[s.color_hidden] * s.color_depth, 3]
        shapes: dict[str, tuple[int, int]] = {}
        if self.layout:
            shapes["table"] = (self.layout.rows, self.layout.features)
        shapes |= _layers("sigma", sigma)
        return shapes | _layers("color", colour)

    def bytes(self) -> int:
        """Memory of one expert's parameters, 4 bytes each."""
        return sum(4 * rows * columns for rows, columns in self.shapes().values())


def _layers(name: str, widths: list[int]) -> dict[str, tuple[int, int]]:
    return {f"{name}.{i}": pair for i, pair in enumerate(pairwise(widths))}


def initial_parameters(architecture: Architecture, generator: torch.Generator) -> Parameters:
    """Draw initial values: tables uniform in +-1e-4, matrices Kaiming-uniform for ReLU."""
    parameters: Parameters = {}
    for name, shape in architecture.shapes().items():
        bound = TABLE_RANGE if name == "table" else (6.0 / shape[0]) ** 0.5
        if name == "color." + str(architecture.settings.color_depth):
            bound = (3.0 / shape[0]) ** 0.5
        values = torch.rand(shape, generator=generator, dtype=torch.float32)
        parameters[name] = values.mul_(2 * bound).sub_(bound)
    return parameters


def zeros_like(parameters: Parameters) -> Parameters:
    """Gradient buffers (or moments) shaped as the parameters."""
    return {name: torch.zeros_like(value) for name, value in parameters.items()}


def mlp(parameters: Parameters, name: str) -> list[Tensor]:
    """The weight matrices of one MLP in order."""
    return list(_in_order(parameters, name))


def _in_order(parameters: Parameters, name: str) -> Iterator[Tensor]:
    index = 0
    while f"{name}.{index}" in parameters:
        yield parameters[f"{name}.{index}"]
        index += 1
