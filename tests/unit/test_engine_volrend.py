"""Compositing and its gradient against a slow loop and finite differences."""

import math
from itertools import pairwise

import numpy as np
import pytest

from nerfcore.volrend import Composited, composite, composite_gradient, visible


def slow_composite(starts, sigmas, rgbs, deltas, ts):  # type: ignore[no-untyped-def]
    """Front to back, one ray at a time, in float64."""
    rows = []
    for begin, end in pairwise(starts):
        light, rgb, opacity, depth = 1.0, np.zeros(3), 0.0, 0.0
        for s in range(begin, end):
            alpha = 1.0 - math.exp(-float(sigmas[s]) * float(deltas[s]))
            rgb = rgb + light * alpha * rgbs[s].astype(np.float64)
            opacity += light * alpha
            depth += light * alpha * float(ts[s])
            light *= 1.0 - alpha
        rows.append((rgb, opacity, depth))
    return [np.array(column) for column in zip(*rows, strict=True)]


@pytest.fixture
def packed():  # type: ignore[no-untyped-def]
    """Rays of 0, 1, 7 and 20 samples."""
    rng = np.random.default_rng(0)
    starts = np.array([0, 0, 1, 8, 28], np.int64)
    count = int(starts[-1])
    sigmas = rng.exponential(0.5, count).astype(np.float32)
    rgbs = rng.random((count, 3)).astype(np.float32)
    deltas = rng.uniform(0.2, 1.0, count).astype(np.float32)
    ts = np.sort(rng.uniform(0, 30, count)).astype(np.float32)
    return starts, sigmas, rgbs, deltas, ts


def test_composite_matches_the_slow_loop(packed) -> None:  # type: ignore[no-untyped-def]
    found = composite(*packed)
    rgb, opacity, depth = slow_composite(*packed)
    assert np.allclose(found.rgb, rgb, atol=1e-6)
    assert np.allclose(found.opacity, opacity, atol=1e-6)
    assert np.allclose(found.depth, depth, rtol=1e-5)


def test_a_ray_without_samples_is_transparent(packed) -> None:  # type: ignore[no-untyped-def]
    found = composite(*packed)
    assert found.opacity[0] == 0 and not found.rgb[0].any()


def test_one_opaque_sample_by_hand() -> None:
    """sigma delta = ln 4 gives alpha = 3/4."""
    starts = np.array([0, 1], np.int64)
    sigma = np.array([math.log(4.0)], np.float32)
    rgb = np.array([[1.0, 0.5, 0.0]], np.float32)
    one = np.ones(1, np.float32)
    found = composite(starts, sigma, rgb, one, 8 * one)
    assert found.opacity[0] == pytest.approx(0.75)
    assert found.rgb[0] == pytest.approx([0.75, 0.375, 0.0])
    assert found.depth[0] == pytest.approx(6.0)


def test_gradient_matches_finite_differences(packed) -> None:  # type: ignore[no-untyped-def]
    starts, sigmas, rgbs, deltas, ts = packed
    rng = np.random.default_rng(1)
    rays = len(starts) - 1
    weights = Composited(
        rng.normal(size=(rays, 3)).astype(np.float32),
        rng.normal(size=rays).astype(np.float32),
        rng.normal(size=rays).astype(np.float32) * 0.1,
    )

    def loss(s, c):  # type: ignore[no-untyped-def]
        rgb, opacity, depth = slow_composite(starts, s, c, deltas, ts)
        terms = (rgb * weights.rgb, opacity * weights.opacity, depth * weights.depth)
        return sum(float(term.sum()) for term in terms)

    d_sigmas, d_rgbs = composite_gradient(*packed, weights)
    step = 1e-5
    for index in range(len(sigmas)):
        up, down = sigmas.astype(np.float64), sigmas.astype(np.float64)
        up[index] += step
        down[index] -= step
        expected = (loss(up, rgbs) - loss(down, rgbs)) / (2 * step)
        assert d_sigmas[index] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    for index in np.ndindex(rgbs.shape):
        up, down = rgbs.astype(np.float64), rgbs.astype(np.float64)
        up[index] += step
        down[index] -= step
        expected = (loss(sigmas, up) - loss(sigmas, down)) / (2 * step)
        assert d_rgbs[index] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_visibility_stops_behind_opaque_matter() -> None:
    starts = np.array([0, 3], np.int64)
    sigmas = np.array([0.0, 100.0, 1.0], np.float32)
    keep = visible(starts, sigmas, np.ones(3, np.float32), 1e-3)
    assert keep.tolist() == [True, True, False]
    heavy = visible(starts, sigmas, np.ones(3, np.float32), 1e-3, 1e-4)
    assert heavy.tolist() == [False, True, False]
