"""Adam in one pass over memory, leaving entries without gradient untouched.

A hash table's rows that no sample of the batch saw have an exactly zero gradient; neither their
value nor their moments move (momentum must not drag rows the batch did not see). The pass also
zeroes the gradient. Source: Kingma and Ba 2015, algorithm 1; bias correction by the global
step; the root is kept above epsilon, instead of epsilon being added to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numba
import numpy as np
import torch
from torch import Tensor

from nerfcore.compiled import FAST
from nerfcore.encoding.lanes import LANES, floats_at
from nerfcore.encoding.splats import Splats
from nerfcore.field.parameters import Parameters, zeros_like
from nerfcore.training.table_adam import TableDescent, TableStep, adam_one, scan

BETA1, BETA2, EPSILON = 0.9, 0.99, 1e-15
_BLOCK = 4096


@numba.njit(parallel=True, **FAST)
def _adam(places, counts, rates, corrections, numbers):  # type: ignore[no-untyped-def]
    """Step some tensors, given by the addresses i64[M, 4] of value, gradient and moments."""
    for m in numba.prange(places.shape[0]):
        count = counts[m]
        value, grad = floats_at(places[m, 0], count), floats_at(places[m, 1], count)
        first, second = floats_at(places[m, 2], count), floats_at(places[m, 3], count)
        full = count // LANES * LANES
        scan(
            grad[:full], value[:full], first[:full], second[:full], rates[m], corrections[m],
            numbers,
        )  # fmt: skip
        for i in range(full, count):
            adam_one(grad, value, first, second, i, rates[m], corrections[m], numbers)


@dataclass
class Adam:
    """Moments of one parameter set, made by the first update.

    Attributes:
        first, second: moments, shaped as the parameters; empty before the first update.
        step: updates done so far.
    """

    first: Parameters = field(default_factory=dict)
    second: Parameters = field(default_factory=dict)
    step: int = 0

    def reset(self) -> None:
        """Forget the past, keeping the buffers."""
        self.step = 0
        for moments in (self.first, self.second):
            for value in moments.values():
                value.zero_()

    def update(self, parameters: Parameters, grads: Parameters, rates: dict[str, float]) -> None:
        """Take one step in place and zero the gradients; arguments as in `Update`."""
        update_all([Update(self, parameters, grads, rates)], None)


@dataclass(frozen=True)
class Update:
    """One Adam step of a parameter set.

    Attributes:
        adam: the set's moments.
        parameters, grads: values and gradients by name.
        rates: learning rate by the name's part before the dot ("table", "sigma", "color", ...).
        splats: the table's gradient where `grads` has no "table"; None for none.
    """

    adam: Adam
    parameters: Parameters
    grads: Parameters
    rates: dict[str, float]
    splats: Splats | None = None


@dataclass
class _Steps:
    """What a pass over some parameter sets has to do."""

    tables: list[TableStep] = field(default_factory=list)
    dense: list[tuple[tuple[Tensor, ...], float, float]] = field(default_factory=list)

    def add(self, update: Update) -> None:
        """Count one more update of a set and note its tensors."""
        adam = update.adam
        if not adam.first:
            adam.first, adam.second = zeros_like(update.parameters), zeros_like(update.parameters)
        adam.step += 1
        bias1 = 1.0 - BETA1**adam.step
        correction = 1.0 / (1.0 - BETA2**adam.step)
        for name, value in update.parameters.items():
            rate = update.rates[name.split(".")[0]] / bias1
            moments = [adam.first[name], adam.second[name]]
            if name in update.grads:
                tensors = (value, update.grads[name], *moments)
                self.dense.append((tensors, rate, correction))
            elif update.splats is not None:
                first, second = (moment.numpy() for moment in moments)
                step = TableStep(update.splats, value.numpy(), first, second, rate, correction)
                self.tables.append(step)


def update_all(updates: Sequence[Update], descent: TableDescent | None) -> None:
    """Take one step of some parameter sets in place and zero their gradients.

    Args:
        updates: all different sets, all on one device.
        descent: what applies splats, where there are any.
    """
    steps = _Steps()
    for update in updates:
        steps.add(update)
    if steps.tables and descent is not None:
        descent.take(steps.tables, (BETA1, BETA2), EPSILON)
    if not steps.dense:
        return
    if steps.dense[0][0][0].device.type == "cpu":
        _step_on_cpu(steps.dense)
        return
    for (value, grad, first, second), rate, correction in steps.dense:
        _adam_torch(value, grad, first, second, rate, correction)


def _step_on_cpu(dense: list[tuple[tuple[Tensor, ...], float, float]]) -> None:
    for tensors, _, _ in dense:
        for tensor in tensors:
            if tensor.dtype != torch.float32 or not tensor.is_contiguous():
                raise TypeError("Adam on the CPU takes contiguous float32 tensors")
    _adam(
        np.array([[t.data_ptr() for t in tensors] for tensors, _, _ in dense], np.int64),
        np.array([tensors[0].numel() for tensors, _, _ in dense], np.int64),
        np.array([rate for _, rate, _ in dense], np.float32),
        np.array([correction for _, _, correction in dense], np.float32),
        (np.float32(BETA1), np.float32(BETA2), np.float32(EPSILON)),
    )


def _adam_torch(
    value: Tensor, grad: Tensor, first: Tensor, second: Tensor, rate: float, correction: float
) -> None:
    """The same step in tensor operations, for GPUs; also the tests' reference."""
    seen = grad != 0
    first.copy_(torch.where(seen, BETA1 * first + (1 - BETA1) * grad, first))
    second.copy_(torch.where(seen, BETA2 * second + (1 - BETA2) * grad * grad, second))
    change = rate * first / (second * correction).clamp(min=EPSILON**2).sqrt()
    value.sub_(torch.where(seen, change, 0.0))
    grad.zero_()
