"""The sRGB curve: published points, both ways, in NumPy and torch, gradients everywhere."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nerfcore import colour


def slow_srgb_to_linear(value: float) -> float:
    """The definition of IEC 61966-2-1, one number at a time."""
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


@pytest.mark.parametrize(
    ("srgb", "linear"),
    [(0.0, 0.0), (1.0, 1.0), (0.5, 0.21404114), (0.04045, 0.0031308), (0.02, 0.0015479876)],
)
def test_hand_worked_points(srgb: float, linear: float) -> None:
    """Known points of the curve hold in torch and NumPy, both ways."""
    array = np.array([srgb])
    assert colour.srgb_to_linear_array(array)[0] == pytest.approx(linear, abs=2e-7)
    assert colour.linear_to_srgb_array(np.array([linear]))[0] == pytest.approx(srgb, abs=3e-6)
    assert float(
        colour.linear_to_srgb(torch.tensor([linear], dtype=torch.float64))
    ) == pytest.approx(srgb, abs=3e-6)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.0, 1.0, width=32))
def test_agrees_with_the_definition_and_comes_back(value: float) -> None:
    """Every value in [0, 1] matches the definition, and the inverse returns it."""
    linear = colour.srgb_to_linear_array(np.array([value]))
    assert linear[0] == pytest.approx(slow_srgb_to_linear(value), abs=1e-12)
    # The standard's two knees meet to about 2e-8 only.
    assert colour.linear_to_srgb_array(linear)[0] == pytest.approx(value, abs=1e-6)
    assert float(colour.linear_to_srgb(torch.from_numpy(linear))) == pytest.approx(value, abs=1e-6)


def test_all_bytes_come_back() -> None:
    """All 256 stored values survive bytes -> sRGB -> linear -> sRGB -> bytes in float32."""
    stored = np.arange(256, dtype=np.uint8)
    srgb = colour.bytes_to_srgb(stored)
    assert srgb.dtype == np.float32
    back = colour.linear_to_srgb_array(colour.srgb_to_linear_array(srgb))
    assert back.dtype == np.float32
    assert np.array_equal(colour.srgb_to_bytes(back), stored)


def test_bytes_clip_and_round() -> None:
    """Values outside [0, 1] clip; values between two bytes round to the nearest."""
    values = np.array([-0.5, 0.0, 0.6 / 255, 1.0, 7.0])
    assert colour.srgb_to_bytes(values).tolist() == [0, 0, 1, 255, 255]


@pytest.mark.parametrize("value", [-0.1, 0.0, 1e-30, 0.0031308, 0.04045, 0.3, 1.0, 1.5])
def test_gradient_is_finite_and_right(value: float) -> None:
    """The gradient is finite at 0 and below, and is the slope of the curve."""
    direction = colour.linear_to_srgb
    tensor = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    direction(tensor).sum().backward()
    assert tensor.grad is not None
    step = 1e-6
    with torch.no_grad():
        rise = direction(tensor + step) - direction(tensor - step)
    # At the knee the standard's two segments differ by 3e-8 in value and a few percent in slope.
    expected = float(rise) / (2 * step)
    at_a_knee = value == 0.0031308
    assert float(tensor.grad) == pytest.approx(expected, rel=0.05 if at_a_knee else 1e-3)
