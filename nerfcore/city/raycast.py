"""Owns the exact ray caster: nearest hit of a ray with ground, water and solids.

Rays are in the city frame with unit directions; t is metres along the ray. Hits name what was met:
a solid's number, or `GROUND`, `WATER`, `SKY`. Ground cells are walked in order along the ray; a
cell whose solids all end below the ray is passed over.
"""

import math

import numba

from nerfcore.city.patterns import JIT
from nerfcore.city.scene import CELL_M, Scene
from nerfcore.city.solids import Shape

GROUND, SKY, WATER = -1, -2, -3
FRUSTUM = int(Shape.FRUSTUM)
FAR = 1e9
# Faces of a frustum.
BOTTOM, TOP, PLUS_X, MINUS_X, PLUS_Y, MINUS_Y, ROUND = 0, 1, 2, 3, 4, 5, 6

Vector = tuple[float, float, float]


@numba.njit(**JIT)
def to_local(scene: Scene, item: int, v: Vector) -> Vector:
    """Return a direction in a solid's own axes."""
    a, i = scene.axes, item
    return (
        a[i, 0, 0] * v[0] + a[i, 1, 0] * v[1] + a[i, 2, 0] * v[2],
        a[i, 0, 1] * v[0] + a[i, 1, 1] * v[1] + a[i, 2, 1] * v[2],
        a[i, 0, 2] * v[0] + a[i, 1, 2] * v[1] + a[i, 2, 2] * v[2],
    )


@numba.njit(**JIT)
def _ellipsoid(o: Vector, d: Vector, hx: float, hy: float, hz: float) -> float:
    """Return where a ray enters an ellipsoid, or FAR."""
    px, py, pz, qx, qy, qz = o[0] / hx, o[1] / hy, o[2] / hz, d[0] / hx, d[1] / hy, d[2] / hz
    a = qx * qx + qy * qy + qz * qz
    b = px * qx + py * qy + pz * qz
    c = px * px + py * py + pz * pz - 1.0
    inside = b * b - a * c
    if inside <= 0.0:
        return FAR
    t = (-b - math.sqrt(inside)) / a
    return t if t > 0.0 else FAR


@numba.njit(**JIT)
def _frustum(
    o: Vector, d: Vector, hx: float, hy: float, hz: float, ix: float, iy: float
) -> tuple[float, int]:
    """Return where a ray enters a frustum and through which face, or FAR."""
    enter, leave, face = 0.0, FAR, -1
    for index in range(6):
        if index < 2:
            s = -1.0 if index == 0 else 1.0
            rate, room = s * d[2], hz - s * o[2]
        elif index < 4:
            s, k = (1.0 if index == 2 else -1.0), 0.5 * ix / hz
            rate, room = s * d[0] + k * d[2], hx - k * hz - s * o[0] - k * o[2]
        else:
            s, k = (1.0 if index == 4 else -1.0), 0.5 * iy / hz
            rate, room = s * d[1] + k * d[2], hy - k * hz - s * o[1] - k * o[2]
        if rate > 1e-12:
            leave = min(leave, room / rate)
        elif rate < -1e-12:
            t = room / rate
            if t > enter:
                enter, face = t, index
        elif room < 0.0:
            return FAR, -1
    if face < 0 or enter >= leave:
        return FAR, -1
    return enter, face


@numba.njit(**JIT)
def _meet(scene: Scene, item: int, o: Vector, d: Vector) -> tuple[float, int]:
    """Return where a ray enters a solid and through which face, or FAR."""
    c, h, i = scene.centre, scene.half, item
    lo = to_local(scene, i, (o[0] - c[i, 0], o[1] - c[i, 1], o[2] - c[i, 2]))
    ld = to_local(scene, item, d)
    if scene.shape[item] == FRUSTUM:
        return _frustum(
            lo, ld, h[i, 0], h[i, 1], h[i, 2], scene.inset[item, 0], scene.inset[item, 1]
        )
    return _ellipsoid(lo, ld, h[i, 0], h[i, 1], h[i, 2]), ROUND


