"""Owns a whole city: everything laid out, before and after the event, packed for the ray caster."""

from dataclasses import dataclass

from nerfcore.city import events, furniture
from nerfcore.city.buildings import Building, build_block
from nerfcore.city.ground import paint_far, paint_town
from nerfcore.city.plan import Plan, make_plan, stream
from nerfcore.city.scene import Scene, pack
from nerfcore.city.settings import CitySettings
from nerfcore.city.solids import Solid


@dataclass(frozen=True)
class Town:
    """A city before and after its event.

    Attributes:
        plan: its layout.
        buildings: all buildings, as built.
        change: what the event did.
        before, after: the packed scenes.
        solids_before, solids_after: what they were packed from, in the same order.
    """

    plan: Plan
    buildings: tuple[Building, ...]
    change: events.Change
    before: Scene
    after: Scene
    solids_before: tuple[Solid, ...]
    solids_after: tuple[Solid, ...]


def build_town(settings: CitySettings) -> Town:
    """Build a city, and what the event makes of it."""
    plan = make_plan(settings.seed, settings.blocks)
    rng = stream(settings.seed, 7)
    buildings: list[Building] = []
    loose: list[Solid] = []
    for block in plan.blocks:
        made = build_block(rng, block, len(buildings))
        buildings.extend(made)
        loose.extend(furniture.block_trees(rng, block, made))
    loose.extend(furniture.street_trees(rng, plan))
    loose.extend(furniture.street_cars(rng, plan))
    loose.extend(furniture.bridges(plan))
    loose.extend(furniture.outskirts(rng, plan))
    far = paint_far(plan, settings.seed)
    near = paint_town(plan, settings.seed, far)
    standing = [part for building in buildings for part in building.solids] + loose
    before = pack(standing, near, far, None)
    change = events.choose_change(settings.event, plan, buildings)
    rebuilt = events.solids_after(settings.event, change, settings.seed, buildings, near)
    changed = [
        part
        for number, building in enumerate(buildings)
        for part in rebuilt.get(number, building.solids)
    ] + loose
    after = pack(changed, near, far, change.water_level_m)
    return Town(plan, tuple(buildings), change, before, after, tuple(standing), tuple(changed))
