"""Owns the sRGB transfer curve: both ways for NumPy arrays, to sRGB for torch tensors.

"sRGB" means display values in [0, 1] as stored in image files (8-bit value / 255); "linear" means
values proportional to light. The curve is the exact piecewise one of IEC 61966-2-1, not a power of
2.2. The functions do not clip: negative values take the straight segment, values above 1 continue
the power segment. The standard's two segments meet to 3e-8 only, far below an 8-bit step.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SRGB_KNEE = 0.04045
LINEAR_KNEE = 0.0031308
SLOPE = 12.92
OFFSET = 0.055
GAMMA = 2.4


def linear_to_srgb(linear: Tensor) -> Tensor:
    """Turn linear light into sRGB values.

    Args:
        linear: float tensor of any shape, normally in [0, 1].

    Returns:
        A tensor of the same shape and dtype; its gradient is finite everywhere (12.92 at 0).

    Source: IEC 61966-2-1.
    """
    # `where` multiplies the branch not taken by a zero gradient: clamp its base so that the
    # derivative of the power stays finite there.
    base = linear.clamp_min(LINEAR_KNEE)
    power = (1.0 + OFFSET) * base ** (1.0 / GAMMA) - OFFSET
    return torch.where(linear <= LINEAR_KNEE, linear * SLOPE, power)


def srgb_to_linear_array(srgb: NDArray[np.floating]) -> NDArray[np.floating]:
    """Turn sRGB values into linear light.

    Args:
        srgb: float array of any shape, normally in [0, 1].

    Returns:
        An array of the same shape and dtype.
    """
    base = (np.maximum(srgb, SRGB_KNEE) + OFFSET) / (1.0 + OFFSET)
    return np.where(srgb <= SRGB_KNEE, srgb / SLOPE, base**GAMMA).astype(srgb.dtype)


def linear_to_srgb_array(linear: NDArray[np.floating]) -> NDArray[np.floating]:
    """Turn linear light into sRGB values.

    Args:
        linear: float array of any shape, normally in [0, 1].

    Returns:
        An array of the same shape and dtype.
    """
    base = np.maximum(linear, LINEAR_KNEE)
    power = (1.0 + OFFSET) * base ** (1.0 / GAMMA) - OFFSET
    return np.where(linear <= LINEAR_KNEE, linear * SLOPE, power).astype(linear.dtype)


def bytes_to_srgb(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn 8-bit pixel values (0..255) into float32 sRGB in [0, 1]."""
    return pixels.astype(np.float32) / np.float32(255.0)


def srgb_to_bytes(srgb: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Turn sRGB values into 8-bit pixels, clipped to [0, 1] and rounded to the nearest."""
    return np.rint(np.clip(srgb, 0.0, 1.0) * 255.0).astype(np.uint8)
