"""Evaluates one expert's field at points: density per metre and colour, and the gradient.

Two implementations of one interface, `FieldBackend`:
- `TorchField`: differentiable PyTorch operations on any device; the oracle.
- `NumbaField`: CPU; compiled hash grid, MLPs in chunks that stay in cache, activations recomputed
  in the gradient.
sigma = exp(h_0 - 2) per metre (h_0 clamped to 15); colour = sigmoid(MLP(h_1..15, SH(dir), 1)).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nerfcore.encoding import directions, numba_grid, torch_grid
from nerfcore.field import mlp
from nerfcore.field.parameters import GEOMETRY_WIDTH, Architecture, Parameters
from nerfcore.field.parameters import mlp as mlp_weights
from nerfcore.field.workers import for_chunks, worker_count

CHUNK_ROWS = 2048
SIGMA_SHIFT = -2.0
MAX_LOG_SIGMA = 15.0


@dataclass
class Shaded:
    """Field values at points: sigmas [N] per metre, rgbs [N, 3], and what the gradient needs."""

    sigmas: Tensor
    rgbs: Tensor
    positions: Tensor
    features: Tensor
    harmonics: Tensor


class FieldBackend(Protocol):
    """Evaluates experts that share one architecture. Positions are f32[N, 3] in [0, 1]."""

    def encode(self, parameters: Parameters, positions: Tensor) -> Tensor:
        """Features [N, width] of points."""
        ...

    def densities(self, parameters: Parameters, features: Tensor) -> Tensor:
        """Densities [N] per metre, no gradient."""
        ...

    def shade(
        self, parameters: Parameters, positions: Tensor, features: Tensor, harmonics: Tensor
    ) -> Shaded:
        """Densities and colours; `harmonics` [N, 16] encode the view directions."""
        ...

    def accumulate(
        self,
        parameters: Parameters,
        shaded: Shaded,
        d_sigmas: Tensor,
        d_rgbs: Tensor,
        grads: Parameters,
    ) -> None:
        """Add the loss's gradient to `grads`, given its gradient to sigmas and rgbs."""
        ...


def _split(hidden: Tensor, harmonics: Tensor) -> tuple[Tensor, Tensor]:
    """Density [N] and colour input [N, 32] from the density MLP's output [N, 16]."""
    sigmas = torch.exp((hidden[:, 0].float() + SIGMA_SHIFT).clamp(max=MAX_LOG_SIGMA))
    ones = hidden.new_ones(len(hidden), 1)
    return sigmas, torch.cat([hidden[:, 1:], harmonics.to(hidden.dtype), ones], dim=1)


class TorchField:
    """The field in plain differentiable operations."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture

    def encode(self, parameters: Parameters, positions: Tensor) -> Tensor:
        layout = self.architecture.layout
        if layout is None:
            return directions.frequencies(positions)
        return torch_grid.encode(positions, parameters["table"], layout)

    def densities(self, parameters: Parameters, features: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = mlp.reference(features, mlp_weights(parameters, "sigma"))
            return torch.exp((hidden[:, 0] + SIGMA_SHIFT).clamp(max=MAX_LOG_SIGMA))

    def field(
        self, parameters: Parameters, features: Tensor, harmonics: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Differentiable sigmas [N] and rgbs [N, 3] from encoded points."""
        hidden = mlp.reference(features, mlp_weights(parameters, "sigma"))
        sigmas, colour_input = _split(hidden, harmonics)
        return sigmas, torch.sigmoid(mlp.reference(colour_input, mlp_weights(parameters, "color")))

    def shade(
        self, parameters: Parameters, positions: Tensor, features: Tensor, harmonics: Tensor
    ) -> Shaded:
        with torch.no_grad():
            sigmas, rgbs = self.field(parameters, features, harmonics)
        return Shaded(sigmas, rgbs, positions, features, harmonics)

    def accumulate(
        self,
        parameters: Parameters,
        shaded: Shaded,
        d_sigmas: Tensor,
        d_rgbs: Tensor,
        grads: Parameters,
    ) -> None:
        leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        with torch.enable_grad():
            features = self.encode(leaves, shaded.positions)
            outputs = self.field(leaves, features, shaded.harmonics)
            found = torch.autograd.grad(outputs, list(leaves.values()), (d_sigmas, d_rgbs))
        for name, value in zip(leaves, found, strict=True):
            grads[name].add_(value)


