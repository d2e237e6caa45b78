"""What every hash grid must satisfy, held against the plain PyTorch grid in float64."""

import numpy as np
import torch
from torch import Tensor

from nerfcore.encoding import torch_grid
from nerfcore.encoding.function import hash_encode
from nerfcore.encoding.grids import HashGrid
from nerfcore.encoding.layout import GridLayout, grid_layout
from nerfcore.settings import HashGridSettings

# Growth 2 exactly, so that tiny-cuda-nn's float32 scales are ours to the last bit.
SETTINGS = HashGridSettings(levels=5, log2_size=9, base_resolution=4, max_resolution=64)
LAYOUT = grid_layout(SETTINGS)
# Scale 8: a point at (k - 0.5) / 8 lies exactly on a cell border in float32 too.
BORDER_SETTINGS = HashGridSettings(levels=1, log2_size=10, base_resolution=9, max_resolution=9)
BORDER_LAYOUT = grid_layout(BORDER_SETTINGS)
TOLERANCE = 1e-5


def random_points(count: int = 300, seed: int = 0) -> Tensor:
    """Points in the unit cube, with 0 and 1 among them, f32[count + 4, 3]."""
    points = np.random.default_rng(seed).random((count, 3))
    ends = np.array([[0.0, 0, 0], [1, 1, 1], [0, 1, 0.5], [1, 0.25, 0]])
    return torch.from_numpy(np.concatenate([points, ends]).astype(np.float32))


def border_points() -> Tensor:
    """Points on the cell borders of `BORDER_LAYOUT` along one, two and three axes."""
    steps = (torch.arange(1, 9) - 0.5) / 8
    inside = torch.full((8,), 0.3)
    axes = [(steps, inside, inside), (inside, steps, inside), (inside, inside, steps)]
    axes += [(steps, steps.flip(0), inside), (steps, steps.flip(0), steps)]
    return torch.cat([torch.stack(columns, dim=1) for columns in axes])


def random_table(layout: GridLayout, seed: int = 1) -> Tensor:
    """Standard normal entries, f32[rows, features]."""
    values = np.random.default_rng(seed).normal(size=(layout.rows, layout.features))
    return torch.from_numpy(values.astype(np.float32))


def random_gradient(layout: GridLayout, points: int, seed: int = 2) -> Tensor:
    """A gradient to the encoding, f32[points, width]."""
    values = np.random.default_rng(seed).normal(size=(points, layout.width))
    return torch.from_numpy(values.astype(np.float32))


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value."""
    difference = (found.detach().cpu().double() - expected.detach().cpu().double()).abs().max()
    return float(difference / expected.detach().abs().max())


def check_first_order(
    grid: HashGrid, points: Tensor, device: str = "cpu", tolerance: float = TOLERANCE,
    *, to_points: bool = True,
) -> None:  # fmt: skip
    """Forward and both gradients; the table's gradient is added to what is there.

    The gradient to the points jumps at cell borders: leave it out where cells are so small that
    float32 positions fall on the other side of one.
    """
    layout = grid.layout
    table, d = random_table(layout), random_gradient(layout, len(points))
    x, t = points.double().requires_grad_(), table.double().requires_grad_()
    expected = torch_grid.encode(x, t, layout)
    to_x, to_t = torch.autograd.grad(expected, [x, t], d.double())
    near, far, g = points.to(device), table.to(device), d.to(device)
    assert relative_error(grid.encode(near, far), expected) < tolerance
    out = torch.ones_like(far)
    grid.add_table_gradient(near, g, out)
    assert relative_error(out - 1.0, to_t) < tolerance
    if to_points:
        assert relative_error(grid.position_gradient(near, far, g), to_x) < tolerance


def derivatives(encoded: Tensor, x: Tensor, table: Tensor, d: Tensor) -> dict[str, Tensor]:
    """Second derivatives of sum(d * encoded), through both of its gradients."""
    to_x, to_t = torch.autograd.grad(encoded, [x, table], d, create_graph=True)
    probe = torch.linspace(-1, 1, to_t.numel(), dtype=to_t.dtype, device=to_t.device)
    aim = torch.linspace(1, 2, to_x.numel(), dtype=to_x.dtype, device=to_x.device)
    of_t = torch.autograd.grad((to_t * probe.view_as(to_t)).sum(), [x, d], retain_graph=True)
    of_x = torch.autograd.grad((to_x * aim.view_as(to_x)).sum(), [x, table, d])
    names = ("table:x", "table:d", "x:x", "x:table", "x:d")
    return dict(zip(names, (*of_t, *of_x), strict=True))


def check_second_order(
    grid: HashGrid, points: Tensor, device: str = "cpu", tolerance: float = TOLERANCE
) -> None:
    """Every second derivative of `hash_encode` against autograd twice through the oracle."""
    layout = grid.layout
    values = (points, random_table(layout), random_gradient(layout, len(points)))
    x, t, d = (value.double().requires_grad_() for value in values)
    expected = derivatives(torch_grid.encode(x, t, layout), x, t, d)
    x, t, d = (value.to(device).requires_grad_() for value in values)
    found = derivatives(hash_encode(grid, x, t), x, t, d)
    for name, value in expected.items():
        assert relative_error(found[name], value) < tolerance, name
