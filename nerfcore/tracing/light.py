"""Compiled kernels on one chunk of rays: from densities to light, and from the loss back.

alpha_s = 1 - exp(-sigma_s delta_s), T_s = prod_{r<s} (1 - alpha_r) is the light before sample s and
w_s = T_s alpha_s its weight: a ray gets sum w_s c_s, the opacity sum w_s and the depth sum w_s t_s
(Max 1995; Mildenhall et al. 2020, equation 3). delta is in metres, sigma per metre.

A chunk is rays `first_ray`..`last_ray`; its samples are consecutive. A *row* is an entry (sample,
expert) of the chunk, in segments of one expert each; a *lit* row is one whose sample gets a colour.
Kernels release the interpreter's lock and use no threads of their own.
"""

import numba
import numpy as np

from nerfcore.colour import GAMMA, LINEAR_KNEE, OFFSET, SLOPE
from nerfcore.compiled import FAST
from nerfcore.field.reference import MAX_LOG_SIGMA, SIGMA_SHIFT
from nerfcore.tracing.products import padded

GEOMETRY = 15
HARMONICS = 16
COLOUR_WIDTH = padded(3)


@numba.njit(**FAST)
def place_light(
    hidden, segments, entry_samples, entry_weights, first_ray, last_ray, ray_starts, deltas,
    min_light, min_weight, row_sigmas, sigmas, alphas, lit,
):  # fmt: skip
    """Densities of rows and samples, and which rows are lit.

    Args:
        hidden: f32[rows, 16], the density MLP's output.
        segments: i64[G, 3], (expert, first entry, last entry) of each segment.
        min_light, min_weight: a sample is lit where T >= min_light and w >= min_weight.
        row_sigmas, sigmas, alphas, lit: written; `sigmas` for all the batch's samples, `alphas`
            and `lit` counted from the chunk's first sample.
    """
    first = ray_starts[first_ray]
    for s in range(first, ray_starts[last_ray]):
        sigmas[s] = np.float32(0.0)
    row = 0
    for g in range(segments.shape[0]):
        for entry in range(segments[g, 1], segments[g, 2]):
            level = min(hidden[row, 0] + np.float32(SIGMA_SHIFT), np.float32(MAX_LOG_SIGMA))
            value = np.exp(level)
            row_sigmas[row] = value
            sigmas[entry_samples[entry]] += entry_weights[entry] * value
            row += 1
    for r in range(first_ray, last_ray):
        light = np.float32(1.0)
        for s in range(ray_starts[r], ray_starts[r + 1]):
            alpha = np.float32(1.0) - np.exp(-sigmas[s] * deltas[s])
            alphas[s - first] = alpha
            # asked so that what is not a number is lit, and reaches colours and loss
            lit[s - first] = not (light < min_light or light * alpha < min_weight)
            light *= np.float32(1.0) - alpha


@numba.njit(**FAST)
def colour_inputs(
    hidden, segments, entry_samples, sample_rays, harmonics, lit, first, lit_rows, lit_ends, out
):
    """Gather the colour MLP's inputs (1, geometry, harmonics) of the lit rows.

    Args:
        first: the chunk's first sample.
        lit_rows: i32[rows], written: the row of each lit row.
        lit_ends: i64[G], written: lit rows up to the end of each segment.
        out: f32[rows, 32], written.
    """
    count = 0
    row = 0
    for g in range(segments.shape[0]):
        for entry in range(segments[g, 1], segments[g, 2]):
            s = entry_samples[entry]
            if lit[s - first]:
                lit_rows[count] = row
                out[count, 0] = np.float32(1.0)
                for i in range(1, GEOMETRY + 1):
                    out[count, i] = hidden[row, i]
                ray = sample_rays[s]
                for i in range(HARMONICS):
                    out[count, GEOMETRY + 1 + i] = harmonics[ray, i]
                count += 1
            row += 1
        lit_ends[g] = count


@numba.njit(**FAST)
def blend_colours(segments, lit_ends, lit_rows, entry_samples, entry_weights, first, colours, rgbs):
    """Blend the lit rows' colours f32[lit, 3] into the chunk's samples f32[samples, 3]."""
    rgbs[:] = np.float32(0.0)
    begin_row = 0
    begin = 0
    for g in range(segments.shape[0]):
        for i in range(begin, lit_ends[g]):
            entry = segments[g, 1] + lit_rows[i] - begin_row
            s = entry_samples[entry] - first
            for c in range(3):
                rgbs[s, c] += entry_weights[entry] * colours[i, c]
        begin = lit_ends[g]
        begin_row += segments[g, 2] - segments[g, 1]