class NumbaField:
    """The field on the CPU: compiled encoding, chunked MLPs, hand-written gradient."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.dtype = torch.bfloat16 if architecture.settings.use_bf16 else torch.float32

    def encode(self, parameters: Parameters, positions: Tensor) -> Tensor:
        layout = self.architecture.layout
        if layout is None:
            return directions.frequencies(positions)
        features = torch.empty(len(positions), layout.width)
        numba_grid.encode(positions.numpy(), parameters["table"].numpy(), layout, features.numpy())
        return features

    def _weights(self, parameters: Parameters, name: str) -> list[Tensor]:
        return [weight.to(self.dtype) for weight in mlp_weights(parameters, name)]

    def densities(self, parameters: Parameters, features: Tensor) -> Tensor:
        weights = self._weights(parameters, "sigma")
        weights[-1] = weights[-1][:, :1].contiguous()
        out = torch.empty(len(features))

        def work(_: int, chunk: slice) -> None:
            hidden = mlp.forward(features[chunk].to(self.dtype), weights)[0]
            logs = (hidden[:, 0].float() + SIGMA_SHIFT).clamp_(max=MAX_LOG_SIGMA)
            torch.exp(logs, out=out[chunk])

        for_chunks(len(features), CHUNK_ROWS, work)
        return out

    def shade(
        self, parameters: Parameters, positions: Tensor, features: Tensor, harmonics: Tensor
    ) -> Shaded:
        sigma_weights = self._weights(parameters, "sigma")
        colour_weights = self._weights(parameters, "color")
        sigmas, rgbs = torch.empty(len(features)), torch.empty(len(features), 3)

        def work(_: int, chunk: slice) -> None:
            hidden = mlp.forward(features[chunk].to(self.dtype), sigma_weights)[0]
            sigmas[chunk], colour_input = _split(hidden, harmonics[chunk])
            rgbs[chunk] = mlp.forward(colour_input, colour_weights)[0].float().sigmoid_()

        for_chunks(len(features), CHUNK_ROWS, work)
        return Shaded(sigmas, rgbs, positions, features, harmonics)

    def accumulate(
        self,
        parameters: Parameters,
        shaded: Shaded,
        d_sigmas: Tensor,
        d_rgbs: Tensor,
        grads: Parameters,
    ) -> None:
        sigma_weights = self._weights(parameters, "sigma")
        colour_weights = self._weights(parameters, "color")
        private = [
            [
                [torch.zeros_like(grad) for grad in mlp_weights(grads, name)]
                for name in ("sigma", "color")
            ]
            for _ in range(worker_count())
        ]
        d_features = torch.empty_like(shaded.features)

        def work(worker: int, chunk: slice) -> None:
            sigma_grads, colour_grads = private[worker]
            features = shaded.features[chunk].to(self.dtype)
            hidden, sigma_inputs = mlp.forward(features, sigma_weights)
            sigmas, colour_input = _split(hidden, shaded.harmonics[chunk])
            _, colour_inputs = mlp.forward(colour_input, colour_weights, last=False)
            rgbs = shaded.rgbs[chunk]
            d_colour = (d_rgbs[chunk] * rgbs).mul_(1 - rgbs).to(self.dtype)
            d_input = mlp.backward(d_colour, colour_weights, colour_inputs, colour_grads)
            d_hidden = torch.empty_like(hidden)
            unclamped = hidden[:, 0] + SIGMA_SHIFT < MAX_LOG_SIGMA
            d_hidden[:, 0] = d_sigmas[chunk] * sigmas * unclamped
            d_hidden[:, 1:] = d_input[:, :GEOMETRY_WIDTH]
            d_features[chunk] = mlp.backward(d_hidden, sigma_weights, sigma_inputs, sigma_grads)

        for_chunks(len(d_features), CHUNK_ROWS, work)
        for buffers in private:
            for name, found in zip(("sigma", "color"), buffers, strict=True):
                for total, part in zip(mlp_weights(grads, name), found, strict=True):
                    total.add_(part)
        layout = self.architecture.layout
        if layout is not None:
            numba_grid.scatter(
                shaded.positions.numpy(), d_features.numpy(), layout, grads["table"].numpy()
            )
