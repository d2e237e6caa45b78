"""Owns the light: albedo and normal at a hit, sun with cast shadows, sky light, the sky itself."""

import math

import numba

from nerfcore.city.patterns import JIT, chance, fade, mix, noise2, sample_pyramid, scaled
from nerfcore.city.raycast import (
    BOTTOM,
    GROUND,
    MINUS_X,
    PLUS_X,
    ROUND,
    SKY,
    TOP,
    WATER,
    Vector,
    blocked,
    nearest,
    to_local,
)
from nerfcore.city.scene import SKY_MAP_TEXEL_M, Scene
from nerfcore.city.solids import Skin
from nerfcore.city.surfaces import Colour, skin_albedo

FOLIAGE, SMOKE, TILES = int(Skin.FOLIAGE), int(Skin.SMOKE), int(Skin.TILES)
SUN, AMBIENT, BOUNCE = (1.02, 0.96, 0.84), (0.27, 0.31, 0.38), (0.07, 0.065, 0.055)
ZENITH, HORIZON = (0.22, 0.40, 0.72), (0.62, 0.72, 0.82)
FLOOD = (0.20, 0.155, 0.095)
LIFT_M = 2e-3  # a shadow ray starts this far off the surface


@numba.njit(**JIT)
def _ground(scene: Scene, p: Vector, width: float) -> Colour:
    if max(abs(p[0]), abs(p[1])) < scene.near_half - 1.0:
        return sample_pyramid(
            scene.near_data, scene.near_offsets, scene.near_sizes, scene.near_half,
            p[0], p[1], width,
        )  # fmt: skip
    return sample_pyramid(
        scene.far_data, scene.far_offsets, scene.far_sizes, scene.far_half, p[0], p[1], width
    )


@numba.njit(**JIT)
def _flood(p: Vector, width: float) -> Colour:
    """Return the colour of muddy water: streaks of foam and silt."""
    streak = noise2(p[0] * 0.11 + 0.3 * noise2(p[1] * 0.1, 3.0, 5), p[1] * 0.35, 11)
    ripple = noise2(p[0] * 0.7, p[1] * 0.9, 23) * fade(2.5, width)
    foam = max(0.0, noise2(p[0] * 0.25, p[1] * 0.25, 31) - 0.55) * fade(6.0, width)
    colour = scaled(FLOOD, 1 + 0.22 * streak + 0.10 * ripple)
    if chance(math.floor(p[0] / 1.6), math.floor(p[1] / 1.2), 7) > 0.988:
        colour = mix(colour, (0.30, 0.20, 0.10), fade(2.0, width))
    return mix(colour, (0.55, 0.52, 0.45), min(0.7, 1.5 * foam))


@numba.njit(**JIT)
def _outward(scene: Scene, item: int, face: int, local: Vector) -> Vector:
    """Return the outward unit normal at a point on a solid, city frame."""
    h = (scene.half[item, 0], scene.half[item, 1], scene.half[item, 2])
    inset = (scene.inset[item, 0], scene.inset[item, 1])
    nx, ny, nz = 0.0, 0.0, 1.0
    if face == ROUND:
        nx, ny, nz = local[0] / h[0] ** 2, local[1] / h[1] ** 2, local[2] / h[2] ** 2
    elif face == BOTTOM:
        nz = -1.0
    elif face != TOP:
        if face in (PLUS_X, MINUS_X):
            nx, nz = (1.0 if face == PLUS_X else -1.0), 0.5 * inset[0] / h[2]
        else:
            ny, nz = (-1.0 if face % 2 else 1.0), 0.5 * inset[1] / h[2]
    a, i = scene.axes, item
    x = a[i, 0, 0] * nx + a[i, 0, 1] * ny + a[i, 0, 2] * nz
    y = a[i, 1, 0] * nx + a[i, 1, 1] * ny + a[i, 1, 2] * nz
    z = a[i, 2, 0] * nx + a[i, 2, 1] * ny + a[i, 2, 2] * nz
    length = math.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length


