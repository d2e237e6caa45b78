"""Owns the procedural skins of solids: walls with windows, roofs, leaves, rubble.

Wall coordinates: u along the wall, v up from its foot, both in metres; the first `FOUNDATION_M`
of v are below the ground.
"""

import math

import numba

from nerfcore.city.buildings import FOUNDATION_M
from nerfcore.city.patterns import (
    JIT,
    band,
    chance,
    fade,
    mix,
    noise2,
    noise3,
    pulse,
    scaled,
)
from nerfcore.city.solids import Skin

Colour = tuple[float, float, float]

PLASTER, BRICK = int(Skin.PLASTER), int(Skin.BRICK)
RIBBON, GLASS = int(Skin.RIBBON), int(Skin.GLASS)
CLADDING, GRAVEL, TILES, SEAM = (
    int(Skin.CLADDING), int(Skin.GRAVEL), int(Skin.TILES), int(Skin.SEAM),
)  # fmt: skip
FOLIAGE, RUBBLE, SCORCHED = int(Skin.FOLIAGE), int(Skin.RUBBLE), int(Skin.SCORCHED)
SMOKE, LAWN, SKYLIGHTS = int(Skin.SMOKE), int(Skin.LAWN), int(Skin.SKYLIGHTS)

PANE_DARK, PANE_LIGHT = (0.025, 0.035, 0.05), (0.30, 0.33, 0.34)
FRAME_WHITE, EMBER = (0.72, 0.71, 0.68), (1.1, 0.30, 0.04)


@numba.njit(**JIT)
def _pane(u: float, v: float, pu: float, pv: float, width: float, seed: int) -> Colour:
    """Return the colour of the window a point lies in; each differs, until they blur together."""
    draw = chance(math.floor(u / pu), math.floor(v / pv), seed)
    spread = fade(1.2 * min(pu, pv), width)
    return mix(PANE_DARK, PANE_LIGHT, 0.3 + spread * (draw * draw - 0.3))


@numba.njit(**JIT)
def _wall(
    skin: int, u: float, v: float, lu: float, lv: float, width: float,
    base: Colour, accent: Colour, storey: float, seed: int,
) -> Colour:  # fmt: skip
    """Return the albedo of a facade."""
    v -= FOUNDATION_M
    high = max(lv - FOUNDATION_M, 1.0)
    pv = high / max(1.0, round(high / storey))
    pu = lu / max(1.0, round(lu / (3.0 if skin != GLASS else 1.9)))
    stain = 1 + 0.10 * noise2(u * 0.35, v * 0.12, seed) + 0.06 * noise2(u * 1.1, v * 1.1, seed + 5)
    wall = scaled(base, stain)
    if v < 0.0:
        return wall
    if skin == CLADDING:
        wall = scaled(wall, 1 - 0.22 * pulse(u, 1.2, 0.0, 0.4, width))
        wall = mix(wall, accent, band(v, high - 1.3, high + 1, width))
        gate = pulse(u, lu / max(1.0, round(lu / 9.0)), 0.3, 0.72, width) * band(v, -1, 4.3, width)
        wall = mix(wall, scaled(accent, 0.6), gate)
        strip = band(v, high * 0.58, high * 0.76, width) * pulse(u, pu, 0.06, 0.94, width)
        return mix(wall, (0.12, 0.16, 0.19), strip)
    if skin == GLASS:
        pane = _pane(u, v, pu, pv, width, seed)
        tinted = (pane[0] * 0.9 + 0.03, pane[1] + 0.05, pane[2] + 0.08)
        clear = pulse(u, pu, 0.07, 0.93, width) * pulse(v, pv, 0.24, 0.95, width)
        return mix(wall, tinted, clear)
    pane = _pane(u, v, pu, pv, width, seed)
    if skin == RIBBON:
        clear = pulse(u, pu, 0.05, 0.95, width) * pulse(v, pv, 0.30, 0.80, width)
        wall = mix(wall, accent, band(v, -1, pv * 0.9, width) * 0.65)
        return mix(wall, pane, clear)
    if skin == BRICK:
        course = 0.16 * fade(1.0, width) * noise2(u * 4.5, v * 9.0, seed)
        wall = scaled(wall, 1 + course)
    frame = pulse(u, pu, 0.22, 0.78, width) * pulse(v, pv, 0.22, 0.84, width)
    clear = pulse(u, pu, 0.28, 0.72, width) * pulse(v, pv, 0.28, 0.79, width)
    wall = mix(wall, FRAME_WHITE, 0.75 * frame)
    wall = mix(wall, pane, clear)
    if v < pv:
        wall = mix(wall, scaled(accent, 0.9), 0.45 * band(v, -1, pv * 0.92, width))
    return mix(wall, FRAME_WHITE, 0.8 * band(v, high - 0.55, high + 1, width))


