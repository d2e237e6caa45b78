"""Owns the peak signal-to-noise ratio: `-10 log10(MSE)` for values in [0, 1].

The mean runs over valid pixels and the three channels. A perfect picture (MSE 0) would be
infinite, which no table or mean can hold: PSNR is capped at `PSNR_CAP_DB`. It is never NaN.
"""

import math

import numpy as np
from numpy.typing import NDArray

from nerfcore.colour import srgb_to_linear_array
from nerfcore.metrics.picture_check import Mask, Picture, checked_pair

PSNR_CAP_DB = 100.0


def psnr_from_mse(mse: float) -> float:
    """Return the PSNR in dB of a mean squared error, at most `PSNR_CAP_DB`.

    Args:
        mse: mean squared error of values in [0, 1]; 0 or more.
    """
    if mse <= 10.0 ** (-PSNR_CAP_DB / 10.0):
        return PSNR_CAP_DB
    return -10.0 * math.log10(mse)


def psnr(prediction: Picture, truth: Picture, valid: Mask | None = None) -> float:
    """Return the PSNR of a prediction in sRGB, over valid pixels.

    Args:
        prediction: float [H, W, 3], sRGB; clipped to [0, 1].
        truth: float [H, W, 3], sRGB in [0, 1].
        valid: bool [H, W], or None for all pixels.

    Returns:
        dB, at most 100.

    Raises:
        DataError: the shapes differ, or no pixel is valid.
        NonFiniteError: a valid pixel is NaN or infinite.
    """
    prediction64, truth64, mask = checked_pair(prediction, truth, valid)
    return psnr_from_mse(_mean_square(prediction64 - truth64, mask))


def psnr_linear(prediction: Picture, truth: Picture, valid: Mask | None = None) -> float:
    """Return the PSNR after turning both sRGB pictures into linear light.

    Linear PSNR reads higher than sRGB PSNR on dark scenes, so the two are never mixed. Arguments,
    result and errors are those of `psnr`.
    """
    prediction64, truth64, mask = checked_pair(prediction, truth, valid)
    error = srgb_to_linear_array(prediction64) - srgb_to_linear_array(truth64)
    return psnr_from_mse(_mean_square(error, mask))


def _mean_square(error: NDArray[np.floating], mask: Mask) -> float:
    return float(np.mean(error[mask] ** 2))
