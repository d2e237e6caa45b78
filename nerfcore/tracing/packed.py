"""Owns how experts' MLPs lie in memory for the compiled chunks: padded, and also transposed.

An expert's matrices W [in, out] follow one another in one line of floats, each as [in, padded out]
and then as its transpose [out, padded in], zeros in the padding. Gradients lie in the places of the
[in, padded out] forms. The colour MLP's input is (1, geometry, harmonics) here, where parameters
have (geometry, harmonics, 1): so the density MLP's output is copied as it lies.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from nerfcore.compiled import EXACT
from nerfcore.encoding.lanes import floats_at
from nerfcore.field.parameters import Architecture, Parameters
from nerfcore.tracing.products import padded

IN, OUT, PADDED_IN, PADDED_OUT, FORWARD, BACKWARD = range(6)


@dataclass(frozen=True)
class MlpLayout:
    """Where the matrices of one architecture lie.

    Attributes:
        names: of the matrices, density MLP first.
        layers: i64[L, 6] of in, out, padded in, padded out, first float of W, first float of W^T.
        densities: layers of the density MLP.
        size: floats an expert.
    """

    names: tuple[str, ...]
    layers: NDArray[np.int64]
    densities: int
    size: int

    @staticmethod
    def of(architecture: Architecture) -> "MlpLayout":
        shapes = {n: s for n, s in architecture.shapes().items() if n != "table"}
        layers, at = [], 0
        for rows, columns in shapes.values():
            wide, tall = padded(columns), padded(rows)
            layers.append((rows, columns, tall, wide, at, at + rows * wide))
            at += rows * wide + columns * tall
        densities = sum(name.startswith("sigma") for name in shapes)
        return MlpLayout(tuple(shapes), np.array(layers, np.int64), densities, at)

    def addresses(self, experts: Sequence[Parameters]) -> NDArray[np.int64]:
        """Where some experts' matrices lie, i64[K, L].

        Raises:
            TypeError: a matrix is not contiguous float32 memory of the CPU.
        """
        values = [parameters[name] for parameters in experts for name in self.names]
        for value in values:
            if value.dtype != torch.float32 or value.is_cuda or not value.is_contiguous():
                raise TypeError("the CPU's tracer takes contiguous float32 matrices")
        found = [value.data_ptr() for value in values]
        return np.array(found, np.int64).reshape(-1, len(self.names))

    def pack(self, experts: Sequence[Parameters]) -> NDArray[np.float32]:
        """Copy some experts' matrices, f32[K, size]."""
        packed = np.zeros((len(experts), self.size), np.float32)
        _pack(self.addresses(experts), self.layers, self.densities, packed)
        return packed

    def add(self, grads: NDArray[np.float32], buffers: Sequence[Parameters]) -> None:
        """Add the gradients f32[workers, K, size] of all workers to the experts' buffers."""
        _add(grads, self.layers, self.densities, self.addresses(buffers))


@numba.njit(parallel=True, **EXACT)
def _pack(addresses, layers, densities, packed):
    for k in numba.prange(addresses.shape[0]):
        for i in range(layers.shape[0]):
            rows, columns, tall, wide, forward, backward = layers[i]
            matrix = floats_at(addresses[k, i], rows * columns)
            for r in range(rows):
                own = (r + rows - 1) % rows if i == densities else r
                for c in range(columns):
                    value = matrix[own * columns + c]
                    packed[k, forward + r * wide + c] = value
                    packed[k, backward + c * tall + r] = value


@numba.njit(parallel=True, **EXACT)
def _add(grads, layers, densities, addresses):
    for k in numba.prange(addresses.shape[0]):
        for i in range(layers.shape[0]):
            rows, columns, _, wide, forward, _ = layers[i]
            matrix = floats_at(addresses[k, i], rows * columns)
            for r in range(rows):
                own = (r + rows - 1) % rows if i == densities else r
                for worker in range(grads.shape[0]):
                    for c in range(columns):
                        matrix[own * columns + c] += grads[worker, k, forward + r * wide + c]
