"""Compiled passes over chunks of rays: densities, colours, light, and the gradient back.

A chunk's rows are its entries (sample, expert), one segment an expert. Everything of a chunk, both
ways, is done before the next one, so its activations never leave the worker's cache; no call takes
or needs the interpreter's lock. Only lit rows (see `light.place_light`) get a colour and a
gradient. Matrices lie as `nerfcore.tracing.packed` says.
"""

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from nerfcore.field.parameters import GEOMETRY_WIDTH
from nerfcore.field.reference import MAX_LOG_SIGMA, SIGMA_SHIFT
from nerfcore.tracing import light
from nerfcore.tracing.packed import BACKWARD, FORWARD, IN, OUT, PADDED_IN, PADDED_OUT
from nerfcore.tracing.products import ADD, KEEP, MASK, RELU, product

HIDDEN = GEOMETRY_WIDTH + 1
COLOUR_IN = HIDDEN + light.HARMONICS
COLOUR_OUT = light.COLOUR_WIDTH
TURNED_ROWS = 16  # two lines of cache a feature
MOST_SHADE = np.float32(60.0)  # a sigmoid's argument, so that its exponential stays finite

_options = {"cache": True, "nogil": True, "fastmath": True, "error_model": "numpy"}


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


@numba.njit(**_options)
def _space(batch, first, last):
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


@numba.njit(**_options)
def _back_space(batch, space, grads):
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


@numba.njit(**_options)
def _segments(batch, chunk, space):
    """Write the chunk's segments; return how many."""
    count = 0
    for k in range(batch.splits.shape[0]):
        begin, end = batch.splits[k, chunk], batch.splits[k, chunk + 1]
        if end > begin:
            space.segments[count, 0] = k
            space.segments[count, 1] = begin
            space.segments[count, 2] = end
            count += 1
    return count


@numba.njit(**_options)
def _layers_forward(batch, expert, begin, end, x, x_at, x_row, x_column, acts, places, first, rows):
    """Run layers begin .. end on `rows` rows whose activations begin at row `first`."""
    weights = batch.weights[expert]
    for i in range(begin, end):
        wide = batch.layers[i, PADDED_OUT]
        out = places[i] + first * wide
        product(
            KEEP if i + 1 == end else RELU, x, x_at, x_row, x_column, weights,
            batch.layers[i, FORWARD], wide, acts, out, wide, rows, batch.layers[i, IN], wide, acts,
        )  # fmt: skip
        x, x_at, x_row, x_column = acts, out, wide, 1


@numba.njit(**_options)
def _matrix(flat, begin, rows, columns):
    return flat[begin : begin + rows * columns].reshape((rows, columns))


@numba.njit(**_options)
def _shine(batch, chunk, space):
    """Densities, light, and the colours of lit rows and samples; return the segments."""
    segments = space.segments[: _segments(batch, chunk, space)]
    entries = batch.entry_samples.shape[0]
    first_ray, last_ray = batch.bounds[chunk], batch.bounds[chunk + 1]
    row = 0
    for g in range(segments.shape[0]):
        rows = segments[g, 2] - segments[g, 1]
        _layers_forward(
            batch, segments[g, 0], 0, batch.densities, batch.features, segments[g, 1], 1, entries,
            space.acts, space.places, row, rows,
        )  # fmt: skip
        row += rows
    hidden = _matrix(space.acts, space.places[batch.densities - 1], row, HIDDEN)
    light.place_light(
        hidden, segments, batch.entry_samples, batch.entry_weights, first_ray, last_ray,
        batch.ray_starts, batch.deltas, batch.min_light, batch.min_weight, space.row_sigmas,
        batch.sigmas, space.alphas, space.lit,
    )  # fmt: skip
    first = batch.ray_starts[first_ray]
    light.colour_inputs(
        hidden, segments, batch.entry_samples, batch.sample_rays, batch.harmonics, space.lit, first,
        space.lit_rows, space.lit_ends, _matrix(space.inputs, 0, row, COLOUR_IN),
    )  # fmt: skip
    begin = 0
    for g in range(segments.shape[0]):
        end = space.lit_ends[g]
        _layers_forward(
            batch, segments[g, 0], batch.densities, batch.layers.shape[0], space.inputs,
            begin * COLOUR_IN, COLOUR_IN, 1, space.acts, space.places, begin, end - begin,
        )  # fmt: skip
        begin = end
    colours = _matrix(space.acts, space.places[-1], begin, COLOUR_OUT)
    for i in range(begin):
        for c in range(3):
            shade = min(max(-colours[i, c], -MOST_SHADE), MOST_SHADE)
            colours[i, c] = np.float32(1.0) / (np.float32(1.0) + np.exp(shade))
    light.blend_colours(
        segments, space.lit_ends, space.lit_rows, batch.entry_samples, batch.entry_weights, first,
        colours, space.rgbs,
    )  # fmt: skip
    return segments


