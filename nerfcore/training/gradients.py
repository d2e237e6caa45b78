"""Owns where gradients gather between the passes that find them and the step that applies them.

MLP gradients have buffers, made when an expert first gets one. A table's gradient is kept as the
points that made it where the tracer offers that (`Splats`), else in a buffer of the table's size.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor
from torch.nn.utils import get_total_norm

from nerfcore.encoding.splats import Splats, joined
from nerfcore.field.parameters import Parameters, zeros_like
from nerfcore.tracing.contract import Gradients

MOST_GRADIENT = 1e18


class _Buffers(Mapping[int, Parameters]):
    """One set of buffers an expert, made on first use."""

    def __init__(self, experts: Sequence[Parameters], with_tables: bool) -> None:
        self._experts = experts
        self._with_tables = with_tables
        self.made: dict[int, Parameters] = {}

    def __getitem__(self, expert: int) -> Parameters:
        if expert not in self.made:
            wanted = {
                name: value
                for name, value in self._experts[expert].items()
                if self._with_tables or name != "table"
            }
            self.made[expert] = zeros_like(wanted)
        return self.made[expert]

    def __contains__(self, expert: object) -> bool:
        return isinstance(expert, int) and 0 <= expert < len(self._experts)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self._experts)))

    def __len__(self) -> int:
        return len(self._experts)


class GradientStore:
    """Gradients of some experts and the background, added up until taken or dropped.

    Attributes:
        touched: experts that have any.
        background: the background's buffers.
    """

    def __init__(
        self, experts: Sequence[Parameters], background: Parameters, *, splats: bool
    ) -> None:
        """Args: whose gradients; whether tables' are kept as points (`Tracer.makes_splats`)."""
        self._buffers = _Buffers(experts, with_tables=not splats)
        self._splats: dict[int, list[Splats]] = {}
        self.background = zeros_like(background)
        self.touched: set[int] = set()

    def sink(self, expert: int | None = None, *, with_background: bool = True) -> Gradients:
        """Where a tracer puts gradients: of all experts, or of one."""
        buffers: Mapping[int, Parameters] = self._buffers
        if expert is not None:
            buffers = {expert: self._buffers[expert]}
        return Gradients(buffers, self.background if with_background else None, self._splats)

    def of(self, expert: int) -> Parameters:
        """An expert's buffers."""
        return self._buffers[expert]

    def table(self, expert: int) -> Splats | None:
        """An expert's table gradient as points, if it has one."""
        parts = self._splats.get(expert)
        return joined(parts) if parts else None

    def _small(self) -> list[Tensor]:
        """All buffers but tables'."""
        buffers = [self._buffers[k] for k in self.touched] + [self.background]
        return [value for one in buffers for name, value in one.items() if name != "table"]

    def finite(self) -> bool:
        """Check the small matrices; a non-finite table gradient always shows in them too.

        A gradient whose square is not finite would make Adam's moments so.
        """
        small = self._small()
        return not small or bool(get_total_norm(small, math.inf) < MOST_GRADIENT)

    def clear(self) -> None:
        """Forget all gradients."""
        tables = [self._buffers[k]["table"] for k in self.touched if "table" in self._buffers[k]]
        for value in self._small() + tables:
            value.zero_()
        self._splats.clear()
        self.touched.clear()