@numba.njit(**JIT)
def _solid_albedo(scene: Scene, item: int, face: int, local: Vector, width: float) -> Colour:
    """Return the albedo of a point on a solid, given in the solid's own axes."""
    h = (scene.half[item, 0], scene.half[item, 1], scene.half[item, 2])
    inset = (scene.inset[item, 0], scene.inset[item, 1])
    is_top = face == TOP
    skin = scene.skins[item, 1] if is_top else scene.skins[item, 0]
    lean = 0.0
    u, v, lu, lv = local[0] + h[0], local[1] + h[1], 2 * h[0], 2 * h[1]
    if face != TOP and face != BOTTOM and face != ROUND:
        lean = inset[0] if face in (PLUS_X, MINUS_X) else inset[1]
        rise = math.sqrt(1.0 + (0.5 * lean / h[2]) ** 2)
        v, lv = (local[2] + h[2]) * rise, 2 * h[2] * rise
        if face in (PLUS_X, MINUS_X):
            u, lu = local[1] + h[1], 2 * h[1]
    row = 1 if is_top or (skin == TILES and lean == 0.0) else 0
    c, i = scene.colours, item
    return skin_albedo(
        skin, is_top, lean == 0.0 and not is_top, u, v, lu, lv,
        local[0], local[1], local[2], width,
        (c[i, row, 0], c[i, row, 1], c[i, row, 2]), (c[i, 2, 0], c[i, 2, 1], c[i, 2, 2]),
        scene.storey[item], scene.skins[item, 2],
    )  # fmt: skip


@numba.njit(**JIT)
def surface(
    scene: Scene, p: Vector, item: int, face: int, width: float
) -> tuple[Colour, Vector, float]:
    """Return albedo, unit normal and share of open sky at a hit.

    Args:
        scene: the packed scene.
        p: the hit, city frame; item, face: what `raycast.nearest` named.
        width: footprint of the ray, m.
    """
    if item == WATER:
        return _flood(p, width), (0.0, 0.0, 1.0), 1.0
    if item == GROUND:
        open_sky = 1.0
        reach = scene.sky_half - 1.0
        if abs(p[0]) < reach and abs(p[1]) < reach:
            column = int((p[0] + scene.sky_half) / SKY_MAP_TEXEL_M)
            row = int((p[1] + scene.sky_half) / SKY_MAP_TEXEL_M)
            open_sky = float(scene.sky_map[row, column])
        return _ground(scene, p, width), (0.0, -scene.slope, 1.0), open_sky
    c, i = scene.centre, item
    local = to_local(scene, i, (p[0] - c[i, 0], p[1] - c[i, 1], p[2] - c[i, 2]))
    normal = _outward(scene, item, face, local)
    open_sky = 0.55 + 0.45 * normal[2] if normal[2] > 0.0 else 0.55 + 0.25 * normal[2]
    if face != ROUND and normal[2] < 0.5:
        above = p[2] - scene.slope * p[1]
        open_sky *= 0.7 + 0.3 * min(1.0, above / 9.0)
    return _solid_albedo(scene, item, face, local, width), normal, open_sky


@numba.njit(**JIT)
def radiance(scene: Scene, o: Vector, d: Vector, spread: float) -> Colour:
    """Return the linear light that comes in along a ray.

    Args:
        scene: the packed scene.
        o, d: origin and unit direction, city frame.
        spread: growth of the ray's footprint per metre.
    """
    t, item, face = nearest(scene, o, d)
    if item == SKY:
        return mix(HORIZON, ZENITH, min(1.0, max(0.0, 2.2 * d[2])))
    p = (o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2])
    albedo, n, open_sky = surface(scene, p, item, face, t * spread)
    facing = n[0] * scene.sun[0] + n[1] * scene.sun[1] + n[2] * scene.sun[2]
    if item >= 0 and scene.skins[item, 0] in (FOLIAGE, SMOKE):
        facing = 0.35 + 0.65 * facing  # leaves and smoke scatter light around the crown
    direct = 0.0
    if facing > 0.0:
        start = (p[0] + LIFT_M * n[0], p[1] + LIFT_M * n[1], p[2] + LIFT_M * n[2])
        sun = (scene.sun[0], scene.sun[1], scene.sun[2])
        if item >= 0 and face == ROUND:  # a crown never shades itself
            start = (p[0] + 1.2 * n[0], p[1] + 1.2 * n[1], p[2] + 1.2 * n[2])
        direct = 0.0 if blocked(scene, start, sun, 300.0) else facing
    return (
        albedo[0] * (SUN[0] * direct + AMBIENT[0] * open_sky + BOUNCE[0]),
        albedo[1] * (SUN[1] * direct + AMBIENT[1] * open_sky + BOUNCE[1]),
        albedo[2] * (SUN[2] * direct + AMBIENT[2] * open_sky + BOUNCE[2]),
    )