@numba.njit(**_options)
def render_chunks(batch, first, last, rgb, opacity, depth):
    """Composite the rays of chunks first .. last into f32[R, 3], f32[R] and f32[R]."""
    space = _space(batch, first, last)
    for chunk in range(first, last):
        _shine(batch, chunk, space)
        light.composite(
            batch.bounds[chunk], batch.bounds[chunk + 1], batch.ray_starts, batch.ts, space.alphas,
            space.lit, space.rgbs, batch.backgrounds, rgb, opacity, depth,
        )  # fmt: skip


@numba.njit(**_options)
def _layers_back(batch, expert, i, rows, x, x_at, x_row, x_column, back, grad, grad_at):
    """Add layer i's gradient, given its inputs and its output's gradient [rows, padded out]."""
    wide = batch.layers[i, PADDED_OUT]
    grads = back.grads[expert]
    at = batch.layers[i, FORWARD]
    product(
        ADD, x, x_at, x_column, x_row, grad, grad_at, wide, grads, at, wide, batch.layers[i, IN],
        rows, wide, grads,
    )  # fmt: skip


@numba.njit(**_options)
def _colours_back(batch, expert, begin, rows, space, back):
    """From the colours' gradient in `upper` to the geometry's in `d_hidden`, for lit rows."""
    upper, lower = back.upper, back.lower
    for i in range(batch.layers.shape[0] - 1, batch.densities - 1, -1):
        tall, wide = batch.layers[i, PADDED_IN], batch.layers[i, PADDED_OUT]
        first = i == batch.densities
        x, x_at, x_row = space.inputs, begin * COLOUR_IN, COLOUR_IN
        if not first:
            x, x_row = space.acts, tall
            x_at = space.places[i - 1] + begin * tall
        _layers_back(batch, expert, i, rows, x, x_at, x_row, 1, back, upper, 0)
        if first:
            product(
                KEEP, upper, 0, wide, 1, batch.weights[expert], batch.layers[i, BACKWARD], tall,
                back.d_hidden, 0, HIDDEN, rows, batch.layers[i, OUT], HIDDEN, back.d_hidden,
            )  # fmt: skip
            return
        product(
            MASK, upper, 0, wide, 1, batch.weights[expert], batch.layers[i, BACKWARD], tall, lower,
            0, tall, rows, batch.layers[i, OUT], tall, x[x_at:],
        )  # fmt: skip
        upper, lower = lower, upper


@numba.njit(**_options)
def _spread(segment, row, begin, end, space, back):
    """The gradient to the density MLP's output of all the segment's rows, from its lit ones'."""
    out, lit = back.d_output, begin
    for j in range(segment[2] - segment[1]):
        at, own = j * HIDDEN, (lit - begin) * HIDDEN
        if lit < end and space.lit_rows[lit] == row + j:
            for i in range(1, HIDDEN):
                out[at + i] = back.d_hidden[own + i]
            out[at] = back.d_levels[lit]
            lit += 1
        else:
            for i in range(HIDDEN):
                out[at + i] = np.float32(0.0)


@numba.njit(**_options)
def _turn(rows, width, source, entries, entry, out):
    """Write the transpose of f32[rows, padded width] to columns of f32[width, entries]."""
    tall = source.shape[0] // rows
    for block in range(0, rows, TURNED_ROWS):
        last = min(rows, block + TURNED_ROWS)
        for f in range(width):
            line = out[f * entries + entry + block : f * entries + entry + last]
            for j in range(line.shape[0]):
                line[j] = source[(block + j) * tall + f]