@numba.njit(**JIT)
def _span(scene: Scene, o: Vector, d: Vector, limit: float) -> tuple[float, float]:
    """Return the part of the ray that runs over the grid and below its highest solid."""
    rows, columns = scene.cell_top.shape
    near, far = 0.0, limit
    for axis in range(2):
        low = scene.grid_origin[axis]
        high = low + CELL_M * (columns if axis == 0 else rows)
        if abs(d[axis]) < 1e-12:
            if o[axis] < low or o[axis] > high:
                return 1.0, 0.0
            continue
        a, b = (low - o[axis]) / d[axis], (high - o[axis]) / d[axis]
        near, far = max(near, min(a, b)), min(far, max(a, b))
    if d[2] < -1e-12:
        near = max(near, (scene.highest - o[2]) / d[2])
    elif d[2] > 1e-12:
        far = min(far, (scene.highest - o[2]) / d[2])
    elif o[2] > scene.highest:
        return 1.0, 0.0
    return near, far


@numba.njit(**JIT)
def _walk(
    scene: Scene, o: Vector, d: Vector, limit: float, any_hit: bool
) -> tuple[float, int, int]:
    """Return the nearest solid within the limit (or any one): t, its number (SKY: none), face."""
    best, found, through, last = limit, SKY, -1, -1
    near, far = _span(scene, o, d, limit)
    if near >= far:
        return best, found, through
    rows, columns = scene.cell_top.shape
    x, y = o[0] + near * d[0] - scene.grid_origin[0], o[1] + near * d[1] - scene.grid_origin[1]
    column = min(max(int(x / CELL_M), 0), columns - 1)
    row = min(max(int(y / CELL_M), 0), rows - 1)
    step_x, step_y = (1 if d[0] > 0 else -1), (1 if d[1] > 0 else -1)
    per_x = CELL_M / abs(d[0]) if abs(d[0]) > 1e-12 else FAR
    per_y = CELL_M / abs(d[1]) if abs(d[1]) > 1e-12 else FAR
    edge_x = (column + (1 if step_x > 0 else 0)) * CELL_M
    edge_y = (row + (1 if step_y > 0 else 0)) * CELL_M
    next_x = near + (edge_x - x) / d[0] if per_x < FAR else FAR
    next_y = near + (edge_y - y) / d[1] if per_y < FAR else FAR
    t = near
    while t < far and t < best:
        out = min(next_x, next_y, far)
        if o[2] + min(t * d[2], out * d[2]) <= scene.cell_top[row, column]:
            cell = row * columns + column
            for slot in range(scene.cell_start[cell], scene.cell_start[cell + 1]):
                item = scene.cell_items[slot]
                if item != last:
                    hit, face = _meet(scene, item, o, d)
                    if hit < best:
                        best, found, through = hit, item, face
                        if any_hit:
                            return best, found, through
                    last = item
        t = out
        if next_x < next_y:
            column, next_x = column + step_x, next_x + per_x
        else:
            row, next_y = row + step_y, next_y + per_y
        if column < 0 or row < 0 or column >= columns or row >= rows:
            break
    return best, found, through


@numba.njit(**JIT)
def nearest(scene: Scene, o: Vector, d: Vector) -> tuple[float, int, int]:
    """Return the first thing a ray meets.

    Args:
        scene: the packed scene.
        o, d: origin and unit direction, city frame, m.

    Returns:
        t (m, FAR for the sky), what was met, and the face of a solid.
    """
    limit, surface = FAR, SKY
    fall = d[2] - scene.slope * d[1]
    if fall < -1e-12:
        limit, surface = (scene.slope * o[1] - o[2]) / fall, GROUND
    if d[2] < -1e-12 and (scene.water - o[2]) / d[2] < limit:
        limit, surface = (scene.water - o[2]) / d[2], WATER
    t, item, face = _walk(scene, o, d, limit, False)
    return (t, item, face) if item >= 0 else (limit, surface, -1)


@numba.njit(**JIT)
def blocked(scene: Scene, o: Vector, d: Vector, limit: float) -> bool:
    """Tell whether any solid lies within the limit (m) along a ray."""
    return _walk(scene, o, d, limit, True)[1] >= 0
