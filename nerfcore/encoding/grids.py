"""The hash grid behind one interface, whatever computes it, and its two CPU implementations.

E(x, T) is the encoding f[N, L * F] of N points x in [0, 1]^3 with the table T f[rows, F]; it is
linear in T and trilinear in x inside a cell. At a cell's border the derivative to x is the upper
cell's. All implementations share the layout of `nerfcore.encoding.layout`. None of the methods
records a graph: `nerfcore.encoding.function.hash_encode` is the differentiable form.
"""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nerfcore.encoding import numba_derivatives, numba_grid, torch_grid
from nerfcore.encoding.layout import GridLayout


class HashGrid(Protocol):
    """Encodes points, and pulls gradients back to the table and to the points."""

    @property
    def layout(self) -> GridLayout:
        """Where each level of a table lies."""
        ...

    def encode(self, positions: Tensor, table: Tensor) -> Tensor:
        """Return E(x, T).

        Args:
            positions: f[N, 3] in [0, 1].
            table: f[rows, features].

        Returns:
            f[N, levels * features], level after level.
        """
        ...

    def add_table_gradient(self, positions: Tensor, d_features: Tensor, out: Tensor) -> None:
        """Add the gradient to the table to `out`.

        Args:
            positions: f[N, 3] in [0, 1].
            d_features: f[N, levels * features], gradient to the encoding.
            out: f[rows, features], added to in place.
        """
        ...

    def position_gradient(self, positions: Tensor, table: Tensor, d_features: Tensor) -> Tensor:
        """Return the gradient to the points, f[N, 3]; arguments as in the other methods."""
        ...


class TorchGrid:
    """Plain PyTorch operations and autograd: any device, float32 or float64, slow; the oracle."""

    def __init__(self, layout: GridLayout) -> None:
        self.layout = layout

    def encode(self, positions: Tensor, table: Tensor) -> Tensor:
        with torch.no_grad():
            return torch_grid.encode(positions, table, self.layout)

    def add_table_gradient(self, positions: Tensor, d_features: Tensor, out: Tensor) -> None:
        with torch.enable_grad():
            leaf = torch.zeros_like(out, requires_grad=True)
            encoded = torch_grid.encode(positions.detach(), leaf, self.layout)
            out.add_(torch.autograd.grad(encoded, leaf, d_features.detach())[0])

    def position_gradient(self, positions: Tensor, table: Tensor, d_features: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = positions.detach().requires_grad_()
            encoded = torch_grid.encode(leaf, table.detach(), self.layout)
            return torch.autograd.grad(encoded, leaf, d_features.detach())[0]


class NumbaGrid:
    """Compiled CPU kernels, float32: one thread a level (see `nerfcore.encoding.numba_grid`)."""

    def __init__(self, layout: GridLayout) -> None:
        self.layout = layout

    def encode(self, positions: Tensor, table: Tensor) -> Tensor:
        out = torch.empty(self.layout.width, len(positions))
        numba_grid.encode(_array(positions.t()), _array(table), self.layout, out.numpy())
        return out.t().contiguous()

    def add_table_gradient(self, positions: Tensor, d_features: Tensor, out: Tensor) -> None:
        if not out.is_contiguous():
            raise ValueError("out: must be contiguous, it is added to in place")
        numba_grid.scatter(_array(positions.t()), _array(d_features.t()), self.layout, _array(out))

    def position_gradient(self, positions: Tensor, table: Tensor, d_features: Tensor) -> Tensor:
        out = torch.empty(3, len(positions))
        numba_derivatives.position_gradient(
            _array(positions.t()), _array(table), _array(d_features.t()), self.layout, out.numpy()
        )
        return out.t().contiguous()


def _array(tensor: Tensor) -> NDArray[np.float32]:
    """The tensor's memory (copied if it is not contiguous)."""
    if tensor.device.type != "cpu" or tensor.dtype != torch.float32:
        raise TypeError(
            f"the compiled CPU grid takes float32 tensors on the CPU, got {tensor.dtype} on "
            f"{tensor.device}"
        )
    return tensor.detach().contiguous().numpy()
