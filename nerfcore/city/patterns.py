"""Owns the band-limited building blocks of the textures: hashes, noise, pulse trains, pyramids.

Every pattern takes the width of the ray's footprint (m) and averages over it, so that detail finer
than a pixel fades into its mean instead of aliasing.
"""

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from nerfcore.compiled import FAST

# Without numba's runtime: these functions allocate nothing, and counting references to the scene's
# arrays at every call would take four fifths of the time.
JIT: dict[str, Any] = {k: v for k, v in FAST.items() if k != "cache"} | {"_nrt": False}


@numba.njit(**JIT)
def chance(i: int, j: int, k: int) -> float:
    """Return a number in [0, 1) that three integers decide."""
    h = (i * 374761393 + j * 668265263 + k * 2147483647 + 1442695041) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 2246822519) & 0xFFFFFFFF
    return ((h ^ (h >> 15)) & 0xFFFFFF) / 16777216.0


@numba.njit(**JIT)
def noise2(x: float, y: float, seed: int) -> float:
    """Return smooth noise in [-1, 1] of wavelength 2 in x and y."""
    fx, fy = math.floor(x), math.floor(y)
    i, j = int(fx), int(fy)
    u, v = x - fx, y - fy
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    low = chance(i, j, seed) * (1 - u) + chance(i + 1, j, seed) * u
    high = chance(i, j + 1, seed) * (1 - u) + chance(i + 1, j + 1, seed) * u
    return 2 * (low * (1 - v) + high * v) - 1


@numba.njit(**JIT)
def noise3(x: float, y: float, z: float, seed: int) -> float:
    """Return smooth noise in [-1, 1] of wavelength 2 in x, y and z."""
    fz = math.floor(z)
    w = z - fz
    w = w * w * (3 - 2 * w)
    k = seed + 7919 * int(fz)
    return noise2(x, y, k) * (1 - w) + noise2(x, y, k + 7919) * w


@numba.njit(**JIT)
def fade(wavelength_m: float, width_m: float) -> float:
    """Return how much of a pattern of this wavelength survives the footprint, 0..1."""
    return min(1.0, max(0.0, 1.6 - 2.2 * width_m / wavelength_m))


@numba.njit(**JIT)
def _ramp(s: float, lo: float, hi: float) -> float:
    whole = math.floor(s)
    return whole * (hi - lo) + min(max(s - whole - lo, 0.0), hi - lo)


@numba.njit(**JIT)
def pulse(x: float, period: float, lo: float, hi: float, width: float) -> float:
    """Return the share of [x - width / 2, x + width / 2] that lies on a pulse.

    Args:
        x, period, width: m; the footprint is taken as at least a millimetre wide.
        lo, hi: the pulse's edges as fractions of the period.
    """
    span = max(width, 1e-3) / period
    middle = x / period
    return (_ramp(middle + span / 2, lo, hi) - _ramp(middle - span / 2, lo, hi)) / span


@numba.njit(**JIT)
def band(x: float, lo: float, hi: float, width: float) -> float:
    """Return the share of the footprint that lies within lo..hi."""
    span = max(width, 1e-3)
    return max(0.0, min(x + span / 2, hi) - max(x - span / 2, lo)) / span


@numba.njit(**JIT)
def mix(
    a: tuple[float, float, float], b: tuple[float, float, float], t: float
) -> tuple[float, float, float]:
    """Return a blended towards b by t."""
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t


@numba.njit(**JIT)
def scaled(a: tuple[float, float, float], k: float) -> tuple[float, float, float]:
    """Return a colour times a number."""
    return a[0] * k, a[1] * k, a[2] * k


@numba.njit(**JIT)
def _texel_mix(
    data: NDArray[np.float32], offset: int, size: int, row: float, column: float
) -> tuple[float, float, float]:
    row, column = min(max(row, 0.0), size - 1.001), min(max(column, 0.0), size - 1.001)
    r, c = int(row), int(column)
    v, u = row - r, column - c
    a = offset + 3 * (r * size + c)
    b = a + 3 * size
    w00, w01, w10, w11 = (1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v
    return (
        w00 * data[a] + w01 * data[a + 3] + w10 * data[b] + w11 * data[b + 3],
        w00 * data[a + 1] + w01 * data[a + 4] + w10 * data[b + 1] + w11 * data[b + 4],
        w00 * data[a + 2] + w01 * data[a + 5] + w10 * data[b + 2] + w11 * data[b + 5],
    )


@numba.njit(**JIT)
def sample_pyramid(
    data: NDArray[np.float32], offsets: NDArray[np.int64], sizes: NDArray[np.int64],
    half: float, x: float, y: float, width: float,
) -> tuple[float, float, float]:  # fmt: skip
    """Return the raster's colour at a point, averaged over the footprint (trilinear).

    Args:
        data: all levels, flattened rows of RGB; offsets, sizes: where each level starts, its side.
        half: half the raster's side, m.
        x, y: the point; width: the footprint, m.
    """
    texel = 2 * half / sizes[0]
    level = min(max(math.log2(max(width / texel, 1e-6)) + 0.25, 0.0), sizes.shape[0] - 1.0)
    fine = min(int(level), sizes.shape[0] - 1)
    t = level - fine
    step = 2 * half / sizes[fine]
    colour = _texel_mix(
        data, offsets[fine], sizes[fine], (y + half) / step - 0.5, (x + half) / step - 0.5
    )
    if t < 1e-3 or fine + 1 >= sizes.shape[0]:
        return colour
    step = 2 * half / sizes[fine + 1]
    coarse = _texel_mix(
        data, offsets[fine + 1], sizes[fine + 1], (y + half) / step - 0.5, (x + half) / step - 0.5
    )
    return mix(colour, coarse, t)
