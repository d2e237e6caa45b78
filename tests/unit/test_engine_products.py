"""Products, look-ups and Adam in vector registers against plain float64 arithmetic."""

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from nerfcore.encoding import numba_grid
from nerfcore.encoding.layout import grid_layout
from nerfcore.settings import HashGridSettings
from nerfcore.tracing.products import ADD, KEEP, LANES, MASK, RELU, padded, product


def multiplied(mode: int, rows: int, inner: int, columns: int, turned: bool) -> float:
    """The largest relative error of one product of random matrices, A transposed if `turned`."""
    rng = np.random.default_rng(rows * inner)
    a = rng.normal(size=(inner, rows) if turned else (rows, inner)).astype(np.float32)
    b = rng.normal(size=(inner, columns)).astype(np.float32)
    c = rng.normal(size=(rows, columns)).astype(np.float32)
    mask = rng.normal(size=(rows, columns)).astype(np.float32)
    exact = (a.T if turned else a).astype(np.float64) @ b.astype(np.float64)
    wanted = {
        KEEP: exact,
        RELU: np.maximum(exact, 0.0),
        MASK: np.where(mask > 0, exact, 0.0),
        ADD: exact + c,
    }[mode]
    steps = (1, rows) if turned else (inner, 1)
    out = c.reshape(-1)
    product(
        mode, a.reshape(-1), 0, *steps, b.reshape(-1), 0, columns, out, 0, columns, rows, inner,
        columns, mask.reshape(-1),
    )  # fmt: skip
    return float(np.abs(out.reshape(rows, columns) - wanted).max() / np.abs(exact).max())


@pytest.mark.parametrize("mode", [KEEP, RELU, MASK, ADD])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 2), (6, 32, 4), (23, 64, 5), (64, 200, 3)])
def test_products_of_all_shapes(mode: int, turned: bool, shape: tuple[int, int, int]) -> None:
    rows, inner, strips = shape
    assert multiplied(mode, rows, inner, strips * LANES, turned) < 1e-6


def test_a_product_keeps_what_is_not_a_number() -> None:
    """A broken weight must reach the loss, not end at a ReLU."""
    a, b = np.full(1, np.nan, np.float32), np.ones(LANES, np.float32)
    for mode in (KEEP, RELU):
        out = np.zeros(LANES, np.float32)
        product(mode, a, 0, 1, 1, b, 0, LANES, out, 0, LANES, 1, 1, LANES, out)
        assert np.isnan(out).all()


def test_padded_columns() -> None:
    assert [padded(n) for n in (1, LANES, LANES + 1)] == [LANES, LANES, 2 * LANES]


@pytest.mark.parametrize("features", [1, 2, 4])
@pytest.mark.parametrize("counts", [(1, 7, 8), (0, 100, 33), (129,)])
def test_many_tables_at_once_are_each_alone(features: int, counts: tuple[int, ...]) -> None:
    """Views into wide arrays, any number of points, none included."""
    settings = HashGridSettings(levels=5, log2_size=9, max_resolution=64, features=features)
    layout, rng = grid_layout(settings), np.random.default_rng(3)
    edges = np.concatenate([[0], np.cumsum(counts)])
    points = rng.random((3, edges[-1]), dtype=np.float32)
    grads = rng.normal(size=(layout.width, edges[-1])).astype(np.float32)
    tables = [rng.normal(size=(layout.rows, features)).astype(np.float32) for _ in counts]
    outs, back = np.empty_like(grads), [np.zeros_like(t) for t in tables]
    spans = [slice(a, z) for a, z in pairwise(edges.tolist())]
    numba_grid.encode_all(
        [points[:, s] for s in spans], tables, layout, [outs[:, s] for s in spans]
    )
    numba_grid.scatter_all(
        [points[:, s] for s in spans], [grads[:, s] for s in spans], layout, back
    )
    for span, table, found in zip(spans, tables, back, strict=True):
        alone = np.empty((layout.width, span.stop - span.start), np.float32)
        numba_grid.encode(points[:, span].copy(), table, layout, alone)
        assert np.allclose(outs[:, span], alone, atol=1e-6)
        gradient = np.zeros_like(table)
        numba_grid.scatter(points[:, span].copy(), grads[:, span].copy(), layout, gradient)
        assert np.allclose(found, gradient, atol=1e-5)


@pytest.mark.parametrize("place", [-3.0, 1.7, 900.0, float("nan")])
def test_points_outside_the_cube_touch_no_memory_but_the_tables(place: float) -> None:
    layout = grid_layout(HashGridSettings(levels=4, log2_size=12, max_resolution=64))
    guard = 1 << 16
    memory = np.zeros((layout.rows + 2 * guard, 2), np.float32)
    points = np.full((3, 16), place, np.float32)
    grads = np.ones((layout.width, 16), np.float32)
    numba_grid.scatter(points, grads, layout, memory[guard:-guard])
    assert memory[guard:-guard].any()
    assert not memory[:guard].any() and not memory[-guard:].any()


def test_arrays_the_kernels_cannot_read_are_refused() -> None:
    layout = grid_layout(HashGridSettings(levels=2, log2_size=9))
    table = np.zeros((layout.rows, 2), np.float32)
    points = np.zeros((4, 3), np.float32).T
    with pytest.raises(TypeError, match="contiguous rows"):
        numba_grid.encode(points, table, layout, np.empty((layout.width, 4), np.float32))
    with pytest.raises(TypeError, match="contiguous float32 tables"):
        numba_grid.encode_all(
            [np.zeros((3, 4), np.float32)], [table.astype(np.float64)], layout,
            [np.empty((layout.width, 4), np.float32)],
        )  # fmt: skip


@pytest.mark.skipif("SKYLINE_LONG_TESTS" not in os.environ, reason="compiles for minutes")
def test_a_cpu_without_vector_extensions_computes_the_same(tmp_path) -> None:  # type: ignore[no-untyped-def]
    environment = os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CACHE_DIR": str(tmp_path)}
    environment.pop("SKYLINE_LONG_TESTS")
    files = [__file__, __file__.replace("products", "cpu_tracer")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
