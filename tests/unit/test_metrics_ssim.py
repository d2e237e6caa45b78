"""SSIM: a slow restatement of the paper, hand-worked values, masks."""

import math

import numpy as np
import pytest

from nerfcore.metrics import ssim


def slow_ssim(first: np.ndarray, second: np.ndarray, valid: np.ndarray | None = None) -> float:
    """Wang et al. 2004, eq. 13, one window at a time, over windows wholly inside and valid."""
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2 = 0.01**2, 0.03**2
    values = []
    for row in range(5, first.shape[0] - 5):
        for column in range(5, first.shape[1] - 5):
            window = (slice(row - 5, row + 6), slice(column - 5, column + 6))
            if valid is not None and not valid[window].all():
                continue
            for channel in range(3):
                a, b = first[(*window, channel)], second[(*window, channel)]
                mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
                var_a = (weights * (a - mean_a) ** 2).sum()
                var_b = (weights * (b - mean_b) ** 2).sum()
                cov = (weights * (a - mean_a) * (b - mean_b)).sum()
                values.append(
                    (2 * mean_a * mean_b + c1)
                    * (2 * cov + c2)
                    / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
                )
    return float(np.mean(values))


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    truth = rng.random((17, 19, 3))
    return np.clip(truth + rng.normal(0, 0.2, truth.shape), 0, 1), truth


def test_matches_the_slow_reference(pair) -> None:
    """The library call, with our settings, is the paper's formula."""
    assert ssim(*pair) == pytest.approx(slow_ssim(*pair), abs=1e-9)


def test_flat_pictures_hand_worked() -> None:
    """Flat 0.4 against flat 0.6: (2*0.24 + 1e-4) / (0.52 + 1e-4)."""
    first, second = np.full((12, 12, 3), 0.4), np.full((12, 12, 3), 0.6)
    assert ssim(first, second) == pytest.approx(0.4801 / 0.5201, abs=1e-9)


def test_equal_is_one(pair) -> None:
    """A picture is perfectly similar to itself."""
    assert ssim(pair[1], pair[1]) == pytest.approx(1.0)


def test_mask_keeps_only_whole_windows(pair) -> None:
    """With a mask only wholly valid windows count, whatever stands outside it."""
    prediction, truth = pair
    valid = np.ones(truth.shape[:2], bool)
    valid[:, :5] = False
    expected = slow_ssim(prediction, truth, valid)
    spoilt = prediction.copy()
    spoilt[:, :5] = np.nan
    assert ssim(prediction, truth, valid) == pytest.approx(expected, abs=1e-9)
    assert ssim(spoilt, truth, valid) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("shape", [(10, 30, 3), (3, 3, 3)])
def test_undefined_is_nan(shape: tuple[int, int, int]) -> None:
    """Where no window fits, SSIM says NaN instead of inventing a value."""
    assert math.isnan(ssim(np.zeros(shape), np.zeros(shape)))
