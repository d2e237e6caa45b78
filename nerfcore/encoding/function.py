"""The differentiable hash-grid encoding, twice differentiable (and more) on every backend.

With E(x, T) the encoding (see `nerfcore.encoding.grids`) and g the gradient that reaches it:

    first order       S(x, g) = sum_n g_n . dE_n/dT   to the table
                      P(x, T, g) = g . dE/dx           to the points
    second order, S   to g: E(x, G); to x: P(x, G, g)  (G reaches S; there is no T in S)
    second order, P   to g, to T, and to x: the mixed derivatives d2E/dx_a dx_b, a != b (trilinear
                      interpolation has no d2E/dx_a^2 inside a cell)

All of them exist, and so do higher orders. S's derivatives are the backend's own kernels; P's are
plain PyTorch operations on every backend. At a cell's border E has no derivative to x: the upper
cell's is used, and its jump across the border is in no second derivative.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from nerfcore.encoding import torch_grid
from nerfcore.encoding.grids import HashGrid


def hash_encode(grid: HashGrid, positions: Tensor, table: Tensor) -> Tensor:
    """Encode points, differentiably (see the module's text for which derivatives exist).

    Args:
        grid: what computes it.
        positions: f[N, 3] in [0, 1].
        table: f[rows, features].

    Returns:
        f[N, levels * features].
    """
    return _Encode.apply(positions, table, grid)  # type: ignore[return-value]


class _Encode(Function):
    """E(x, T)."""

    @staticmethod
    def forward(ctx: Any, positions: Tensor, table: Tensor, grid: HashGrid) -> Tensor:  # type: ignore[override]
        ctx.grid = grid
        ctx.save_for_backward(positions, table)
        return grid.encode(positions, table)

    @staticmethod
    def backward(ctx: Any, d_features: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        positions, table = ctx.saved_tensors
        to_positions, to_table = None, None
        if ctx.needs_input_grad[0]:
            to_positions = _PositionGradient.apply(positions, table, d_features, ctx.grid)
        if ctx.needs_input_grad[1]:
            to_table = _TableGradient.apply(positions, d_features, ctx.grid)
        return to_positions, to_table, None


class _TableGradient(Function):
    """S(x, g)."""

    @staticmethod
    def forward(ctx: Any, positions: Tensor, d_features: Tensor, grid: HashGrid) -> Tensor:  # type: ignore[override]
        ctx.grid = grid
        ctx.save_for_backward(positions, d_features)
        out = d_features.new_zeros(grid.layout.rows, grid.layout.features)
        grid.add_table_gradient(positions, d_features, out)
        return out

    @staticmethod
    def backward(ctx: Any, d_gradient: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        positions, d_features = ctx.saved_tensors
        to_positions, to_features = None, None
        if ctx.needs_input_grad[0]:
            to_positions = _PositionGradient.apply(positions, d_gradient, d_features, ctx.grid)
        if ctx.needs_input_grad[1]:
            to_features = _Encode.apply(positions, d_gradient, ctx.grid)
        return to_positions, to_features, None


class _PositionGradient(Function):
    """P(x, T, g)."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, positions: Tensor, table: Tensor, d_features: Tensor, grid: HashGrid
    ) -> Tensor:
        ctx.grid = grid
        ctx.save_for_backward(positions, table, d_features)
        return grid.position_gradient(positions, table, d_features)

    @staticmethod
    def backward(ctx: Any, d_gradient: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        with_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            positions, table, d_features = (_alias(saved) for saved in ctx.saved_tensors)
            encoded = torch_grid.encode(positions, table, ctx.grid.layout)
            gradient = torch.autograd.grad(encoded, positions, d_features, create_graph=True)[0]
            inputs = (positions, table, d_features)
            found = torch.autograd.grad(gradient, inputs, d_gradient, create_graph=with_graph)
        return *found, None


def _alias(saved: Tensor) -> Tensor:
    """A tensor of its own in the graph: derivatives to it are partial ones.

    The saved ones may depend on each other (g on T), and derivatives to them would be total.
    """
    return saved.view_as(saved) if saved.requires_grad else saved.detach().requires_grad_()
