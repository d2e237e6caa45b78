"""The compiled kernels between densities and light, against a slow loop and by hand."""

import math

import numpy as np
import pytest
import slow_compositing
import torch
from numpy.typing import NDArray

from nerfcore.colour import linear_to_srgb
from nerfcore.tracing import light

STARTS = np.array([0, 0, 1, 8, 28], np.int64)
RAYS, SAMPLES = 4, 28


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def some_samples(rng: np.random.Generator) -> list[NDArray[np.float32]]:
    """Sigmas, rgbs, deltas and ts of rays of 0, 1, 7 and 20 samples."""
    return [
        rng.exponential(0.5, SAMPLES).astype(np.float32),
        rng.random((SAMPLES, 3), dtype=np.float32),
        rng.uniform(0.2, 1.0, SAMPLES).astype(np.float32),
        np.sort(rng.uniform(0, 30, SAMPLES)).astype(np.float32),
    ]


def lit_samples(
    sigmas: NDArray[np.float32], deltas: NDArray[np.float32], starts: NDArray[np.int64],
    floor: float, faint: float = 0.0,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:  # fmt: skip
    """Alphas and lit flags as `place_light` finds them, every sample owned by one expert."""
    count = len(sigmas)
    hidden = np.zeros((count, 16), np.float32)
    hidden[:, 0] = np.log(np.maximum(sigmas, 1e-30)) + 2.0
    alphas, lit = np.empty(count, np.float32), np.empty(count, np.bool_)
    blended, own = np.empty((2, count), np.float32)
    light.place_light(
        hidden, np.array([[0, 0, count]], np.int64), np.arange(count), np.ones(count, np.float32),
        0, len(starts) - 1, starts, deltas, np.float32(floor), np.float32(faint), own, blended,
        alphas, lit,
    )  # fmt: skip
    assert np.allclose(blended, sigmas, rtol=1e-5, atol=1e-12)
    return alphas, lit


def double(*arrays: NDArray[np.float32]) -> list[torch.Tensor]:
    return [torch.from_numpy(a).double() for a in arrays]


@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_compositing_matches_the_slow_loop(rng: np.random.Generator, floor: float) -> None:
    sigmas, rgbs, deltas, ts = some_samples(rng)
    backgrounds = rng.random((RAYS, 3), dtype=np.float32)
    alphas, lit = lit_samples(sigmas, deltas, STARTS, floor)
    rgb, opacity, depth = np.empty((RAYS, 3), np.float32), *np.empty((2, RAYS), np.float32)
    light.composite(0, RAYS, STARTS, ts, alphas, lit, rgbs, backgrounds, rgb, opacity, depth)
    slow = slow_compositing.composite(STARTS.tolist(), *double(sigmas, rgbs, deltas, ts), floor)
    expected = slow[0] + (1 - slow[1])[:, None] * torch.from_numpy(backgrounds)
    assert np.allclose(rgb, expected, atol=1e-6)
    assert np.allclose(opacity, slow[1], atol=1e-6) and np.allclose(depth, slow[2], rtol=1e-5)
    assert opacity[0] == 0 and np.array_equal(rgb[0], backgrounds[0])


@pytest.mark.parametrize("floor", [0.0, 0.2])
@pytest.mark.parametrize("linear", [True, False])
def test_the_loss_and_its_gradient_match_autograd(
    rng: np.random.Generator, linear: bool, floor: float
) -> None:
    sigmas, rgbs, deltas, ts = some_samples(rng)
    backgrounds, truth = rng.random((2, RAYS, 3), dtype=np.float32)
    alphas, lit = lit_samples(sigmas, deltas, STARTS, floor)
    d_sigmas, d_rgbs = np.empty(SAMPLES, np.float32), np.zeros((SAMPLES, 3), np.float32)
    d_backgrounds = np.empty((RAYS, 3), np.float32)
    error = light.loss_gradient(
        0, RAYS, STARTS, deltas, alphas, lit, rgbs, backgrounds, truth, linear, np.float32(1.0),
        d_sigmas, d_rgbs, d_backgrounds,
    )  # fmt: skip
    s, c, d, t, b = (v.requires_grad_() for v in double(sigmas, rgbs, deltas, ts, backgrounds))
    rgb, opacity, _ = slow_compositing.composite(STARTS.tolist(), s, c, d, t, floor)
    total = rgb + (1 - opacity)[:, None] * b
    shown = linear_to_srgb(total) if linear else total
    expected = (shown - torch.from_numpy(truth).double()).square().sum()
    grads = torch.autograd.grad(expected, [s, c, b])
    assert error == pytest.approx(float(expected.detach()), rel=1e-5)
    for found, slow in zip((d_sigmas, d_rgbs, d_backgrounds), grads, strict=True):
        assert np.abs(found - slow.numpy()).max() < 1e-5 * float(slow.abs().max())


def test_one_opaque_sample_by_hand() -> None:
    """sigma delta = ln 4 gives alpha = 3/4; a quarter of the background shows."""
    starts, one = np.array([0, 1], np.int64), np.ones(1, np.float32)
    alphas, lit = lit_samples(np.array([math.log(4.0)], np.float32), one, starts, 0.0)
    rgb, opacity, depth = np.empty((1, 3), np.float32), *np.empty((2, 1), np.float32)
    light.composite(
        0, 1, starts, 8 * one, alphas, lit, np.array([[1.0, 0.5, 0.0]], np.float32),
        np.full((1, 3), 0.4, np.float32), rgb, opacity, depth,
    )  # fmt: skip
    assert opacity[0] == pytest.approx(0.75) and depth[0] == pytest.approx(6.0)
    assert rgb[0] == pytest.approx([0.85, 0.475, 0.1])


def test_what_lies_behind_opaque_matter_is_not_lit() -> None:
    starts, deltas = np.array([0, 3], np.int64), np.ones(3, np.float32)
    sigmas = np.array([1e-20, 100.0, 1.0], np.float32)
    assert lit_samples(sigmas, deltas, starts, 1e-3)[1].tolist() == [True, True, False]
    assert lit_samples(sigmas, deltas, starts, 1e-3, 1e-4)[1].tolist() == [False, True, False]
