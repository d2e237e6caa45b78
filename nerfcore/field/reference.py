"""The field's definition in plain differentiable operations, any device and floating type.

sigma = exp(h_0 - 2) per metre, h_0 - 2 clamped to 15; colour = sigmoid(MLP(h_1..15, SH(dir), 1)),
where h is the density MLP's output.
"""

import torch
from torch import Tensor

from nerfcore.field import mlp
from nerfcore.field.parameters import Parameters
from nerfcore.field.parameters import mlp as mlp_weights

SIGMA_SHIFT = -2.0
MAX_LOG_SIGMA = 15.0


def densities(parameters: Parameters, features: Tensor) -> Tensor:
    """Densities f[N] per metre from encoded points f[N, width]."""
    *first, last = mlp_weights(parameters, "sigma")
    return _sigmas(mlp.reference(features, [*first, last[:, :1]]))


def field(parameters: Parameters, features: Tensor, harmonics: Tensor) -> tuple[Tensor, Tensor]:
    """Densities f[N] per metre and colours f[N, 3] in [0, 1].

    Args:
        parameters: one expert's; its table is not read.
        features: f[N, width], encoded points.
        harmonics: f[N, 16], encoded view directions.
    """
    hidden = mlp.reference(features, mlp_weights(parameters, "sigma"))
    ones = hidden.new_ones(len(hidden), 1)
    colour_input = torch.cat([hidden[:, 1:], harmonics.to(hidden.dtype), ones], dim=1)
    colours = mlp.reference(colour_input, mlp_weights(parameters, "color"))
    return _sigmas(hidden), torch.sigmoid(_at_least_float32(colours))


def _sigmas(hidden: Tensor) -> Tensor:
    return torch.exp((_at_least_float32(hidden[:, 0]) + SIGMA_SHIFT).clamp(max=MAX_LOG_SIGMA))


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
