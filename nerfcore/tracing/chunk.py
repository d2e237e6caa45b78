"""One chunk of rays through the experts' MLPs, activations kept in the worker's cache.

Rows are the chunk's entries (sample, expert), one segment an expert. Nothing is recomputed: the
gradient pass follows while the activations of the chunk are still in cache. MLP weights are
[in, out]; the colour MLP's input is reordered to (1, geometry, harmonics), so that the density
MLP's output is copied as it lies.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nerfcore.field.parameters import GEOMETRY_WIDTH, Parameters
from nerfcore.field.parameters import mlp as mlp_weights
from nerfcore.tracing import light

_CONSTANT = GEOMETRY_WIDTH + light.HARMONICS
_ORDER = torch.tensor([_CONSTANT, *range(_CONSTANT)])


@dataclass(frozen=True)
class Weights:
    """An expert's MLP matrices, or their gradients, in the chunk's order."""

    sigma: list[Tensor]
    color: list[Tensor]

    @staticmethod
    def of(parameters: Parameters) -> "Weights":
        color = mlp_weights(parameters, "color")
        return Weights(mlp_weights(parameters, "sigma"), [color[0][_ORDER], *color[1:]])

    def zeros(self) -> "Weights":
        """Gradient buffers."""
        return Weights(
            [torch.zeros_like(w) for w in self.sigma], [torch.zeros_like(w) for w in self.color]
        )

    def add_to(self, buffers: Parameters) -> None:
        """Add these gradients to an expert's buffers."""
        for total, part in zip(mlp_weights(buffers, "sigma"), self.sigma, strict=True):
            total.add_(part)
        for i, (total, part) in enumerate(
            zip(mlp_weights(buffers, "color"), self.color, strict=True)
        ):
            if i == 0:
                total.index_add_(0, _ORDER, part)
            else:
                total.add_(part)


@dataclass(frozen=True)
class Batch:
    """A batch of rays, marched and encoded; entries are grouped by expert.

    Attributes:
        ray_starts: i64[R + 1]; sample_rays: i32[S]; ts, deltas: f32[S] (world units, metres).
        entry_samples: i64[E]; entry_weights: f32[E].
        entry_starts: i64[K + 1], first entry of each expert.
        features: f32[width, entries] of each expert that has any.
        harmonics: f32[R, 16]; backgrounds: f32[R, 3].
        sigmas: f32[S], written by the chunks.
    """

    ray_starts: NDArray[np.int64]
    sample_rays: NDArray[np.int32]
    ts: NDArray[np.float32]
    deltas: NDArray[np.float32]
    entry_samples: NDArray[np.int64]
    entry_weights: NDArray[np.float32]
    entry_starts: NDArray[np.int64]
    features: dict[int, Tensor]
    harmonics: NDArray[np.float32]
    backgrounds: NDArray[np.float32]
    sigmas: NDArray[np.float32]


