"""Adam in one pass over memory, leaving entries without gradient untouched.

A hash table's rows that no sample of the batch saw have an exactly zero gradient; neither their
value nor their moments move (momentum must not drag rows the batch did not see). The pass also
zeroes the gradient. Source: Kingma and Ba 2015, algorithm 1; bias correction by the global step.
"""

from dataclasses import dataclass, field

import numba
import numpy as np
import torch
from torch import Tensor

from nerfcore.encoding.splats import Splats
from nerfcore.field.parameters import Parameters, zeros_like
from nerfcore.training.table_adam import TableDescent

BETA1, BETA2, EPSILON = 0.9, 0.99, 1e-15
_BLOCK = 4096


@numba.njit(parallel=True, cache=True, fastmath=True, error_model="numpy")
def _adam(value, grad, first, second, rate, correction):  # type: ignore[no-untyped-def]
    b1, b2 = np.float32(BETA1), np.float32(BETA2)
    c1, c2 = np.float32(1 - BETA1), np.float32(1 - BETA2)
    for block in numba.prange((value.shape[0] + _BLOCK - 1) // _BLOCK):
        for i in range(block * _BLOCK, min(value.shape[0], (block + 1) * _BLOCK)):
            g = grad[i]
            if g != 0:
                m = b1 * first[i] + c1 * g
                v = b2 * second[i] + c2 * g * g
                first[i], second[i] = m, v
                value[i] -= rate * m / (np.sqrt(v * correction) + np.float32(EPSILON))
                grad[i] = np.float32(0.0)


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

    def update(
        self,
        parameters: Parameters,
        grads: Parameters,
        rates: dict[str, float],
        table: tuple[Splats, TableDescent] | None = None,
    ) -> None:
        """Take one step in place and zero the gradients.

        Args:
            parameters, grads: values and gradients by name.
            rates: learning rate by the name's part before the dot ("table", "sigma", "color", ...).
            table: the table's gradient and what applies it, where `grads` has no "table".
        """
        if not self.first:
            self.first, self.second = zeros_like(parameters), zeros_like(parameters)
        self.step += 1
        bias1 = 1.0 - BETA1**self.step
        correction = 1.0 / (1.0 - BETA2**self.step)
        for name, value in parameters.items():
            rate = rates[name.split(".")[0]] / bias1
            first, second = self.first[name], self.second[name]
            if name == "table" and name not in grads:
                if table is not None:
                    table[1].step(
                        table[0], value.numpy(), first.numpy(), second.numpy(), rate, correction,
                        (BETA1, BETA2), EPSILON,
                    )  # fmt: skip
            elif value.device.type == "cpu":
                flat = [t.view(-1).numpy() for t in (value, grads[name], first, second)]
                _adam(*flat, np.float32(rate), np.float32(correction))  # pyright: ignore[reportCallIssue]
            else:
                _adam_torch(value, grads[name], first, second, rate, correction)


def _adam_torch(
    value: Tensor, grad: Tensor, first: Tensor, second: Tensor, rate: float, correction: float
) -> None:
    """The same step in tensor operations, for GPUs; also the tests' reference."""
    seen = grad != 0
    first.copy_(torch.where(seen, BETA1 * first + (1 - BETA1) * grad, first))
    second.copy_(torch.where(seen, BETA2 * second + (1 - BETA2) * grad * grad, second))
    change = rate * first / ((second * correction).sqrt() + EPSILON)
    value.sub_(torch.where(seen, change, 0.0))
    grad.zero_()
