"""What the compiled passes over chunks of rays read, and each worker's buffers for them."""

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from nerfcore.compiled import FAST
from nerfcore.field.parameters import GEOMETRY_WIDTH
from nerfcore.tracing import light
from nerfcore.tracing.packed import PADDED_IN, PADDED_OUT

HIDDEN = GEOMETRY_WIDTH + 1
COLOUR_IN = HIDDEN + light.HARMONICS


class Batch(NamedTuple):
    """A batch of rays, marched and encoded; entries are grouped by used expert.

    Attributes:
        ray_starts: i64[R + 1]; sample_rays: i32[S]; ts, deltas: f32[S] (world units, metres).
        entry_samples: i64[E]; entry_weights: f32[E].
        features: f32[width * E], a line of E floats a feature.
        harmonics: f32[R, 16]; backgrounds: f32[R, 3].
        sigmas: f32[S], written by the chunks.
        bounds: i64[C + 1], first ray of each chunk.
        splits: i64[K, C + 1], first entry of each used expert in each chunk.
        layers, densities: of the `MlpLayout`.
        weights: f32[K, size], the used experts' matrices.
        min_light, min_weight: what is lit, see `light.place_light`.
    """

    ray_starts: NDArray[np.int64]
    sample_rays: NDArray[np.int32]
    ts: NDArray[np.float32]
    deltas: NDArray[np.float32]
    entry_samples: NDArray[np.int64]
    entry_weights: NDArray[np.float32]
    features: NDArray[np.float32]
    harmonics: NDArray[np.float32]
    backgrounds: NDArray[np.float32]
    sigmas: NDArray[np.float32]
    bounds: NDArray[np.int64]
    splits: NDArray[np.int64]
    layers: NDArray[np.int64]
    densities: int
    weights: NDArray[np.float32]
    min_light: np.float32
    min_weight: np.float32


class Targets(NamedTuple):
    """What a gradient pass aims at and fills.

    Attributes:
        truth: f32[R, 3], sRGB; linear: compositing in linear light; scale: of the gradient.
        wanted: b1[K], used experts that get a gradient.
        d_backgrounds: f32[R, 3], written.
        d_features: f32[width * E], as the features, written for wanted experts.
    """

    truth: NDArray[np.float32]
    linear: bool
    scale: np.float32
    wanted: NDArray[np.bool_]
    d_backgrounds: NDArray[np.float32]
    d_features: NDArray[np.float32]


class Space(NamedTuple):
    """One worker's buffers; a layer's activations [rows, padded out] begin at its `places` entry.

    Attributes:
        segments: i64[K, 3] of (used expert, first entry, last entry); lit_ends: i64[K].
        acts: f32, all layers' activations; places: i64[L].
        inputs: f32[rows * 32], the colour MLP's; row_sigmas: f32[rows]; lit_rows: i32[rows].
        alphas: f32[samples]; lit: b1[samples]; rgbs: f32[samples, 3].
    """

    segments: NDArray[np.int64]
    lit_ends: NDArray[np.int64]
    acts: NDArray[np.float32]
    places: NDArray[np.int64]
    inputs: NDArray[np.float32]
    row_sigmas: NDArray[np.float32]
    lit_rows: NDArray[np.int32]
    alphas: NDArray[np.float32]
    lit: NDArray[np.bool_]
    rgbs: NDArray[np.float32]


class BackSpace(NamedTuple):
    """One worker's buffers for the way back.

    Attributes:
        d_sigmas: f32[samples]; d_rgbs: f32[samples, 3]; d_levels: f32[rows].
        upper, lower: f32[rows * widest], gradients of a layer's output and input.
        d_hidden: f32[lit * 16], gradient to the geometry; d_output: f32[rows * 16], to the density
            MLP's output.
        grads: f32[K, size], added to.
    """

    d_sigmas: NDArray[np.float32]
    d_rgbs: NDArray[np.float32]
    d_levels: NDArray[np.float32]
    upper: NDArray[np.float32]
    lower: NDArray[np.float32]
    d_hidden: NDArray[np.float32]
    d_output: NDArray[np.float32]
    grads: NDArray[np.float32]


@numba.njit(**FAST)
def make_space(batch, first, last):
    """Buffers for the largest of chunks first .. last."""
    rows = samples = np.int64(1)
    for c in range(first, last):
        begin, end = batch.ray_starts[batch.bounds[c]], batch.ray_starts[batch.bounds[c + 1]]
        samples = max(samples, end - begin)
        total = np.int64(0)
        for k in range(batch.splits.shape[0]):
            total += batch.splits[k, c + 1] - batch.splits[k, c]
        rows = max(rows, total)
    layers, experts = batch.layers, batch.splits.shape[0]
    places = np.empty(layers.shape[0], np.int64)
    size = np.int64(0)
    for i in range(layers.shape[0]):
        places[i] = size
        size += rows * layers[i, PADDED_OUT]
    return Space(
        np.empty((experts, 3), np.int64), np.empty(experts, np.int64), np.empty(size, np.float32),
        places, np.empty(rows * COLOUR_IN, np.float32), np.empty(rows, np.float32),
        np.empty(rows, np.int32), np.empty(samples, np.float32), np.empty(samples, np.bool_),
        np.empty((samples, 3), np.float32),
    )  # fmt: skip


@numba.njit(**FAST)
def make_back_space(batch, space, grads):
    """Buffers for the way back of the chunks that `space` is for; `grads` as in `BackSpace`."""
    rows, samples = space.row_sigmas.shape[0], space.alphas.shape[0]
    widest = COLOUR_IN
    for i in range(batch.layers.shape[0]):
        widest = max(widest, batch.layers[i, PADDED_IN], batch.layers[i, PADDED_OUT])
    return BackSpace(
        np.empty(samples, np.float32), np.empty((samples, 3), np.float32),
        np.empty(rows, np.float32), np.empty(rows * widest, np.float32),
        np.empty(rows * widest, np.float32), np.empty(rows * HIDDEN, np.float32),
        np.empty(rows * HIDDEN, np.float32), grads,
    )  # fmt: skip
