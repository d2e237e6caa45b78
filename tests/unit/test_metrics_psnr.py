"""PSNR: hand-worked values, masks, the cap, and what it refuses."""

import math

import numpy as np
import pytest

from nerfcore.errors import DataError, NonFiniteError
from nerfcore.metrics import PSNR_CAP_DB, psnr, psnr_from_mse, psnr_linear


def flat(value: float, shape: tuple[int, int] = (4, 5)) -> np.ndarray:
    return np.full((*shape, 3), value, np.float32)


def slow_psnr(prediction: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> float:
    """The definition, one value at a time."""
    squares = [
        (float(prediction[r, c, k]) - float(truth[r, c, k])) ** 2
        for r in range(truth.shape[0])
        for c in range(truth.shape[1])
        for k in range(3)
        if valid[r, c]
    ]
    return 10.0 * math.log10(1.0 / (sum(squares) / len(squares)))


def test_hand_worked() -> None:
    """An error of 0.1 everywhere is 20 dB; of 0.5 everywhere 6.02 dB."""
    assert psnr(flat(0.6), flat(0.5)) == pytest.approx(20.0, abs=1e-4)
    assert psnr(flat(1.0), flat(0.5)) == pytest.approx(6.0206, abs=1e-4)
    assert psnr(flat(1.0), flat(0.0)) == 0.0


def test_linear_hand_worked() -> None:
    """sRGB 0.5 is 0.21404 in linear light: against black 13.39 dB."""
    assert psnr_linear(flat(0.5), flat(0.0)) == pytest.approx(13.390, abs=1e-3)


def test_matches_the_slow_reference() -> None:
    """A random pair with a random mask matches the definition."""
    rng = np.random.default_rng(3)
    prediction, truth = rng.random((2, 6, 7, 3))
    valid = rng.random((6, 7)) < 0.6
    assert psnr(prediction, truth, valid) == pytest.approx(slow_psnr(prediction, truth, valid))


def test_invalid_pixels_do_not_count() -> None:
    """Errors, even NaN, outside the mask change nothing."""
    prediction, valid = flat(0.6), np.ones((4, 5), bool)
    prediction[0, 0], prediction[0, 1] = 0.0, np.nan
    valid[0, :2] = False
    assert psnr(prediction, flat(0.5), valid) == pytest.approx(20.0, abs=1e-4)


def test_perfect_is_capped() -> None:
    """Equal pictures give the documented cap, never infinity or NaN."""
    assert psnr(flat(0.3), flat(0.3)) == PSNR_CAP_DB
    assert psnr_linear(flat(0.3), flat(0.3)) == PSNR_CAP_DB
    assert psnr_from_mse(0.0) == psnr_from_mse(1e-30) == PSNR_CAP_DB
    assert psnr_from_mse(1e-9) == pytest.approx(90.0)


def test_prediction_is_clipped() -> None:
    """A prediction beyond white counts as white."""
    assert psnr(flat(3.0), flat(1.0)) == PSNR_CAP_DB


def test_refuses_non_finite() -> None:
    """A NaN at a valid pixel is refused by count, not turned into a number."""
    prediction = flat(0.5)
    prediction[1, 2, 0] = np.nan
    with pytest.raises(NonFiniteError, match="prediction: 1 values"):
        psnr(prediction, flat(0.5))


@pytest.mark.parametrize(
    ("prediction", "valid", "message"),
    [
        (flat(0.5, (4, 4)), None, r"\(4, 4, 3\)"),
        (flat(0.5), np.ones((5, 4), bool), "valid mask: its shape"),
        (flat(0.5), np.zeros((4, 5), bool), "0 pixels are valid"),
    ],
)
def test_refuses_mismatches(prediction, valid, message: str) -> None:
    """Other sizes, another image's mask and an empty mask are refused by name."""
    with pytest.raises(DataError, match=message):
        psnr(prediction, flat(0.5), valid)