@numba.njit(**_options)
def _densities_back(batch, segment, row, space, back, d_features):
    """From the density MLP's output gradient in `d_output` to the features, for all rows.

    Args:
        segment: (used expert, first entry, last entry); row: the segment's first row.
    """
    expert, entry = segment[0], segment[1]
    entries, rows = batch.entry_samples.shape[0], segment[2] - segment[1]
    upper, lower = back.d_output, back.lower
    for i in range(batch.densities - 1, -1, -1):
        tall, wide = batch.layers[i, PADDED_IN], batch.layers[i, PADDED_OUT]
        weights, backward = batch.weights[expert], batch.layers[i, BACKWARD]
        outputs = batch.layers[i, OUT]
        if i == 0:
            _layers_back(batch, expert, i, rows, batch.features, entry, 1, entries, back, upper, 0)
            product(
                KEEP, upper, 0, wide, 1, weights, backward, tall, lower, 0, tall, rows, outputs,
                tall, lower,
            )  # fmt: skip
            _turn(rows, batch.layers[0, IN], lower[: rows * tall], entries, entry, d_features)
            return
        acts = space.acts[space.places[i - 1] + row * tall :]
        _layers_back(batch, expert, i, rows, acts, 0, tall, 1, back, upper, 0)
        product(
            MASK, upper, 0, wide, 1, weights, backward, tall, lower, 0, tall, rows, outputs, tall,
            acts,
        )  # fmt: skip
        upper, lower = lower, (back.upper if i == batch.densities - 1 else upper)


@numba.njit(**_options)
def _segment_back(batch, segment, row, begin, end, space, back, d_features):
    """The gradient of one segment, its first row and its lit rows given."""
    if end > begin:
        _colours_back(batch, segment[0], begin, end - begin, space, back)
    _spread(segment, row, begin, end, space, back)
    _densities_back(batch, segment, row, space, back, d_features)


@numba.njit(**_options)
def descend_chunks(batch, targets, first, last, grads):
    """Add the gradient of chunks first .. last to `grads` f32[K, size].

    Returns:
        The sum of squared errors, and how many samples were lit.
    """
    space = _space(batch, first, last)
    back = _back_space(batch, space, grads)
    error = 0.0
    lit = 0
    for chunk in range(first, last):
        segments = _shine(batch, chunk, space)
        first_ray, last_ray = batch.bounds[chunk], batch.bounds[chunk + 1]
        error += light.loss_gradient(
            first_ray, last_ray, batch.ray_starts, batch.deltas, space.alphas, space.lit,
            space.rgbs, batch.backgrounds, targets.truth, targets.linear, targets.scale,
            back.d_sigmas, back.d_rgbs, targets.d_backgrounds,
        )  # fmt: skip
        begin_sample = batch.ray_starts[first_ray]
        for s in range(batch.ray_starts[last_ray] - begin_sample):
            lit += space.lit[s]
        _rows_back(batch, targets, segments, begin_sample, space, back)
    return error, lit


@numba.njit(**_options)
def _rows_back(batch, targets, segments, first, space, back):
    """From samples' gradients to the matrices' and the features', segment by segment."""
    hidden_at, colours_at = space.places[batch.densities - 1], space.places[-1]
    row = begin = 0
    for g in range(segments.shape[0]):
        rows, end = segments[g, 2] - segments[g, 1], space.lit_ends[g]
        if targets.wanted[segments[g, 0]]:
            light.field_gradient(
                segments[g], space.lit_rows[begin:end], row, batch.entry_samples,
                batch.entry_weights, first, space.acts[hidden_at:], space.row_sigmas,
                space.acts[colours_at + begin * COLOUR_OUT :], back.d_sigmas, back.d_rgbs,
                back.upper, back.d_levels[begin:end],
            )  # fmt: skip
            _segment_back(batch, segments[g], row, begin, end, space, back, targets.d_features)
        begin = end
        row += rows


@numba.njit(**_options)
def densities(features, points, layers, count, weights, first, last, out):
    """One expert's densities of points first .. last.

    Args:
        features: f32[width * points], a line a feature; weights: f32[1, size].
        count: layers of the density MLP.
        out: f32[points], written for first .. last.
    """
    rows = last - first
    widest = 0
    for i in range(count):
        widest = max(widest, layers[i, PADDED_OUT])
    x, x_at, x_row, x_column = features, first, 1, points
    for i in range(count):
        wide = layers[i, PADDED_OUT]
        acts = np.empty(rows * wide, np.float32)
        product(
            KEEP if i + 1 == count else RELU, x, x_at, x_row, x_column, weights[0],
            layers[i, FORWARD], wide, acts, 0, wide, rows, layers[i, IN], wide, acts,
        )  # fmt: skip
        x, x_at, x_row, x_column = acts, 0, wide, 1
    for j in range(rows):
        level = min(x[j * x_row] + np.float32(SIGMA_SHIFT), np.float32(MAX_LOG_SIGMA))
        out[first + j] = np.exp(level)
