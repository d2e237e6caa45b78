"""Owns learned inner rates: one factor on the learning rate for each level of an expert's table,
its density MLP and its colour MLP (Meta-SGD, Li et al. 2017, by groups instead of by weights).

A factor m_g scales every inner update of its group, so the adapted weights are theta' = theta +
sum_t m_g d_t. With the directions d_t taken as constant, the query loss L has
dL/d(log m_g) = <dL/d(theta'), theta'_g - theta_g>: the query's gradient along what the group moved.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nerfcore.encoding.layout import GridLayout
from nerfcore.encoding.splats import Splats
from nerfcore.errors import CheckpointError
from nerfcore.field.parameters import Parameters

STORED_NAME = "inner_rates"  # in a checkpoint's manifest, among what is kept besides the model
RATE = 0.03
LARGEST_LOG = 3.4  # factors stay within 1/30 and 30
_BETA1, _BETA2, _EPSILON = 0.9, 0.99, 1e-12
MLPS = ("sigma", "color")


class InnerRates:
    """Factors of all experts, learned by Adam on their logarithms.

    Attributes:
        logs: f64[K, L + 2], natural logarithms; levels first, then the MLPs.
    """

    def __init__(self, experts: int, layout: GridLayout | None) -> None:
        self.layout = layout
        self.levels = layout.levels if layout else 0
        self.logs = np.zeros((experts, self.levels + len(MLPS)))
        self._first, self._second = np.zeros_like(self.logs), np.zeros_like(self.logs)
        self._steps = np.zeros(experts, np.int64)

    def of(self, expert: int) -> NDArray[np.float64]:
        """An expert's factors f64[L + 2]."""
        return np.exp(self.logs[expert])

    def mlp_factors(self, expert: int) -> dict[str, float]:
        """Factors of an expert's MLPs by name."""
        return dict(zip(MLPS, self.of(expert)[self.levels :].tolist(), strict=True))

    def scale_table(self, expert: int, before: Tensor, table: Tensor) -> None:
        """Turn a table's step from `before` into the factors' multiple of it, level by level."""
        if self.layout is None:
            return
        bounds = self.layout.offsets.tolist()
        for level, factor in enumerate(self.of(expert)[: self.levels]):
            rows = slice(bounds[level], bounds[level + 1])
            table[rows] = before[rows].lerp(table[rows], float(factor))

    def learn(self, expert: int, gradient: NDArray[np.float64]) -> None:
        """Take one step against dL/d(log m), f64[L + 2]; a non-finite gradient is dropped."""
        if not np.isfinite(gradient).all():
            return
        self._steps[expert] += 1
        first, second = self._first[expert], self._second[expert]
        first += (1 - _BETA1) * (gradient - first)
        second += (1 - _BETA2) * (gradient**2 - second)
        steps = self._steps[expert]
        change = first / (1 - _BETA1**steps)
        change /= np.sqrt(second / (1 - _BETA2**steps)) + _EPSILON
        self.logs[expert] = np.clip(self.logs[expert] - RATE * change, -LARGEST_LOG, LARGEST_LOG)

    def learn_all(self, found: Iterable[tuple[int, NDArray[np.float64]]]) -> None:
        """`learn` for each (expert, gradient) of an outer step that was accepted."""
        for expert, gradient in found:
            self.learn(expert, gradient)

    def to_json(self) -> dict[str, Any]:
        """The factors, for a checkpoint's manifest."""
        names = [*(f"level{i}" for i in range(self.levels)), *MLPS]
        return {"groups": names, "factors": np.exp(self.logs).round(6).tolist()}

    @staticmethod
    def from_json(values: Any, experts: int, layout: GridLayout | None) -> "InnerRates":
        """Rebuild from `to_json`.

        Raises:
            CheckpointError: not of so many experts and groups, or not positive numbers.
        """
        rates = InnerRates(experts, layout)
        try:
            factors = np.array(values["factors"], np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"inner_rates: unreadable ({error!r}); use another checkpoint"
            ) from error
        if factors.shape != rates.logs.shape or not (factors > 0).all():
            raise CheckpointError(
                f"inner_rates: factors of shape {factors.shape}, {rates.logs.shape} positive ones "
                "are needed; use another checkpoint"
            )
        rates.logs = np.log(factors)
        return rates


def rate_gradient(
    rates: InnerRates,
    moved: Parameters,
    gradient: Parameters,
    splats: Splats | None,
) -> NDArray[np.float64]:
    """dL/d(log m) of one task, f64[L + 2].

    Args:
        moved: theta' - theta by name.
        gradient: dL/d(theta') by name; the table's may be missing where `splats` holds it.
        splats: the table's gradient as points, or None.
    """
    layout, out = rates.layout, np.zeros(rates.levels + len(MLPS))
    if layout is not None and "table" in gradient:
        along = (moved["table"].double() * gradient["table"].double()).sum(1).cpu().numpy()
        out[: rates.levels] = np.add.reduceat(along, layout.offsets[:-1])
    elif layout is not None and splats is not None:
        out[: rates.levels] = _along(layout, moved["table"], splats)
    for i, name in enumerate(MLPS):
        for key, value in moved.items():
            if key.split(".")[0] == name:
                out[rates.levels + i] += float((value.double() * gradient[key].double()).sum())
    return out


def _along(layout: GridLayout, moved: Tensor, splats: Splats) -> NDArray[np.float64]:
    """<scatter(splats), moved> by level: the encoding is linear in the table, so this is the
    splats' gradients times the encoding of what the table moved."""
    from torch import from_numpy

    from nerfcore.encoding.grids import NumbaGrid

    points = from_numpy(np.ascontiguousarray(splats.positions.T))
    encoded = NumbaGrid(layout).encode(points, moved.contiguous()).numpy()
    total = (encoded.T * splats.d_features).sum(1, dtype=np.float64)
    return total.reshape(layout.levels, layout.features).sum(1)
