"""Every hash grid agrees with the float64 oracle, first and second order, borders and ends too."""

import sys
from collections.abc import Callable
from types import ModuleType

import grid_checks as checks
import pytest
import torch
from grid_checks import BORDER_LAYOUT, LAYOUT, SETTINGS
from torch import Tensor

from nerfcore.encoding import tcnn_grid, torch_grid
from nerfcore.encoding.function import hash_encode
from nerfcore.encoding.grids import HashGrid, NumbaGrid, TorchGrid
from nerfcore.encoding.layout import GridLayout, grid_layout
from nerfcore.errors import BackendUnavailableError
from nerfcore.settings import HashGridSettings

GRIDS = [TorchGrid, NumbaGrid]


@pytest.mark.parametrize("kind", GRIDS)
def test_forward_and_both_gradients_match_the_oracle(kind: type) -> None:
    """Random points, 0 and 1."""
    checks.check_first_order(kind(LAYOUT), checks.random_points())


@pytest.mark.parametrize("kind", GRIDS)
def test_cell_borders_match_the_oracle(kind: type) -> None:
    """On a border the derivative to the point is the upper cell's, everywhere."""
    checks.check_first_order(kind(BORDER_LAYOUT), checks.border_points())
    checks.check_second_order(kind(BORDER_LAYOUT), checks.border_points())


@pytest.mark.parametrize("kind", GRIDS)
def test_second_derivatives_match_the_oracle(kind: type) -> None:
    """All five that exist."""
    checks.check_second_order(kind(LAYOUT), checks.random_points())


@pytest.mark.parametrize("features", [1, 4])
@pytest.mark.parametrize("kind", GRIDS)
def test_other_feature_counts(kind: type, features: int) -> None:
    """Features a level other than two."""
    settings = HashGridSettings(3, features, 9, 4, 32)
    checks.check_first_order(kind(grid_layout(settings)), checks.random_points())


@pytest.mark.parametrize("kind", GRIDS)
def test_no_points_are_no_work(kind: type) -> None:
    """An empty batch gives empty results."""
    grid: HashGrid = kind(LAYOUT)
    none, table = torch.zeros(0, 3), checks.random_table(LAYOUT)
    assert grid.encode(none, table).shape == (0, LAYOUT.width)
    assert grid.position_gradient(none, table, torch.zeros(0, LAYOUT.width)).shape == (0, 3)
    out = torch.zeros_like(table)
    grid.add_table_gradient(none, torch.zeros(0, LAYOUT.width), out)
    assert not out.any()


def _small() -> tuple[TorchGrid, Tensor, Tensor]:
    layout = grid_layout(HashGridSettings(2, 1, 8, 4, 9))
    points = torch.rand(4, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    table = checks.random_table(layout).double()
    return TorchGrid(layout), points.requires_grad_(), table.requires_grad_()


def test_gradients_match_finite_differences() -> None:
    """First and second order by central differences in float64."""
    grid, points, table = _small()

    def encode(x: Tensor, t: Tensor) -> Tensor:
        return hash_encode(grid, x, t)

    assert torch.autograd.gradcheck(encode, (points, table))
    assert torch.autograd.gradgradcheck(encode, (points, table))


@pytest.mark.parametrize("kind", GRIDS)
def test_third_derivatives_match_the_oracle(kind: type) -> None:
    """Chained gradients whose parts depend on each other: no path is counted twice or dropped."""

    def third(encode: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor) -> Tensor:
        first = torch.autograd.grad(encode(x, t).square().sum(), [x, t], create_graph=True)
        total = first[0].square().sum() + first[1].square().sum()
        second = torch.autograd.grad(total, [x, t], create_graph=True)
        return torch.autograd.grad(second[0].sum() + second[1].square().sum(), t)[0]

    points, table, grid = checks.random_points(40), checks.random_table(LAYOUT), kind(LAYOUT)
    x, t = points.double().requires_grad_(), table.double().requires_grad_()
    expected = third(lambda a, b: torch_grid.encode(a, b, LAYOUT), x, t)
    x, t = points.requires_grad_(), table.requires_grad_()
    found = third(lambda a, b: hash_encode(grid, a, b), x, t)
    assert checks.relative_error(found, expected) < 1e-4


def test_the_compiled_grid_refuses_other_types() -> None:
    """No silent cast."""
    with pytest.raises(TypeError, match="float32"):
        NumbaGrid(LAYOUT).encode(torch.zeros(1, 3).double(), checks.random_table(LAYOUT))
    with pytest.raises(ValueError, match="contiguous"):
        out = torch.zeros(LAYOUT.features, LAYOUT.rows).t()
        NumbaGrid(LAYOUT).add_table_gradient(torch.zeros(1, 3), torch.zeros(1, LAYOUT.width), out)


class _Encoding(torch.nn.Module):
    """Stands in for tinycudann.Encoding: its flat parameters, its rules, here on the CPU."""

    skewed = False

    def __init__(self, dims: int, config: dict, dtype: torch.dtype) -> None:
        super().__init__()
        assert (dims, config["otype"], dtype) == (3, "HashGrid", torch.float32)
        ratio = config["per_level_scale"] ** (config["n_levels"] - 1)
        self.layout: GridLayout = grid_layout(
            HashGridSettings(
                config["n_levels"], config["n_features_per_level"], config["log2_hashmap_size"],
                config["base_resolution"], round(config["base_resolution"] * ratio),
            )
        )  # fmt: skip
        self.params = torch.nn.Parameter(torch.zeros(self.layout.rows * self.layout.features))

    def forward(self, positions: Tensor) -> Tensor:
        table = self.params.view(self.layout.rows, self.layout.features)
        encoded = torch_grid.encode(
            positions, table.roll(1, 0) if self.skewed else table, self.layout
        )
        return torch.nn.functional.pad(encoded, (0, 6))


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> type[_Encoding]:
    module = ModuleType("tinycudann")
    module.Encoding = _Encoding  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tinycudann", module)
    return _Encoding


def test_the_tcnn_adaptor_swaps_tables_in(package: type[_Encoding]) -> None:
    """Our table serves as the package's parameters; padding columns are cut off."""
    grid = tcnn_grid.TcnnGrid(SETTINGS, torch.device("cpu"))
    checks.check_first_order(grid, checks.random_points())
    checks.check_second_order(grid, checks.random_points())


def test_another_tcnn_layout_is_refused(
    package: type[_Encoding], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package whose rows lie elsewhere would show other pictures."""
    monkeypatch.setattr(package, "skewed", True)
    with pytest.raises(BackendUnavailableError, match="lays the table out otherwise"):
        tcnn_grid.TcnnGrid(SETTINGS, torch.device("cpu"))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("finest", [31, 32])
def test_double_gradients_of_any_points(seed: int, finest: int) -> None:
    """Fractions of almost nothing included: the oracle divides by none."""
    layout = grid_layout(HashGridSettings(4, 2, 10, 4, finest))
    checks.check_second_order(NumbaGrid(layout), checks.random_points(300, seed)[:300])
