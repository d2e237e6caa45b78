"""The compiled hash grid agrees with a loop written from the paper, and with the torch oracle."""

import itertools
import math

import numpy as np
import pytest
import torch

from nerfcore.encoding import numba_grid, torch_grid
from nerfcore.encoding.layout import GridLayout, grid_layout
from nerfcore.settings import HashGridSettings

LAYOUT = grid_layout(HashGridSettings(levels=6, log2_size=9, base_resolution=4, max_resolution=64))


def slow_encode(point: np.ndarray, table: np.ndarray, layout: GridLayout) -> np.ndarray:
    """One point, straight from the layout's definition, in float64."""
    out = []
    for level in range(layout.levels):
        size = int(layout.offsets[level + 1] - layout.offsets[level])
        p = point.astype(np.float64) * float(layout.scales[level]) + 0.5
        low = np.floor(p).astype(int)
        total = np.zeros(layout.features)
        for corner in itertools.product((0, 1), repeat=3):
            index = low + corner
            weight = math.prod(f if c else 1 - f for c, f in zip(corner, p - low, strict=True))
            if layout.dense[level]:
                r = int(layout.resolutions[level])
                row = (index[0] + index[1] * r + index[2] * r * r) % size
            else:
                row = int(index[0]) ^ (int(index[1]) * 2654435761 & 0xFFFFFFFF)
                row = (row ^ (int(index[2]) * 805459861 & 0xFFFFFFFF)) % size
            total += weight * table[int(layout.offsets[level]) + row]
        out.append(total)
    return np.concatenate(out)


@pytest.fixture
def points() -> np.ndarray:
    """Random points, the corners 0 and 1, and points on cell borders of the coarsest level."""
    rng = np.random.default_rng(0)
    border = (np.arange(1, 4)[:, None] - 0.5) / float(LAYOUT.scales[0]) * np.ones((1, 3))
    special = np.array([[0.0, 0, 0], [1, 1, 1], [0, 1, 0.5]])
    return np.concatenate([rng.random((200, 3)), border, special]).astype(np.float32)


@pytest.fixture
def table() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(LAYOUT.rows, 2)).astype(np.float32)


def encoded(points: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The compiled encoding [N, width] of points [N, 3]."""
    out = np.empty((LAYOUT.width, len(points)), np.float32)
    numba_grid.encode(np.ascontiguousarray(points.T), table, LAYOUT, out)
    return out.T


def test_layout_has_dense_and_hashed_levels() -> None:
    assert LAYOUT.dense.any() and not LAYOUT.dense.all()


def test_numba_encode_matches_the_slow_loop(points: np.ndarray, table: np.ndarray) -> None:
    out = encoded(points, table)
    expected = np.stack([slow_encode(p, table, LAYOUT) for p in points])
    assert np.abs(out - expected).max() < 1e-5 * np.abs(expected).max()


def test_torch_encode_matches_the_slow_loop(points: np.ndarray, table: np.ndarray) -> None:
    double = torch.from_numpy(table).double()
    out = torch_grid.encode(torch.from_numpy(points).double(), double, LAYOUT).numpy()
    expected = np.stack([slow_encode(p, table, LAYOUT) for p in points])
    assert np.abs(out - expected).max() < 1e-12 * np.abs(expected).max() + 1e-12


def test_scatter_is_the_gradient_of_encode(points: np.ndarray, table: np.ndarray) -> None:
    grad = np.random.default_rng(2).normal(size=(len(points), LAYOUT.width)).astype(np.float32)
    leaf = torch.from_numpy(table).double().requires_grad_()
    features = torch_grid.encode(torch.from_numpy(points).double(), leaf, LAYOUT)
    features.backward(torch.from_numpy(grad).double())
    out = np.zeros_like(table)
    numba_grid.scatter(points.T.copy(), grad.T.copy(), LAYOUT, out)
    assert leaf.grad is not None
    expected = leaf.grad.numpy()
    assert np.abs(out - expected).max() < 1e-5 * np.abs(expected).max()


def test_scatter_and_encode_are_adjoint(points: np.ndarray, table: np.ndarray) -> None:
    """<encode(t), g> = <t, scatter(g)>: what makes the same kernels the double gradient."""
    grad = np.random.default_rng(3).normal(size=(len(points), LAYOUT.width)).astype(np.float32)
    back = np.zeros_like(table)
    numba_grid.scatter(points.T.copy(), grad.T.copy(), LAYOUT, back)
    left = float((encoded(points, table).astype(np.float64) * grad).sum())
    assert left == pytest.approx(float((table.astype(np.float64) * back).sum()), rel=1e-4)
