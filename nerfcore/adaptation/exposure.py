"""Owns exposure: how much brighter or darker, channel by channel, a photograph is than the model.

An image's exposure is three gains g in log2 of linear light: photograph = model * 2^g. Fitting is
robust, since the new photographs may show something else than the model: starting at the median of
the pixels' log ratios, pixels are weighted by Cauchy's function around the current estimate, so
that the densest group of pixels decides (Black and Anandan 1996, iteratively reweighted means).
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from nerfcore.adaptation.looks import Look
from nerfcore.colour import linear_to_srgb_array, srgb_to_linear_array

DARKEST, BRIGHTEST = 0.08, 0.92
WIDTH_LOG2 = 0.15
ROUNDS = 10
LEAST_PIXELS = 64
BLUR_PX = 1.5
Gains = NDArray[np.float32]
"""f32[3], log2 of linear light."""


def no_exposure() -> Gains:
    """Gains that change nothing."""
    return np.zeros(3, np.float32)


def fit_exposure(look: Look) -> Gains | None:
    """Gains of one photograph over what the model shows, or None where too little can be compared.

    Pixels that are not valid, that show sky, or that are nearly black or burnt out do not count.
    """
    shown, truth = blurred(look.shown), blurred(look.truth)
    usable = look.valid & np.isfinite(look.depth_m)
    gains = no_exposure()
    for channel in range(3):
        a, b = shown[..., channel], truth[..., channel]
        inside = (np.minimum(a, b) > DARKEST) & (np.maximum(a, b) < BRIGHTEST) & usable
        if int(inside.sum()) < LEAST_PIXELS:
            return None
        linear = [srgb_to_linear_array(values[inside].astype(np.float64)) for values in (a, b)]
        gains[channel] = _densest(np.log2(linear[1] / linear[0]))
    return gains


def fit_exposures(looks: Sequence[Look]) -> dict[int, Gains]:
    """Gains by image; an image that cannot be fitted takes the median of the others."""
    found = {look.image: fit_exposure(look) for look in looks}
    typical = typical_exposure([gains for gains in found.values() if gains is not None])
    return {image: typical if gains is None else gains for image, gains in found.items()}


def typical_exposure(gains: Sequence[Gains]) -> Gains:
    """The median gains, for photographs of the same flight that were not fitted."""
    if not gains:
        return no_exposure()
    return np.median(np.stack(gains), axis=0).astype(np.float32)


def exposed(srgb: NDArray[np.floating], gains: Gains) -> NDArray[np.float32]:
    """sRGB colours f[..., 3] as a photograph with these gains (f32[3] or f32[..., 3]) shows them.

    With the gains' negative: a photograph's colours as the model would show them.
    """
    linear = srgb_to_linear_array(srgb.astype(np.float32)) * np.exp2(gains)
    return linear_to_srgb_array(linear.astype(np.float32)).clip(0.0, 1.0).astype(np.float32)


def blurred(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """A picture without the detail that a small misplacement would turn into error."""
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), BLUR_PX), np.float32)


def _densest(values: NDArray[np.float64]) -> float:
    """Where most of the values lie."""
    centre = float(np.median(values))
    for _ in range(ROUNDS):
        weights = 1.0 / (1.0 + ((values - centre) / WIDTH_LOG2) ** 2)
        centre = float((weights * values).sum() / weights.sum())
    return centre
