"""Compiled passes over chunks of rays: densities, colours, light, and the gradient back.

A chunk's rows are its entries (sample, expert), one segment an expert. Everything of a chunk, both
ways, is done before the next one, so its activations never leave the worker's cache; no call takes
or needs the interpreter's lock. Only lit rows (see `light.place_light`) get a colour and a
gradient. Matrices lie as `nerfcore.tracing.packed` says.
"""

import numba
import numpy as np

from nerfcore.compiled import FAST
from nerfcore.field.reference import MAX_LOG_SIGMA, SIGMA_SHIFT
from nerfcore.tracing import light
from nerfcore.tracing.chunk_memory import COLOUR_IN, HIDDEN, make_back_space, make_space
from nerfcore.tracing.packed import BACKWARD, FORWARD, IN, OUT, PADDED_IN, PADDED_OUT
from nerfcore.tracing.products import ADD, KEEP, MASK, RELU, product

COLOUR_OUT = light.COLOUR_WIDTH
TURNED_ROWS = 16  # two lines of cache a feature
MOST_SHADE = np.float32(60.0)  # a sigmoid's argument, so that its exponential stays finite


@numba.njit(**FAST)
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


@numba.njit(**FAST)
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


@numba.njit(**FAST)
def _matrix(flat, begin, rows, columns):
    return flat[begin : begin + rows * columns].reshape((rows, columns))


@numba.njit(**FAST)
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


@numba.njit(**FAST)
def render_chunks(batch, first, last, rgb, opacity, depth):
    """Composite the rays of chunks first .. last into f32[R, 3], f32[R] and f32[R]."""
    space = make_space(batch, first, last)
    for chunk in range(first, last):
        _shine(batch, chunk, space)
        light.composite(
            batch.bounds[chunk], batch.bounds[chunk + 1], batch.ray_starts, batch.ts, space.alphas,
            space.lit, space.rgbs, batch.backgrounds, rgb, opacity, depth,
        )  # fmt: skip


@numba.njit(**FAST)
def _layers_back(batch, expert, i, rows, x, x_at, x_row, x_column, back, grad, grad_at):
    """Add layer i's gradient, given its inputs and its output's gradient [rows, padded out]."""
    wide = batch.layers[i, PADDED_OUT]
    grads = back.grads[expert]
    at = batch.layers[i, FORWARD]
    product(
        ADD, x, x_at, x_column, x_row, grad, grad_at, wide, grads, at, wide, batch.layers[i, IN],
        rows, wide, grads,
    )  # fmt: skip


@numba.njit(**FAST)
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


@numba.njit(**FAST)
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


@numba.njit(**FAST)
def _turn(rows, width, source, entries, entry, out):
    """Write the transpose of f32[rows, padded width] to columns of f32[width, entries]."""
    tall = source.shape[0] // rows
    for block in range(0, rows, TURNED_ROWS):
        last = min(rows, block + TURNED_ROWS)
        for f in range(width):
            line = out[f * entries + entry + block : f * entries + entry + last]
            for j in range(line.shape[0]):
                line[j] = source[(block + j) * tall + f]


@numba.njit(**FAST)
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


@numba.njit(**FAST)
def _segment_back(batch, segment, row, begin, end, space, back, d_features):
    """The gradient of one segment, its first row and its lit rows given."""
    if end > begin:
        _colours_back(batch, segment[0], begin, end - begin, space, back)
    _spread(segment, row, begin, end, space, back)
    _densities_back(batch, segment, row, space, back, d_features)


@numba.njit(**FAST)
def descend_chunks(batch, targets, first, last, grads):
    """Add the gradient of chunks first .. last to `grads` f32[K, size].

    Returns:
        The sum of squared errors, and how many samples were lit.
    """
    space = make_space(batch, first, last)
    back = make_back_space(batch, space, grads)
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


@numba.njit(**FAST)
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


@numba.njit(**FAST)
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
