"""Owns when live adaptation counts as diverging: the rule alone, without a model."""

from collections.abc import Sequence
from typing import Final

import numpy as np

WINDOW_STEPS: Final = 8
MOST_FALL_DB: Final = 3.0  # below the best mean, a maximum of many
MOST_FIRST_FALL_DB: Final = 2.0  # below the first step: pictures of one flat colour are no worse
BEST_DB: Final = 100.0  # a loss of 0 counts as this


def divergence_of(psnrs: Sequence[float]) -> str | None:
    """Return how far a run has fallen, in words, or None while it goes well.

    The mean of the last `WINDOW_STEPS` steps is compared with the best such mean before and with
    the first step, which still saw the model as it was. It has diverged where it lies more than
    `MOST_FALL_DB` below the one or `MOST_FIRST_FALL_DB` below the other, and beyond the noise: the
    spread of the last steps (standard deviation) is allowed on top, twice for the first step, which
    is a single witness.

    Args:
        psnrs: of the steps' own rays, dB, the oldest first; inf is allowed, NaN is a divergence.
    """
    if any(np.isnan(psnr) for psnr in psnrs[-1:]):
        return f"PSNR is not a number at step {len(psnrs)}"
    if len(psnrs) <= WINDOW_STEPS:
        return None
    levels = np.minimum(np.asarray(psnrs, np.float64), BEST_DB)
    means = np.convolve(levels, np.full(WINDOW_STEPS, 1.0 / WINDOW_STEPS), mode="valid")
    now, spread = float(means[-1]), float(levels[-WINDOW_STEPS:].std())
    best, first = float(means.max()), float(levels[0])
    if best - now > MOST_FALL_DB + spread:
        return f"PSNR fell from {best:.1f} to {now:.1f} dB"
    if first - now > MOST_FIRST_FALL_DB + 2.0 * spread:
        return f"PSNR fell from {first:.1f} dB at the first step to {now:.1f} dB"
    return None
