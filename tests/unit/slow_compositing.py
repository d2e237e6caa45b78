"""Volume rendering of packed samples from its formula, in float64, one sample at a time.

With alpha_i = 1 - exp(-sigma_i delta_i) and T_i = prod_{j<i} (1 - alpha_j), a ray gets
sum_i T_i alpha_i c_i, the opacity sum_i T_i alpha_i and the depth sum_i T_i alpha_i t_i
(Max 1995; Mildenhall et al. 2020, equation 3); samples where T_i < floor count for nothing.
"""

from itertools import pairwise

import torch
from torch import Tensor


def composite(
    starts: list[int], sigmas: Tensor, rgbs: Tensor, deltas: Tensor, ts: Tensor, floor: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Colours [R, 3], opacities [R] and depths [R]; differentiable in sigmas and rgbs."""
    rows = []
    for begin, end in pairwise(starts):
        light = torch.ones((), dtype=torch.float64)
        total = torch.zeros(5, dtype=torch.float64)
        for s in range(begin, end):
            if float(light.detach()) < floor:
                break
            alpha = 1.0 - torch.exp(-sigmas[s] * deltas[s])
            one = torch.ones(1, dtype=torch.float64)
            total = total + light * alpha * torch.cat([rgbs[s], one, ts[s : s + 1]])
            light = light * (1.0 - alpha)
        rows.append(total)
    stacked = torch.stack(rows)
    return stacked[:, :3], stacked[:, 3], stacked[:, 4]
