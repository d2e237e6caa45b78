"""A bias-free ReLU MLP with a hand-written gradient, for chunks that stay in cache.

Weights are [in, out]; a layer is x @ W, ReLU between layers, nothing after the last.
"""

import torch
from torch import Tensor


def forward(x: Tensor, weights: list[Tensor], *, last: bool = True) -> tuple[Tensor, list[Tensor]]:
    """Apply the MLP to [N, in]; return the output [N, out] and each layer's input.

    With `last` false the last layer is left out (its output is not needed to go backward).
    """
    inputs = []
    for i, weight in enumerate(weights):
        inputs.append(x)
        if i + 1 == len(weights) and not last:
            break
        x = x @ weight
        if i + 1 < len(weights):
            x.relu_()
    return x, inputs


def backward(
    grad: Tensor, weights: list[Tensor], inputs: list[Tensor], out: list[Tensor]
) -> Tensor:
    """Add the weights' gradients to `out` (float32) and return the gradient to the input.

    Args:
        grad: [N, out], gradient to the output.
        weights, inputs: as given to and returned by `forward`.
        out: gradient buffers shaped as the weights.
    """
    for i in range(len(weights) - 1, -1, -1):
        if out[i].dtype == grad.dtype:
            out[i].addmm_(inputs[i].t(), grad)
        else:
            out[i].add_(inputs[i].t() @ grad)
        grad = grad @ weights[i].t()
        if i:
            grad = torch.ops.aten.threshold_backward(grad, inputs[i], 0)
    return grad


def reference(x: Tensor, weights: list[Tensor]) -> Tensor:
    """The same MLP in differentiable operations."""
    for weight in weights[:-1]:
        x = torch.relu(x @ weight)
    return x @ weights[-1]