class Workspace:
    """Buffers of one worker, grown when a chunk needs more and kept between chunks."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(
        self, name: str, rows: int, columns: int, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """An uninitialised [rows, columns] buffer, valid until the same name is taken again."""
        found = self._buffers.get(name)
        if found is None or len(found) < rows or found.shape[1] != columns or found.dtype != dtype:
            found = torch.empty(max(rows, 1024) * 5 // 4, columns, dtype=dtype)
            self._buffers[name] = found
        return found[:rows]


class Chunk:
    """Rays first_ray..last_ray of a batch, evaluated by one worker."""

    def __init__(
        self,
        batch: Batch,
        rays: tuple[int, int],
        segments: NDArray[np.int64],
        weights: dict[int, Weights],
        space: Workspace,
    ) -> None:
        """Args: the batch, its rays, segments i64[G, 3] (expert, first and last entry), weights."""
        self.batch, self.rays, self.segments, self.space = batch, rays, segments, space
        self.weights = [weights[int(k)] for k in segments[:, 0]]
        self.rows = int((segments[:, 2] - segments[:, 1]).sum())
        self.first = int(batch.ray_starts[rays[0]])
        self.samples = int(batch.ray_starts[rays[1]]) - self.first
        ends = np.cumsum(segments[:, 2] - segments[:, 1])
        self.spans = [
            slice(int(end - (s[2] - s[1])), int(end)) for s, end in zip(segments, ends, strict=True)
        ]

    def _layer(self, name: str, i: int, rows: int, width: int) -> Tensor:
        return self.space.take(f"{name}{i}", rows, width)

    def _float(self, name: str, rows: int, columns: int) -> NDArray[np.float32]:
        return self.space.take(name, rows, columns).numpy()

    def _own(self, g: int) -> slice:
        """A segment's entries, counted from its expert's first."""
        expert, begin, end = (int(i) for i in self.segments[g])
        start = int(self.batch.entry_starts[expert])
        return slice(begin - start, end - start)

    def _inputs(self, g: int) -> Tensor:
        """A view of a segment's features [n, width]."""
        return self.batch.features[int(self.segments[g, 0])][:, self._own(g)].t()

    def densities(self, min_light: float, min_weight: float) -> None:
        """Evaluate densities and decide which rows are lit."""
        b = self.batch
        widths = (
            [w.shape[1] for w in self.weights[0].sigma] if self.weights else [GEOMETRY_WIDTH + 1]
        )
        depth = len(widths)
        self.sigma_layers = [
            self._layer("sigma", i, self.rows, width) for i, width in enumerate(widths)
        ]
        self.inputs = [self._inputs(g) for g in range(len(self.weights))]
        for g, span in enumerate(self.spans):
            x = self.inputs[g]
            for i, weight in enumerate(self.weights[g].sigma):
                x = torch.mm(x, weight, out=self.sigma_layers[i][span])
                if i + 1 < depth:
                    x.relu_()
        self.hidden = self.sigma_layers[-1].numpy()
        self.row_sigmas = self._float("row_sigmas", self.rows, 1)[:, 0]
        self.alphas = self._float("alphas", self.samples, 1)[:, 0]
        self.lit = self.space.take("lit", self.samples, 1, torch.bool).numpy()[:, 0]
        light.place_light(
            self.hidden, self.segments, b.entry_samples, b.entry_weights, *self.rays, b.ray_starts,
            b.deltas, np.float32(min_light), np.float32(min_weight), self.row_sigmas, b.sigmas,
            self.alphas, self.lit,
        )  # fmt: skip

    def colours(self) -> None:
        """Evaluate the lit rows' colours and blend them into samples."""
        b = self.batch
        self.lit_rows = self.space.take("lit_rows", self.rows, 1, torch.int32).numpy()[:, 0]
        self.lit_ends = np.empty(len(self.segments), np.int64)
        inputs = self.space.take("color_in", self.rows, _CONSTANT + 1)
        light.colour_inputs(
            self.hidden, self.segments, b.entry_samples, b.sample_rays, b.harmonics, self.lit,
            self.first, self.lit_rows, self.lit_ends, inputs.numpy(),
        )  # fmt: skip
        self.lit_count = int(self.lit_ends[-1]) if len(self.lit_ends) else 0
        starts = np.concatenate([[0], self.lit_ends])[:-1]
        self.lit_spans = [slice(int(a), int(z)) for a, z in zip(starts, self.lit_ends, strict=True)]
        x = inputs[: self.lit_count]
        widths = [w.shape[1] for w in self.weights[0].color] if self.weights else [3]
        self.color_layers = [x] + [
            self._layer("color", i, self.lit_count, width) for i, width in enumerate(widths)
        ]
        for g, span in enumerate(self.lit_spans):
            for i, weight in enumerate(self.weights[g].color):
                out = self.color_layers[i + 1][span]
                torch.mm(self.color_layers[i][span], weight, out=out)
                if i + 1 < len(widths):
                    out.relu_()
        self.row_rgbs = self.color_layers[-1].sigmoid_().numpy()
        self.rgbs = self._float("rgbs", self.samples, 3)
        light.blend_colours(
            self.segments, self.lit_ends, self.lit_rows, b.entry_samples, b.entry_weights,
            self.first, self.row_rgbs, self.rgbs,
        )  # fmt: skip

    def composite(
        self,
        rgb: NDArray[np.float32],
        opacity: NDArray[np.float32],
        depth: NDArray[np.float32],
    ) -> None:
        """Write the rays' colour, opacity and depth into the batch's arrays."""
        b = self.batch
        light.composite(
            *self.rays, b.ray_starts, b.ts, self.alphas, self.lit, self.rgbs, b.backgrounds, rgb,
            opacity, depth,
        )  # fmt: skip

    def loss(
        self,
        truth: NDArray[np.float32],
        linear: bool,
        scale: float,
        d_backgrounds: NDArray[np.float32],
    ) -> float:
        """Return the rays' squared error and keep its gradient to the rows."""
        b = self.batch
        d_sigmas = self._float("d_sigmas", self.samples, 1)[:, 0]
        d_rgbs = self._float("d_rgbs", self.samples, 3)
        error = light.loss_gradient(
            *self.rays, b.ray_starts, b.deltas, self.alphas, self.lit, self.rgbs, b.backgrounds,
            truth, linear, np.float32(scale), d_sigmas, d_rgbs, d_backgrounds,
        )  # fmt: skip
        self.d_colours = self.space.take("d_colours", self.lit_count, 3)
        self.d_hidden = self.space.take("d_hidden", self.rows, GEOMETRY_WIDTH + 1)
        light.field_gradient(
            self.segments, self.lit_ends, self.lit_rows, b.entry_samples, b.entry_weights,
            self.first, self.hidden, self.row_sigmas, self.row_rgbs, d_sigmas, d_rgbs,
            self.d_colours.numpy(), self.d_hidden.numpy(),
        )  # fmt: skip
        return float(error)

    def backward(self, grads: dict[int, Weights], d_features: dict[int, Tensor]) -> None:
        """Add the MLPs' gradients to `grads` and write the features' gradient."""
        d_geometry = self.space.take("d_geometry", self.lit_count, GEOMETRY_WIDTH + 1)
        for g, span in enumerate(self.lit_spans):
            own = grads.get(int(self.segments[g, 0]))
            grad = self.d_colours[span]
            for i in range(len(self.weights[g].color) - 1, -1, -1):
                inputs, weight = self.color_layers[i][span], self.weights[g].color[i]
                if own is not None:
                    own.color[i].addmm_(inputs.t(), grad)
                if i == 0:
                    weight = weight[: GEOMETRY_WIDTH + 1]
                grad = self._back(f"d_color{i}", grad, weight, inputs if i else None)
            d_geometry[span].copy_(grad)
        light.add_geometry(self.lit_rows, self.lit_count, d_geometry.numpy(), self.d_hidden.numpy())
        for g, span in enumerate(self.spans):
            expert = int(self.segments[g, 0])
            own = grads.get(expert)
            if own is None:
                continue
            grad = self.d_hidden[span]
            weights = self.weights[g].sigma
            for i in range(len(weights) - 1, 0, -1):
                inputs = self.sigma_layers[i - 1][span]
                own.sigma[i].addmm_(inputs.t(), grad)
                grad = self._back(f"d_sigma{i}", grad, weights[i], inputs)
            own.sigma[0].addmm_(self.inputs[g].t(), grad)
            out = d_features[expert][:, self._own(g)]
            torch.mm(weights[0], grad.t(), out=out)

    def _back(self, name: str, grad: Tensor, weight: Tensor, inputs: Tensor | None) -> Tensor:
        """The gradient to a layer's input, masked where its ReLU was off."""
        out = self.space.take(name, len(grad), len(weight))
        torch.mm(grad, weight.t(), out=out)
        if inputs is not None:
            torch.ops.aten.threshold_backward.grad_input(out, inputs, 0, grad_input=out)
        return out
