"""Owns fitting a similarity (rotation, one scale, shift) between two sets of points."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
_ROUNDS: Final = 10
_OUTLIER: Final = 4.0  # times the median residual
_LEAST_LIMIT: Final = 1e-9
_SAMPLE: Final = 4  # points of a trial fit
_SAMPLES: Final = 200
_SEED: Final = 0


@dataclass(frozen=True, eq=False)
class Similarity:
    """target = scale * rotation @ source + shift.

    Attributes:
        scale: > 0.
        rotation: f64[3, 3].
        shift: f64[3].
    """

    scale: float
    rotation: Float64
    shift: Float64

    def apply(self, points: Float64) -> Float64:
        """Return points f64[N, 3] moved into the target's frame."""
        return self.scale * (points @ self.rotation.T) + self.shift


def fit_similarity(source: Float64, target: Float64) -> Similarity:
    """Return the least-squares similarity between points f64[N, 3].

    Args:
        source, target: N >= 3 points, not all on one line.

    Source:
        Umeyama, Least-squares estimation of transformation parameters between two point patterns,
        PAMI 1991, eqs. 40-42.
    """
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    source_offsets, target_offsets = source - source_mean, target - target_mean
    covariance = target_offsets.T @ source_offsets / len(source)
    left, spread, right = np.linalg.svd(covariance)
    signs = np.ones(3)
    if np.linalg.det(left) * np.linalg.det(right) < 0.0:
        signs[2] = -1.0
    rotation = left @ np.diag(signs) @ right
    variance = float((source_offsets**2).sum() / len(source))
    scale = float((spread * signs).sum() / variance)
    return Similarity(scale, rotation, target_mean - scale * rotation @ source_mean)


def fit_robustly(
    source: Float64, target: Float64, least_limit: float = _LEAST_LIMIT
) -> tuple[Similarity, Float64]:
    """Fit a similarity while leaving outliers (less than half of the points) out.

    Args:
        source, target: f64[N, 3], not all on one line.
        least_limit: residuals up to this are never outliers, unit of the target.

    Returns:
        The similarity, and the residuals of all points f64[N].

    Source:
        Rousseeuw, Least Median of Squares Regression, JASA 1984, then trimmed least squares.
    """
    found = _least_median(source, target)
    chosen = np.zeros(len(source), np.bool_)
    for _ in range(_ROUNDS):
        residuals = _residuals(found, source, target)
        limit = max(_OUTLIER * float(np.median(residuals)), least_limit)
        kept = residuals <= limit
        if kept.sum() < 3 or np.array_equal(kept, chosen):
            break
        chosen, found = kept, fit_similarity(source[kept], target[kept])
    return found, _residuals(found, source, target)


def _least_median(source: Float64, target: Float64) -> Similarity:
    """Return the best of the fit to all points and of fits to a few points each."""
    rng = np.random.default_rng(_SEED)
    size = min(len(source), _SAMPLE)
    samples = [rng.choice(len(source), size, replace=False) for _ in range(_SAMPLES)]
    fits = [fit_similarity(source, target)]
    fits += [fit_similarity(source[one], target[one]) for one in samples if _spread(source[one])]
    return min(fits, key=lambda fit: float(np.median(_residuals(fit, source, target))))


def _spread(points: Float64) -> bool:
    """Tell whether points are not all in one place."""
    return bool(np.ptp(points, axis=0).max() > 0.0)


def _residuals(found: Similarity, source: Float64, target: Float64) -> Float64:
    return np.linalg.norm(found.apply(source) - target, axis=1)
