"""Owns what an event does to a city: which buildings change, and into what."""

from dataclasses import dataclass, replace

import numpy as np

from nerfcore.city.buildings import BRICKS, FOUNDATION_M, Building
from nerfcore.city.ground import Canvas, scatter_debris
from nerfcore.city.plan import Plan, ground_m, stream
from nerfcore.city.settings import Event
from nerfcore.city.solids import Rgb, Shape, Skin, Solid, box, rgb

COLLAPSED, BURNT = 6, 4
LANDMARKS = {"slab", "tower", "hall", "shed", "church", "terrace", "house", "workshop"}
CONCRETE = [rgb(c) for c in ("#b7b1a6", "#9d978c", "#cfc8ba", "#8a857d", "#a58f78")]


@dataclass(frozen=True)
class Change:
    """What an event did.

    Attributes:
        buildings: numbers of the buildings that changed.
        focus: middle of the changed area, m in the city frame; `reach_m`: its radius.
        water_level_m: height of the flood, or None.
    """

    buildings: tuple[int, ...]
    focus: tuple[float, float]
    reach_m: float
    water_level_m: float | None


def _nearest_large(buildings: list[Building], count: int) -> list[int]:
    """Return the numbers of the large buildings nearest the middle."""
    candidates = [i for i, b in enumerate(buildings) if b.style in LANDMARKS]
    reach = [float(np.hypot(*buildings[i].base[:2])) for i in candidates]
    worth = [
        buildings[i].volume_m3 * np.exp(-((r / 60.0) ** 2))
        for i, r in zip(candidates, reach, strict=True)
    ]
    order = np.argsort(worth)[::-1]
    return sorted(candidates[k] for k in order[:count])


def choose_change(event: Event, plan: Plan, buildings: list[Building]) -> Change:
    """Decide which buildings an event takes, and where it happened."""
    if event is Event.FLOOD:
        level = ground_m(plan.half_m * 0.05)
        hit = tuple(i for i, b in enumerate(buildings) if b.base[2] < level)
        return Change(hit, (0.0, -plan.half_m * 0.5), plan.half_m * 0.45, level)
    if event is Event.NONE:
        return Change((), (0.0, 0.0), 45.0, None)
    chosen = _nearest_large(buildings, COLLAPSED if event is Event.COLLAPSE else BURNT)
    places = np.array([buildings[i].base[:2] for i in chosen])
    middle = places.mean(axis=0) if len(places) else np.zeros(2)
    reach = float(np.linalg.norm(places - middle, axis=1).max()) + 8.0 if len(places) else 30.0
    return Change(tuple(chosen), (float(middle[0]), float(middle[1])), reach, None)


def _shade(rng: np.random.Generator, colours: list[Rgb]) -> Rgb:
    colour = colours[rng.integers(len(colours))]
    gain = float(rng.uniform(0.7, 1.15))
    return colour[0] * gain, colour[1] * gain, colour[2] * gain


def rubble(rng: np.random.Generator, building: Building, number: int) -> list[Solid]:
    """Return the heap a collapsed building leaves, with slabs sticking out of it."""
    x, y, ground = building.base
    lx, ly, height = building.size
    rise = float(np.clip(height * 0.2, 2.5, 5.5))
    parts = [
        box(
            (x + fx * lx, y + fy * ly, ground - FOUNDATION_M),
            (lx * sx, ly * sy, rise * k + FOUNDATION_M), yaw_rad=building.yaw_rad + turn,
            inset_m=(lx * sx * 0.3, ly * sy * 0.38), wall=Skin.RUBBLE, top=Skin.RUBBLE,
            wall_rgb=_shade(rng, CONCRETE), seed=int(rng.integers(1 << 20)),
        )
        for fx, fy, sx, sy, k, turn in (
            (0.0, 0.0, 1.12, 1.25, 1.0, 0.0), (-0.2, 0.1, 0.55, 0.95, 1.35, 0.2),
            (0.24, -0.08, 0.5, 0.9, 1.2, -0.25),
        )
    ]  # fmt: skip
    for _ in range(round(lx * ly / 14)):
        u, v = rng.normal(0, 0.27) * lx, rng.normal(0, 0.3) * ly
        near = max(0.0, 1 - (2 * u / lx) ** 2) * max(0.0, 1 - (2 * v / ly) ** 2)
        tilt = rng.uniform(-0.7, 0.7, 2)
        parts.append(
            Solid(
                Shape.FRUSTUM, (x + u, y + v, ground + 0.2 + rise * 0.9 * near),
                (float(rng.uniform(0.7, 2.8)), float(rng.uniform(0.5, 1.6)),
                 float(rng.uniform(0.12, 0.5))),
                float(rng.uniform(0, np.pi)), (float(tilt[0]), float(tilt[1])),
                wall_rgb=_shade(rng, CONCRETE + BRICKS[:2]),
                top_rgb=_shade(rng, CONCRETE + BRICKS[:2]),
            )
        )  # fmt: skip
    return [part.owned_by(number) for part in parts]


def burnt(rng: np.random.Generator, building: Building, number: int) -> list[Solid]:
    """Return a burnt-out building: charred walls, charred roof with embers, and a smoke column."""
    soot = rgb("#3b3530")
    parts = [
        replace(
            s, wall=Skin.SCORCHED, top=Skin.SCORCHED, accent_rgb=s.wall_rgb, top_rgb=soot,
            wall_rgb=soot,
        )
        for s in building.solids
    ]  # fmt: skip
    x, y, ground = building.base
    for step in range(18):
        size = float((1.0 + 0.14 * step) * rng.uniform(0.75, 1.3))
        spread = 0.35 + 0.06 * step
        centre = (
            x + 0.40 * step + float(rng.normal(0, spread)),
            y + 0.22 * step + float(rng.normal(0, spread)),
            ground + building.size[2] + 0.8 + 0.85 * step,
        )
        grey = float(np.clip(0.05 + 0.013 * step, 0, 0.3) * rng.uniform(0.8, 1.2))
        parts.append(
            Solid(Shape.ELLIPSOID, centre, (size, size * 0.9, size * 0.75), wall=Skin.SMOKE,
                  wall_rgb=(grey, grey, grey * 1.03), seed=int(rng.integers(1 << 20)))
        )  # fmt: skip
    return [part.owned_by(number) for part in parts]


def solids_after(
    event: Event, change: Change, seed: int, buildings: list[Building], canvas: Canvas
) -> dict[int, list[Solid]]:
    """Return the new parts of every building the event rebuilds, and mark the ground.

    Args:
        event: what happened.
        change: as `choose_change` decided.
        seed: the city's.
        buildings: all buildings.
        canvas: the town's ground; painted on.
    """
    rng = stream(seed, 6)
    if event is Event.COLLAPSE:
        made = {i: rubble(rng, buildings[i], i) for i in change.buildings}
        scatter_debris(canvas, rng, [parts[0] for parts in made.values()])
        return made
    if event is Event.FIRE:
        return {i: burnt(rng, buildings[i], i) for i in change.buildings}
    return {}