@numba.njit(**JIT)
def _tiles(
    u: float, v: float, lu: float, lv: float, width: float, base: Colour, seed: int
) -> Colour:
    """Return the albedo of a tiled slope; v runs from the eaves up."""
    tone = 0.16 * fade(1.6, width) * noise2(u * 1.7, v * 1.7, seed) + 0.14 * noise2(
        u * 0.5, v * 0.5, seed + 3
    )
    rows = 0.22 * (pulse(v, 0.8, 0.0, 0.35, width) - 0.35)
    colour = scaled(base, 1 + tone - rows)
    colour = mix(colour, scaled(base, 1.35), band(v, lv - 0.45, lv + 1, width))
    draw = chance(seed, 17, 3)
    if draw < 0.3:
        panel = band(u, lu * 0.18, lu * 0.72, width) * band(v, lv * 0.25, lv * 0.8, width)
        grid = pulse(u, 1.1, 0.06, 0.94, width) * pulse(v, 1.7, 0.05, 0.95, width)
        return mix(colour, (0.03 + 0.2 * (1 - grid), 0.05 + 0.2 * (1 - grid), 0.13), panel)
    if draw < 0.7:
        hatch = pulse(u, lu / max(1.0, round(lu / 4.2)), 0.38, 0.62, width)
        return mix(colour, (0.22, 0.27, 0.31), hatch * band(v, lv * 0.35, lv * 0.62, width))
    return colour


@numba.njit(**JIT)
def _flat_roof(
    skin: int, u: float, v: float, lu: float, lv: float, width: float,
    base: Colour, seed: int,
) -> Colour:  # fmt: skip
    """Return the albedo of a roof one can stand on."""
    tone = 0.12 * noise2(u * 0.45, v * 0.45, seed) + 0.16 * fade(1.3, width) * noise2(
        u * 1.6, v * 1.6, seed + 9
    )
    colour = scaled(base, 1 + tone)
    inside = band(u, 1.2, lu - 1.2, width) * band(v, 1.2, lv - 1.2, width)
    if skin == LAWN:
        wild = 0.5 + 0.5 * noise2(u * 0.3 + 7, v * 0.3, seed + 1)
        return mix((0.40, 0.37, 0.31), mix(colour, (0.27, 0.24, 0.10), 0.6 * wild), inside)
    if skin == SKYLIGHTS:
        seams = 0.2 * (pulse(u, 1.5, 0.0, 0.25, width) - 0.25)
        glass = pulse(u, lu / max(1.0, round(lu / 6.5)), 0.36, 0.6, width) * inside
        return mix(scaled(colour, 1 - seams), (0.55, 0.62, 0.64), glass)
    if skin == SEAM:
        return scaled(colour, 1 - 0.25 * (pulse(u, 1.3, 0.0, 0.3, width) - 0.3))
    patch = chance(math.floor(u / 5.5), math.floor(v / 4.5), seed + 2)
    return scaled(mix(scaled(colour, 0.72), colour, inside), 0.88 + 0.24 * patch)