@numba.njit(**FAST)
def composite(
    first_ray, last_ray, ray_starts, ts, alphas, lit, rgbs, backgrounds, rgb, opacity, depth
):
    """Composite the chunk's rays over their backgrounds f32[R, 3]."""
    first = ray_starts[first_ray]
    for r in range(first_ray, last_ray):
        light, acc, far = np.float32(1.0), np.float32(0.0), np.float32(0.0)
        red, green, blue = np.float32(0.0), np.float32(0.0), np.float32(0.0)
        for s in range(ray_starts[r], ray_starts[r + 1]):
            i = s - first
            if lit[i]:
                weight = light * alphas[i]
                acc += weight
                far += weight * ts[s]
                red += weight * rgbs[i, 0]
                green += weight * rgbs[i, 1]
                blue += weight * rgbs[i, 2]
            light *= np.float32(1.0) - alphas[i]
        missing = np.float32(1.0) - acc
        rgb[r, 0] = red + missing * backgrounds[r, 0]
        rgb[r, 1] = green + missing * backgrounds[r, 1]
        rgb[r, 2] = blue + missing * backgrounds[r, 2]
        opacity[r] = acc
        depth[r] = far


@numba.njit(inline="always")
def _shown(value, linear):
    """The sRGB value of a composited one, and its derivative."""
    if not linear:
        return value, np.float32(1.0)
    if value <= np.float32(LINEAR_KNEE):
        slope = np.float32(SLOPE) if value > np.float32(0.0) else np.float32(0.0)
        return max(value, np.float32(0.0)) * np.float32(SLOPE), slope
    power = np.float32(1.0 + OFFSET) * value ** np.float32(1.0 / GAMMA)
    return power - np.float32(OFFSET), power / value * np.float32(1.0 / GAMMA)


@numba.njit(**FAST)
def loss_gradient(
    first_ray, last_ray, ray_starts, deltas, alphas, lit, rgbs, backgrounds, truth, linear, scale,
    d_sigmas, d_rgbs, d_backgrounds,
):  # fmt: skip
    """Squared error in sRGB of the chunk's rays, and its gradient times `scale`.

    Args:
        truth: f32[R, 3], sRGB.
        linear: whether compositing is in linear light.
        d_sigmas: f32[samples]; d_rgbs: f32[samples, 3]; both written, from the first sample.
        d_backgrounds: f32[R, 3], written.

    Returns:
        The sum of squared errors.
    """
    first = ray_starts[first_ray]
    error = 0.0
    d = np.zeros(3, np.float32)
    total = np.zeros(3, np.float32)
    for r in range(first_ray, last_ray):
        light, acc = np.float32(1.0), np.float32(0.0)
        total[:] = np.float32(0.0)
        for s in range(ray_starts[r], ray_starts[r + 1]):
            i = s - first
            if lit[i]:
                weight = light * alphas[i]
                acc += weight
                for c in range(3):
                    total[c] += weight * rgbs[i, c]
            light *= np.float32(1.0) - alphas[i]
        missing = np.float32(1.0) - acc
        d_opacity = np.float32(0.0)
        gathered = np.float32(0.0)
        for c in range(3):
            value, slope = _shown(total[c] + missing * backgrounds[r, c], linear)
            difference = value - truth[r, c]
            error += np.float64(difference) * np.float64(difference)
            d[c] = np.float32(2.0) * difference * slope * scale
            d_backgrounds[r, c] = missing * d[c]
            d_opacity -= d[c] * backgrounds[r, c]
            gathered += d[c] * total[c]
        left = gathered + d_opacity * acc
        light = np.float32(1.0)
        for s in range(ray_starts[r], ray_starts[r + 1]):
            i = s - first
            if not lit[i]:
                light *= np.float32(1.0) - alphas[i]
                d_sigmas[i] = np.float32(0.0)
                continue
            weight = light * alphas[i]
            value = d_opacity
            for c in range(3):
                value += d[c] * rgbs[i, c]
                d_rgbs[i, c] = weight * d[c]
            left -= weight * value
            light *= np.float32(1.0) - alphas[i]
            d_sigmas[i] = deltas[s] * (light * value - left)
    return error


@numba.njit(**FAST)
def field_gradient(
    segment, lit_rows, first_row, entry_samples, entry_weights, first, hidden, row_sigmas, colours,
    d_sigmas, d_rgbs, d_colours, d_levels,
):  # fmt: skip
    """From samples to a segment's lit rows: the gradient to the MLPs' outputs.

    Args:
        segment: (expert, first entry, last entry); first_row: its first row in the chunk.
        lit_rows: i32[lit]; first: the chunk's first sample.
        hidden: f32[rows * 16], the density MLP's output of the chunk.
        colours: f32[lit * wide], after the sigmoid, `wide` floats a row, three of them used.
        d_colours: f32[lit * wide], written, before the sigmoid.
        d_levels: f32[lit], written, of the log density.
    """
    wide = COLOUR_WIDTH
    for i in range(lit_rows.shape[0]):
        row = lit_rows[i]
        entry = segment[1] + row - first_row
        s = entry_samples[entry] - first
        weight = entry_weights[entry]
        for c in range(wide):
            d_colours[i * wide + c] = np.float32(0.0)
        for c in range(3):
            colour = colours[i * wide + c]
            slope = weight * colour * (np.float32(1.0) - colour)
            d_colours[i * wide + c] = d_rgbs[s, c] * slope
        d_levels[i] = np.float32(0.0)
        if hidden[row * (GEOMETRY + 1)] + np.float32(SIGMA_SHIFT) < np.float32(MAX_LOG_SIGMA):
            d_levels[i] = d_sigmas[s] * weight * row_sigmas[row]
