"""Owns the entry check every metric applies to its pictures.

A picture is float sRGB [H, W, 3] in RGB order, nominally in [0, 1]; `valid` is bool [H, W], True
where the photograph really saw the scene (None: everywhere).
"""

import numpy as np
from numpy.typing import NDArray

from nerfcore.errors import DataError, NonFiniteError

Picture = NDArray[np.floating]
Mask = NDArray[np.bool_]


def checked_pair(
    prediction: Picture, truth: Picture, valid: Mask | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], Mask]:
    """Return both pictures as float64 clipped to [0, 1], and a mask that is always an array.

    Args:
        prediction: float [H, W, 3], sRGB.
        truth: float [H, W, 3], sRGB.
        valid: bool [H, W] or None for all pixels.

    Returns:
        prediction, truth f64[H, W, 3]; valid bool[H, W].

    Raises:
        DataError: the shapes differ, or no pixel is valid.
        NonFiniteError: a valid pixel is NaN or infinite.
    """
    if prediction.shape != truth.shape or truth.ndim != 3 or truth.shape[2] != 3:
        raise DataError(
            f"pictures to score: prediction {prediction.shape} and truth {truth.shape} must both "
            "be [height, width, 3] of one size; render at the photograph's size"
        )
    mask = np.ones(truth.shape[:2], bool) if valid is None else np.asarray(valid, bool)
    if mask.shape != truth.shape[:2]:
        raise DataError(
            f"valid mask: its shape {mask.shape} is not the picture's {truth.shape[:2]}; "
            "use the mask of this very image"
        )
    if not mask.any():
        raise DataError(
            "valid mask: 0 pixels are valid, at least 1 is needed to score; "
            "mend the mask or leave the image out"
        )
    for name, picture in (("prediction", prediction), ("truth", truth)):
        bad = int(np.count_nonzero(~np.isfinite(picture[mask])))
        if bad:
            raise NonFiniteError(
                f"{name}: {bad} values at valid pixels are NaN or infinite, 0 allowed; "
                "go back to an earlier checkpoint"
            )
    prediction64, truth64 = _clipped(prediction), _clipped(truth)
    return prediction64, truth64, mask


def with_truth_outside(
    prediction: NDArray[np.float64], truth: NDArray[np.float64], valid: Mask
) -> NDArray[np.float64]:
    """Return the prediction with the truth's pixels where the mask is False.

    Windowed metrics look beyond the pixel they score: what lies outside the mask must not differ.
    """
    return np.where(valid[..., None], prediction, truth)


def _clipped(picture: Picture) -> NDArray[np.float64]:
    return np.clip(np.nan_to_num(picture.astype(np.float64)), 0.0, 1.0)
