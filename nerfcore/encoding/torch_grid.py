"""The hash grid in plain PyTorch operations: any device, any dtype, slow, and the oracle.

Differentiable any number of times; at a cell's border the derivative to a position is the upper
cell's.
"""

import torch
from torch import Tensor

from nerfcore.encoding.layout import PRIMES, GridLayout


def encode(positions: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    """Encode points by trilinear interpolation of every level.

    Args:
        positions: [N, 3] in [0, 1].
        table: [rows, features].
        layout: the table's layout.

    Returns:
        [N, levels * features] in the table's dtype.
    """
    corners = torch.tensor(
        [[i & 1, (i >> 1) & 1, (i >> 2) & 1] for i in range(8)], device=positions.device
    )
    encoded = []
    for level in range(layout.levels):
        point = positions.to(table.dtype) * float(layout.scales[level]) + 0.5
        low = point.detach().floor()
        fraction = point - low
        index = low.long()[:, None, :] + corners
        rows = _rows(index, layout, level)
        weights = torch.where(corners.bool(), fraction[:, None, :], 1 - fraction[:, None, :])
        # written out: the derivatives of `prod` divide by factors that may be almost nothing
        x, y, z = weights.unbind(-1)
        encoded.append(((x * y * z)[..., None] * table[rows]).sum(1))
    return torch.cat(encoded, dim=1)


def _rows(index: Tensor, layout: GridLayout, level: int) -> Tensor:
    """Table rows of integer grid points [..., 3] at one level."""
    size = int(layout.offsets[level + 1] - layout.offsets[level])
    x, y, z = index.unbind(-1)
    if layout.dense[level]:
        resolution = int(layout.resolutions[level])
        local = (x + y * resolution + z * resolution * resolution) % size
    else:
        mask = 0xFFFFFFFF
        hashed = (x & mask) ^ ((y * PRIMES[1]) & mask) ^ ((z * PRIMES[2]) & mask)
        local = hashed % size
    return local + int(layout.offsets[level])