@numba.njit(**JIT)
def _rubble(x: float, y: float, z: float, width: float, base: Colour, seed: int) -> Colour:
    """Return the albedo of a heap: broken concrete, bricks and dark gaps."""
    coarse, fine = noise3(x * 0.8, y * 0.8, z * 0.8, seed), noise3(x * 2.1, y * 2.1, z * 2.1, seed)
    colour = scaled(base, 0.85 + 0.45 * coarse + 0.4 * fade(1.0, width) * fine)
    draw = chance(math.floor(x * 0.7), math.floor(y * 0.7), seed)
    bricks = 0.7 * fade(1.5, width) if draw > 0.78 else 0.0
    colour = mix(colour, (0.33, 0.13, 0.08), bricks)
    gap = 0.8 * fade(1.5, width) if draw < 0.13 else 0.1
    return mix(colour, (0.03, 0.028, 0.025), gap)


@numba.njit(**JIT)
def _scorched(
    u: float, v: float, lu: float, lv: float, width: float, base: Colour, was: Colour,
    seed: int, is_top: bool,
) -> Colour:  # fmt: skip
    """Return the albedo of a burnt surface: soot over the old paint, embers in the openings."""
    tone = noise2(u * 0.6, v * 0.6, seed) + 0.6 * noise2(u * 1.8, v * 1.8, seed + 4)
    colour = scaled(base, 1 + 0.45 * tone)
    if is_top:
        beams = pulse(u, 3.1, 0.0, 0.22, width) * fade(2.0, width)
        colour = mix(colour, (0.012, 0.011, 0.010), beams)
        heat = max(0.0, noise2(u * 0.5 + 3, v * 0.5, seed + 8) + 0.25 * tone - 0.5)
        return mix(colour, EMBER, min(0.7, 1.6 * heat))
    colour = mix(was, colour, min(1.0, 0.45 + 0.75 * v / max(lv, 1.0)))
    opening = pulse(u, lu / max(1.0, round(lu / 3.0)), 0.27, 0.73, width)
    opening *= pulse(v - FOUNDATION_M, 3.2, 0.28, 0.79, width)
    lit = chance(math.floor(u / 3.0), math.floor(v / 3.2), seed) > 0.9
    return mix(colour, EMBER if lit else (0.01, 0.01, 0.01), opening)


@numba.njit(**JIT)
def skin_albedo(
    skin: int, is_top: bool, upright: bool, u: float, v: float, lu: float, lv: float,
    x: float, y: float, z: float, width: float,
    base: Colour, accent: Colour, storey: float, seed: int,
) -> Colour:  # fmt: skip
    """Return the linear albedo of a point on a solid.

    Args:
        skin: the pattern; is_top: on the upward face; upright: on a vertical face.
        u, v: coordinates on the face, and lu, lv: its extent, m.
        x, y, z: the point in the solid's own axes, m.
        width: footprint of the ray, m.
        base, accent: the face's colours; storey: m; seed: of the pattern.
    """
    if skin == FOLIAGE:
        tone = noise3(x * 0.9, y * 0.9, z * 0.9, seed) + 0.6 * noise3(
            x * 2.2, y * 2.2, z * 2.2, seed
        ) * fade(0.9, width)
        return base[0] * (1 + 0.42 * tone), base[1] * (1 + 0.36 * tone), base[2] * (1 + 0.3 * tone)
    if skin == SMOKE:
        billow = noise3(x * 0.7, y * 0.7, z * 0.7, seed) + 0.6 * noise3(
            x * 1.6, y * 1.6, z * 1.6, seed
        )
        return scaled(base, 1 + 0.45 * billow)
    if skin == RUBBLE:
        return _rubble(x, y, z, width, base, seed)
    if skin == SCORCHED:
        return _scorched(u, v, lu, lv, width, base, accent, seed, is_top)
    if skin == TILES and not upright:
        return _tiles(u, v, lu, lv, width, base, seed)
    if is_top and skin in (GRAVEL, LAWN, SKYLIGHTS, SEAM):
        return _flat_roof(skin, u, v, lu, lv, width, base, seed)
    if upright and skin in (PLASTER, BRICK, RIBBON, GLASS, CLADDING):
        return _wall(skin, u, v, lu, lv, width, base, accent, storey, seed)
    return scaled(base, 1 + 0.07 * noise2(u * 0.9, v * 0.9, seed))
