"""Direction and frequency encodings.

`spherical_harmonics` gives the 16 real spherical harmonics up to degree 3 (four bands) of a unit
direction; `frequencies` the NeRF positional encoding, used by the "vanilla" variant.
"""

import torch
from torch import Tensor

SH_WIDTH = 16
FREQUENCIES = 10
FREQUENCY_WIDTH = 3 + 3 * 2 * FREQUENCIES


def spherical_harmonics(directions: Tensor) -> Tensor:
    """Encode unit directions [N, 3] as [N, 16] real spherical harmonics.

    Source: Sloan 2008, "Efficient Spherical Harmonic Evaluation"; signs as in tiny-cuda-nn.
    """
    x, y, z = directions.unbind(-1)
    xx, yy, zz, xy, yz, xz = x * x, y * y, z * z, x * y, y * z, x * z
    return torch.stack(
        [
            torch.full_like(x, 0.28209479177387814),
            -0.48860251190291987 * y,
            0.48860251190291987 * z,
            -0.48860251190291987 * x,
            1.0925484305920792 * xy,
            -1.0925484305920792 * yz,
            0.94617469575755997 * zz - 0.31539156525251999,
            -1.0925484305920792 * xz,
            0.54627421529603959 * (xx - yy),
            0.59004358992664352 * y * (yy - 3.0 * xx),
            2.8906114426405538 * xy * z,
            0.45704579946446572 * y * (1.0 - 5.0 * zz),
            0.3731763325901154 * z * (5.0 * zz - 3.0),
            0.45704579946446572 * x * (1.0 - 5.0 * zz),
            1.4453057213202769 * z * (xx - yy),
            0.59004358992664352 * x * (3.0 * yy - xx),
        ],
        dim=-1,
    )


def frequencies(positions: Tensor) -> Tensor:
    """Encode unit-cube points [N, 3] as [N, 63]: the point, then sin and cos of 2^k pi x.

    Source: Mildenhall et al. 2020, "NeRF", equation 4, with k = 0..9.
    """
    scaled = (2.0 * positions - 1.0)[:, None, :] * (
        torch.pi * 2.0 ** torch.arange(FREQUENCIES, device=positions.device)[:, None]
    ).to(positions.dtype)
    flat = scaled.flatten(1)
    return torch.cat([positions, flat.sin(), flat.cos()], dim=1)
