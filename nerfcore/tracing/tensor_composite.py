"""Compositing of packed samples in differentiable tensor operations; notation of `light`.

The light before sample i of a ray is T_i = exp(-sum_{j<i} sigma_j delta_j), summed in a table with
a row a ray: a running sum over all rays' samples would lose the later rays' digits.
"""

import torch
from torch import Tensor

from nerfcore.sampling.tensor_march import TensorSamples


def transmittance(samples: TensorSamples, depths: Tensor) -> Tensor:
    """Light f[S] that reaches each sample.

    Args:
        samples: their rays.
        depths: f[S], optical depths sigma * delta.
    """
    if not len(depths):
        return depths
    ranks = samples.ranks
    rays, longest = len(samples.ray_starts) - 1, int(ranks.max()) + 1
    places = samples.ray_ids * (longest + 1) + ranks
    table = depths.new_zeros(rays * (longest + 1)).index_add(0, places + 1, depths)
    return torch.exp(-table.view(rays, longest + 1).cumsum(1).view(-1)[places])


def composite(
    samples: TensorSamples,
    sigmas: Tensor,
    rgbs: Tensor,
    deltas: Tensor,
    min_transmittance: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Composite front to back, as the contract says.

    Args:
        samples: rays and distances.
        sigmas: f[S] per metre; rgbs: f[S, 3]; deltas: f[S] metres.
        min_transmittance: samples that less light than this reaches weigh nothing.

    Returns:
        rgb f[R, 3], opacity f[R] and depth f[R] (weighted sum of t), before any background.
    """
    depths = sigmas * deltas
    light = transmittance(samples, depths)
    weights = torch.where(light >= min_transmittance, light * -torch.expm1(-depths), 0.0)
    rays = len(samples.ray_starts) - 1
    values = torch.cat([rgbs, torch.ones_like(rgbs[:, :1]), samples.ts[:, None]], dim=1)
    total = values.new_zeros(rays, 5).index_add(0, samples.ray_ids, weights[:, None] * values)
    return total[:, :3], total[:, 3], total[:, 4]
