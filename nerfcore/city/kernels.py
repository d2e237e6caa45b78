"""Owns the two compiled entry points: exposing a photograph, and tracing rays without light."""

import numba
import numpy as np
from numpy.typing import NDArray

from nerfcore.city.patterns import JIT
from nerfcore.city.raycast import SKY, nearest
from nerfcore.city.scene import Scene
from nerfcore.city.shade import radiance, surface


@numba.njit(**JIT, cache=True)
def expose(
    scene: Scene, rays: NDArray[np.float64], turn: NDArray[np.float64],
    centre: NDArray[np.float64], spread: float, per_side: int, out: NDArray[np.float64],
) -> None:  # fmt: skip
    """Fill a photograph with linear light.

    Args:
        scene: the packed scene.
        rays: f64[H * per_side, W * per_side, 3], unit, camera axes.
        turn, centre: camera-to-city rotation f64[3, 3], and centre f64[3].
        spread: growth of a ray's footprint per metre.
        per_side: samples a side of a pixel.
        out: f64[H, W, 3], filled with the mean of each pixel's samples.
    """
    o = (centre[0], centre[1], centre[2])
    share = 1.0 / (per_side * per_side)
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            r, g, b = 0.0, 0.0, 0.0
            for sample in range(per_side * per_side):
                j = row * per_side + sample // per_side
                i = column * per_side + sample % per_side
                x, y, z = rays[j, i, 0], rays[j, i, 1], rays[j, i, 2]
                d = (
                    turn[0, 0] * x + turn[0, 1] * y + turn[0, 2] * z,
                    turn[1, 0] * x + turn[1, 1] * y + turn[1, 2] * z,
                    turn[2, 0] * x + turn[2, 1] * y + turn[2, 2] * z,
                )
                light = radiance(scene, o, d, spread)
                r, g, b = r + light[0], g + light[1], b + light[2]
            out[row, column, 0] = r * share
            out[row, column, 1] = g * share
            out[row, column, 2] = b * share


@numba.njit(**JIT, cache=True)
def cast(
    scene: Scene, origins: NDArray[np.float64], directions: NDArray[np.float64],
    width_m: float, depth: NDArray[np.float64], items: NDArray[np.int32],
    albedo: NDArray[np.float64],
) -> None:  # fmt: skip
    """Trace rays exactly, without light.

    Args:
        scene: the packed scene.
        origins, directions: f64[N, 3], city frame, unit directions.
        width_m: footprint at which the albedo is taken, m.
        depth: f64[N], filled with metres along the ray, `raycast.FAR` for the sky.
        items: i32[N], filled with what was met (see `raycast`).
        albedo: f64[N, 3], filled; the sky leaves it alone.
    """
    for ray in range(origins.shape[0]):
        o = (origins[ray, 0], origins[ray, 1], origins[ray, 2])
        d = (directions[ray, 0], directions[ray, 1], directions[ray, 2])
        t, item, face = nearest(scene, o, d)
        items[ray], depth[ray] = item, t
        if item != SKY:
            p = (o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2])
            colour, _, _ = surface(scene, p, item, face, width_m)
            albedo[ray, 0], albedo[ray, 1], albedo[ray, 2] = colour
