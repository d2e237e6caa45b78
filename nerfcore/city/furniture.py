"""Owns what stands between the buildings: trees, cars, bridges."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from nerfcore.city.buildings import Building
from nerfcore.city.plan import Block, BlockKind, Plan, ground_m
from nerfcore.city.solids import Shape, Skin, Solid, box, rgb

LEAVES = [rgb(c) for c in ("#5f7d3a", "#4e6b34", "#73893f", "#456b3f", "#86913f", "#3c5a35")]
PAINTS = [rgb(c) for c in (
    "#d9dadb", "#2b2d31", "#8e9398", "#a3242b", "#24476e", "#f0efe9", "#5b6168", "#c9b037",
)]  # fmt: skip


def tree(rng: np.random.Generator, x: float, y: float, scale: float = 1.0) -> list[Solid]:
    """Return a tree: a crown of two or three leafy ellipsoids on a trunk."""
    radius = float(rng.uniform(1.9, 3.3) * scale)
    height = radius * float(rng.uniform(2.3, 3.0))
    ground = ground_m(y)
    colour = LEAVES[rng.integers(len(LEAVES))]
    parts = [box((x, y, ground), (0.5, 0.5, height * 0.6), wall_rgb=rgb("#5a4534"))]
    for index in range(int(rng.integers(2, 4))):
        away = 0.0 if index == 0 else radius * 0.5
        angle, shrink = rng.uniform(0, 2 * np.pi), 1.0 if index == 0 else rng.uniform(0.6, 0.8)
        centre = (
            x + away * float(np.cos(angle)), y + away * float(np.sin(angle)),
            ground + height * (0.68 if index == 0 else float(rng.uniform(0.5, 0.8))),
        )  # fmt: skip
        half = (radius * shrink, radius * shrink, height * 0.38 * shrink)
        parts.append(
            Solid(Shape.ELLIPSOID, centre, half, wall=Skin.FOLIAGE, wall_rgb=colour,
                  seed=int(rng.integers(1 << 20)))
        )  # fmt: skip
    return parts


def car(rng: np.random.Generator, x: float, y: float, yaw_rad: float) -> list[Solid]:
    """Return a car: a painted body and a dark cabin."""
    paint, ground = PAINTS[rng.integers(len(PAINTS))], ground_m(y)
    van = rng.random() < 0.12
    length, high = (5.6, 2.2) if van else (4.3, 0.95)
    body = box((x, y, ground + 0.15), (length, 1.85, high), yaw_rad=yaw_rad, wall_rgb=paint,
               inset_m=(0.15, 0.1))  # fmt: skip
    if van:
        return [body]
    cabin = box(
        (x - 0.25 * float(np.cos(yaw_rad)), y - 0.25 * float(np.sin(yaw_rad)), ground + 1.1),
        (2.3, 1.6, 0.55), yaw_rad=yaw_rad, inset_m=(0.45, 0.15),
        wall_rgb=rgb("#23282e"), top_rgb=paint,
    )  # fmt: skip
    return [body, cabin]


def _clear(point: tuple[float, float], buildings: list[Building], margin: float) -> bool:
    """Tell whether a point keeps its distance from every building's footprint."""
    for building in buildings:
        dx, dy = point[0] - building.base[0], point[1] - building.base[1]
        c, s = np.cos(building.yaw_rad), np.sin(building.yaw_rad)
        u, v = abs(c * dx + s * dy), abs(c * dy - s * dx)
        if u < building.size[0] / 2 + margin and v < building.size[1] / 2 + margin:
            return False
    return True


TREES_A_BLOCK = {BlockKind.PARK: 26, BlockKind.HOUSES: 12, BlockKind.TOWERS: 12,
                 BlockKind.PERIMETER: 7, BlockKind.CENTRE: 7, BlockKind.SQUARE: 7,
                 BlockKind.INDUSTRY: 4}  # fmt: skip


def block_trees(
    rng: np.random.Generator, block: Block, buildings: list[Building]
) -> Iterator[Solid]:
    """Yield trees in a block's gardens, courtyards and parks, clear of its buildings."""
    wanted, planted = TREES_A_BLOCK[block.kind], 0
    for _ in range(wanted * 8):
        x, y = rng.uniform(block.x0 + 2, block.x1 - 2), rng.uniform(block.y0 + 2, block.y1 - 2)
        if planted < wanted and _clear((x, y), buildings, 2.6):
            planted += 1
            yield from tree(rng, x, y, 1.15 if block.kind is BlockKind.PARK else 0.95)


def street_trees(rng: np.random.Generator, plan: Plan) -> Iterator[Solid]:
    """Yield trees along the two avenues, where the kerbs are wide enough."""
    for along_x, streets in ((True, plan.along), (False, plan.across)):
        avenue = max(streets, key=lambda street: street.width)
        crossings = [street.at for street in (plan.across if along_x else plan.along)]
        for position in np.arange(-plan.half_m + 6, plan.half_m - 6, 9.5):
            if min(abs(position - at) for at in crossings) < 12 or rng.random() < 0.15:
                continue
            for side in (-1, 1):
                off = avenue.at + side * (avenue.width / 2 - 1.6)
                x, y = (float(position), off) if along_x else (off, float(position))
                yield from tree(rng, x, y, 0.72)


def street_cars(rng: np.random.Generator, plan: Plan) -> Iterator[Solid]:
    """Yield cars that drive in their lanes or stand along the kerb."""
    for along_x, streets in ((True, plan.along), (False, plan.across)):
        for street in streets:
            for position in np.arange(-plan.half_m + 4, plan.half_m - 4, 7.5):
                draw = rng.random()
                if draw > 0.34:
                    continue
                side = float(rng.choice([-1.0, 1.0]))
                lane = 1.75 if draw < 0.12 else (3.35 if street.width < 15 else 5.2)
                along, off = float(position + rng.uniform(-1, 1)), street.at + side * lane
                if along_x:
                    yield from car(rng, along, off, 0.0 if side < 0 else np.pi)
                else:
                    yield from car(rng, off, along, side * np.pi / 2)


def bridges(plan: Plan) -> Iterator[Solid]:
    """Yield a bridge over the river for every second street, with railings."""
    deck_rgb, rail_rgb = rgb("#8b8a86"), rgb("#d5d0c4")
    for street in plan.across[::2]:
        y = float(plan.river_centre(street.at))
        z = ground_m(plan.along[0].at) - 0.9
        yield box((street.at, y, z), (9.5, 34.0, 1.2), wall_rgb=rail_rgb, top_rgb=deck_rgb)
        for side in (-1, 1):
            x = street.at + side * 4.6
            yield box((x, y, z + 1.2), (0.35, 34.0, 1.0), wall_rgb=rail_rgb, top_rgb=rail_rgb)


def outskirts(rng: np.random.Generator, plan: Plan) -> Iterator[Solid]:
    """Yield trees along the river and loosely around the town."""
    for x in np.arange(-plan.half_m - 15, plan.half_m + 15, 8.0):
        for side in (-1, 1):
            if rng.random() < 0.7 and min(abs(x - street.at) for street in plan.across) > 7:
                y = float(plan.river_centre(x)) + side * float(rng.uniform(15.5, 18))
                yield from tree(rng, float(x), y, 1.0)
    reach = plan.half_m + 30
    ring: NDArray[np.float64] = rng.uniform(-reach, reach, (400, 2))
    for x, y in ring:
        outside = max(abs(x), y) > plan.half_m + 5 or y < plan.river_y - 24
        if outside and np.sin(x / 19.0) + np.cos(y / 23.0) > 0.55:
            yield from tree(rng, float(x), float(y), 1.25)
