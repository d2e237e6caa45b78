"""Volume rendering of packed samples: compositing, its gradient, and visibility.

With alpha_i = 1 - exp(-sigma_i delta_i) and T_i = prod_{j<i} (1 - alpha_j), a ray gets
sum_i T_i alpha_i c_i, the opacity sum_i T_i alpha_i and the depth sum_i T_i alpha_i t_i
(Max 1995; Mildenhall et al. 2020, equation 3). delta is in metres, sigma per metre. Compositing
stops where T falls below `min_transmittance`; samples behind have zero weight and gradient.
"""

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

_CHUNK = 64


@dataclass(frozen=True)
class Composited:
    """Composited rays: rgb f32[R, 3], opacity f32[R], depth f32[R] (weighted sum of t)."""

    rgb: NDArray[np.float32]
    opacity: NDArray[np.float32]
    depth: NDArray[np.float32]


@numba.njit(parallel=True, cache=True, fastmath=True, error_model="numpy")
def _composite(starts, sigmas, rgbs, deltas, ts, floor, rgb, opacity, depth):  # type: ignore[no-untyped-def]
    rays = starts.shape[0] - 1
    for part in numba.prange((rays + _CHUNK - 1) // _CHUNK):
        for r in range(part * _CHUNK, min(rays, (part + 1) * _CHUNK)):
            light = np.float32(1.0)
            red = green = blue = acc = far = np.float32(0.0)
            for s in range(starts[r], starts[r + 1]):
                if light < floor:
                    break
                alpha = np.float32(1.0) - np.exp(-sigmas[s] * deltas[s])
                weight = light * alpha
                red += weight * rgbs[s, 0]
                green += weight * rgbs[s, 1]
                blue += weight * rgbs[s, 2]
                acc += weight
                far += weight * ts[s]
                light *= np.float32(1.0) - alpha
            rgb[r, 0], rgb[r, 1], rgb[r, 2] = red, green, blue
            opacity[r] = acc
            depth[r] = far


def composite(
    starts: NDArray[np.int64],
    sigmas: NDArray[np.float32],
    rgbs: NDArray[np.float32],
    deltas: NDArray[np.float32],
    ts: NDArray[np.float32],
    min_transmittance: float = 0.0,
) -> Composited:
    """Composite packed samples front to back.

    Args:
        starts: i64[R + 1], first sample of each ray.
        sigmas: f32[S] per metre; rgbs: f32[S, 3]; deltas: f32[S] metres; ts: f32[S].
        min_transmittance: stop once less light than this remains.
    """
    rays = len(starts) - 1
    out = Composited(
        np.empty((rays, 3), np.float32), np.empty(rays, np.float32), np.empty(rays, np.float32)
    )
    floor = np.float32(min_transmittance)
    _composite(starts, sigmas, rgbs, deltas, ts, floor, out.rgb, out.opacity, out.depth)
    return out


@numba.njit(parallel=True, cache=True, fastmath=True, error_model="numpy")
def _composite_grad(  # type: ignore[no-untyped-def]
    starts, sigmas, rgbs, deltas, ts, floor, g_rgb, g_opacity, g_depth, d_sigmas, d_rgbs
):
    rays = starts.shape[0] - 1
    for part in numba.prange((rays + _CHUNK - 1) // _CHUNK):
        for r in range(part * _CHUNK, min(rays, (part + 1) * _CHUNK)):
            light = np.float32(1.0)
            total = np.float32(0.0)
            end = starts[r + 1]
            for s in range(starts[r], starts[r + 1]):
                if light < floor:
                    end = s
                    break
                alpha = np.float32(1.0) - np.exp(-sigmas[s] * deltas[s])
                value = g_opacity[r] + g_depth[r] * ts[s]
                for c in range(3):
                    value += g_rgb[r, c] * rgbs[s, c]
                    d_rgbs[s, c] = light * alpha * g_rgb[r, c]
                total += light * alpha * value
                light *= np.float32(1.0) - alpha
            light = np.float32(1.0)
            seen = np.float32(0.0)
            for s in range(starts[r], end):
                alpha = np.float32(1.0) - np.exp(-sigmas[s] * deltas[s])
                value = g_opacity[r] + g_depth[r] * ts[s]
                for c in range(3):
                    value += g_rgb[r, c] * rgbs[s, c]
                seen += light * alpha * value
                light *= np.float32(1.0) - alpha
                d_sigmas[s] = deltas[s] * (light * value - (total - seen))
            for s in range(end, starts[r + 1]):
                d_sigmas[s] = np.float32(0.0)
                for c in range(3):
                    d_rgbs[s, c] = np.float32(0.0)


def composite_gradient(
    starts: NDArray[np.int64],
    sigmas: NDArray[np.float32],
    rgbs: NDArray[np.float32],
    deltas: NDArray[np.float32],
    ts: NDArray[np.float32],
    grad: Composited,
    min_transmittance: float = 0.0,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Gradient of a loss to sigmas f32[S] and rgbs f32[S, 3].

    Args:
        grad: the loss's gradient to each composited value.
        Others as in `composite`.
    """
    d_sigmas, d_rgbs = np.empty_like(sigmas), np.empty_like(rgbs)
    floor = np.float32(min_transmittance)
    _composite_grad(
        starts, sigmas, rgbs, deltas, ts, floor,
        grad.rgb, grad.opacity, grad.depth, d_sigmas, d_rgbs,
    )  # fmt: skip
    return d_sigmas, d_rgbs


@numba.njit(parallel=True, cache=True, fastmath=True, error_model="numpy")
def _visible(starts, sigmas, deltas, min_light, min_weight, keep):  # type: ignore[no-untyped-def]
    rays = starts.shape[0] - 1
    for part in numba.prange((rays + _CHUNK - 1) // _CHUNK):
        for r in range(part * _CHUNK, min(rays, (part + 1) * _CHUNK)):
            light = np.float32(1.0)
            for s in range(starts[r], starts[r + 1]):
                alpha = np.float32(1.0) - np.exp(-sigmas[s] * deltas[s])
                keep[s] = light >= min_light and light * alpha >= min_weight
                light *= np.float32(1.0) - alpha


def visible(
    starts: NDArray[np.int64],
    sigmas: NDArray[np.float32],
    deltas: NDArray[np.float32],
    min_transmittance: float,
    min_weight: float = 0.0,
) -> NDArray[np.bool_]:
    """Return which samples still receive light T >= min_transmittance and weigh >= min_weight."""
    keep = np.empty(len(sigmas), np.bool_)
    _visible(starts, sigmas, deltas, np.float32(min_transmittance), np.float32(min_weight), keep)
    return keep
