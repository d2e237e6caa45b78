"""The hash grid by tiny-cuda-nn (`tinycudann`), for CUDA; constructing it needs the package.

Our table is tiny-cuda-nn's `params`, flattened, without conversion. Its rules (grid.h, and
grid_index, grid_scale and pos_fract of common_device.h) against ours (`nerfcore.encoding.layout`):

- scale_l = exp2(l * log2(per_level_scale)) * base - 1, resolution_l = ceil(scale_l) + 1 and
  x * scale_l + 0.5: the same formulas, but computed in float32, where ours are float64 rounded
  once. The scales agree to about 1e-6 of their value, which moves a point by up to 4e-3 of the
  finest level's cell at 4096 cells: invisible in a picture, but not equal to the last bit.
- a level has min(next_multiple(resolution^3, 8), 2^log2_size) rows, levels follow one another, a
  row holds its features side by side; the index is x + y r + z r^2 where r^3 fits in the level's
  rows, else (x ^ y * 2654435761 ^ z * 805459861), always modulo the rows: the same.
- the encoding's columns are level after level: the same.

A scale within rounding of a whole number may make the two resolutions differ, and releases before
2.0 overflow in the index of levels finer than 65,535; so the constructor compares a probe of
random points with the plain PyTorch grid, and refuses where the layouts differ.

float32 parameters and inputs (half-precision inputs would round points to 2^-11). The table is
swapped in by `torch.func.functional_call`, so that fast weights need no module of their own.
"""

import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nerfcore.encoding import torch_grid
from nerfcore.encoding.layout import GridLayout, grid_layout
from nerfcore.errors import BackendUnavailableError
from nerfcore.settings import HashGridSettings

PROBE_POINTS = 4096
PROBE_TOLERANCE = 0.03


def load_package() -> ModuleType:
    """Import `tinycudann`.

    Raises:
        ImportError: it is not installed, or built for no GPU that is here.
    """
    try:
        return importlib.import_module("tinycudann")
    except OSError as error:
        # tinycudann raises EnvironmentError where PyTorch sees no GPU it was built for
        raise ImportError(str(error)) from error


class TcnnGrid:
    """`nerfcore.encoding.grids.HashGrid` by tiny-cuda-nn."""

    def __init__(self, settings: HashGridSettings, device: torch.device) -> None:
        """Make the module and hold its layout against ours.

        Raises:
            ImportError: see `load_package`.
            BackendUnavailableError: it lays this table out differently.
        """
        self.layout: GridLayout = grid_layout(settings)
        self._module = _module(settings, device)
        self._require_same_layout(device)

    def encode(self, positions: Tensor, table: Tensor) -> Tensor:
        if not len(positions):
            return positions.new_zeros(0, self.layout.width)
        with torch.no_grad():
            return self._call(positions.detach(), table.detach())

    def add_table_gradient(self, positions: Tensor, d_features: Tensor, out: Tensor) -> None:
        if not len(positions):
            return
        with torch.enable_grad():
            # The gradient does not depend on the table's values: any table of this shape will do.
            leaf = out.detach().requires_grad_()
            encoded = self._call(positions.detach(), leaf)
            found = torch.autograd.grad(encoded, leaf, d_features.detach())[0]
        out.add_(found)

    def position_gradient(self, positions: Tensor, table: Tensor, d_features: Tensor) -> Tensor:
        if not len(positions):
            return torch.zeros_like(positions)
        with torch.enable_grad():
            leaf = positions.detach().requires_grad_()
            encoded = self._call(leaf, table.detach())
            return torch.autograd.grad(encoded, leaf, d_features.detach())[0]

    def _call(self, positions: Tensor, table: Tensor) -> Tensor:
        for tensor in (positions, table):
            if tensor.dtype != torch.float32:
                raise TypeError(f"the tiny-cuda-nn grid takes float32 tensors, got {tensor.dtype}")
        swapped = {"params": table.reshape(-1)}
        encoded = torch.func.functional_call(self._module, swapped, (positions,))
        return encoded[:, : self.layout.width]

    def _require_same_layout(self, device: torch.device) -> None:
        rows, features = self.layout.rows, self.layout.features
        count = int(self._module.params.numel())
        if count != rows * features:
            raise BackendUnavailableError(
                f'backend "tcnn": tiny-cuda-nn makes {count} parameters of this table, checkpoints '
                f'hold {rows * features}; use backend "triton", or change max_resolution'
            )
        generator = torch.Generator(device).manual_seed(0)
        table = torch.rand(rows, features, generator=generator, device=device) - 0.5
        points = torch.rand(PROBE_POINTS, 3, generator=generator, device=device)
        difference = self.encode(points, table) - torch_grid.encode(points, table, self.layout)
        if float(difference.abs().max()) > PROBE_TOLERANCE:
            raise BackendUnavailableError(
                'backend "tcnn": this tiny-cuda-nn lays the table out otherwise than checkpoints '
                'do; use backend "triton", update tiny-cuda-nn, or change max_resolution'
            )


def _module(settings: HashGridSettings, device: torch.device) -> Any:
    config = {
        "otype": "HashGrid",
        "n_levels": settings.levels,
        "n_features_per_level": settings.features,
        "log2_hashmap_size": settings.log2_size,
        "base_resolution": settings.base_resolution,
        "per_level_scale": settings.growth,
        "interpolation": "Linear",
    }
    return load_package().Encoding(3, config, dtype=torch.float32).to(device)
