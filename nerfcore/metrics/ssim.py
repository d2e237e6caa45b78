"""Owns structural similarity: 11x11 Gaussian window, sigma 1.5, range 1, mean over channels.

The window statistics are the plain (biased) ones of the original paper, computed by scikit-image.
Only windows that lie wholly inside the picture and wholly on valid pixels count.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from nerfcore.metrics.picture_check import Mask, Picture, checked_pair, with_truth_outside

WINDOW_PX = 11
SIGMA_PX = 1.5


def ssim(prediction: Picture, truth: Picture, valid: Mask | None = None) -> float:
    """Return the mean structural similarity of a prediction in sRGB.

    Args:
        prediction: float [H, W, 3], sRGB; clipped to [0, 1].
        truth: float [H, W, 3], sRGB in [0, 1].
        valid: bool [H, W], or None for all pixels.

    Returns:
        A value in [-1, 1], 1 for equal pictures; NaN where no 11x11 window fits into the valid
        pixels, since SSIM is not defined there.

    Raises:
        DataError: the shapes differ, or no pixel is valid.
        NonFiniteError: a valid pixel is NaN or infinite.

    Source: Wang et al. 2004, "Image quality assessment: from error visibility to structural
    similarity", eq. 13.
    """
    prediction64, truth64, mask = checked_pair(prediction, truth, valid)
    centres = _window_centres(mask)
    if not centres.any():
        return float("nan")
    filled = with_truth_outside(prediction64, truth64, mask)
    similarity = structural_similarity(
        filled,
        truth64,
        data_range=1.0,
        channel_axis=2,
        gaussian_weights=True,
        sigma=SIGMA_PX,
        use_sample_covariance=False,
        full=True,
    )[1]
    return float(np.mean(np.asarray(similarity)[centres]))


def _window_centres(mask: Mask) -> NDArray[np.bool_]:
    """Return bool[H, W], True where the whole window around the pixel is valid."""
    kernel = np.ones((WINDOW_PX, WINDOW_PX), np.uint8)
    inside = cv2.erode(
        mask.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=(0.0,)
    )
    return inside.astype(bool)
