"""Owns how far a picture's rays may start ahead of their camera.

Steps grow with the distance from a ray's origin, as pixels do (`SamplingSettings.step_growth`), so
that a photograph's ray takes few. From a camera much farther from the scene than the photographs
were, a step would become longer than the ground is thick, and streets would be stepped over. Such a
picture's rays therefore begin nearer to the scene: its steps are never much longer than the
photographs' were.
"""

import numpy as np
from numpy.typing import NDArray

from nerfcore.settings import SamplingSettings

LONGEST_STEPS = 2.0
"""Step where the first ray meets the scene, in shortest steps."""


def headway(
    origins: NDArray[np.float32],
    directions: NDArray[np.float32],
    box: NDArray[np.floating],
    sampling: SamplingSettings,
    scale_m: float,
) -> float:
    """Return how far the rays of one picture may start ahead, world units; 0 where they may not.

    Args:
        origins, directions: f32[R, 3] in world units; directions of length 1.
        box: f[2, 3], lowest and highest corner of the scene.
        sampling: the model's own.
        scale_m: metres of a world unit.
    """
    if sampling.step_growth <= 0:
        return 0.0
    first = _first_entry(origins, directions, box)
    allowed_m = LONGEST_STEPS * sampling.step_m / sampling.step_growth
    ahead = first - allowed_m / scale_m
    hidden = sampling.far_m is not None and ahead * scale_m >= sampling.far_m
    return float(ahead) if np.isfinite(ahead) and ahead > 0 and not hidden else 0.0


def _first_entry(
    origins: NDArray[np.float32], directions: NDArray[np.float32], box: NDArray[np.floating]
) -> float:
    """Distance at which the first of the rays meets the box; infinite where none does."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = (np.asarray(box, np.float32)[:, None] - origins) / directions
    entry = np.nanmax(ends.min(axis=0), axis=1)
    leave = np.nanmin(ends.max(axis=0), axis=1)
    return float(np.min(entry[(leave > entry) & (leave > 0)], initial=np.inf))
