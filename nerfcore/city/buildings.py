"""Owns the buildings: how each kind of block is built up from solids."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nerfcore.city.plan import Block, BlockKind, ground_m
from nerfcore.city.solids import Rgb, Skin, Solid, box, rgb

FOUNDATION_M = 2.0  # walls begin this far below the ground, so that the slope shows no gap

PLASTERS = [rgb(c) for c in (
    "#e9dcc3", "#f0e6d2", "#d9b98c", "#e2c9a0", "#c98f6b", "#b9c4c2", "#d8d2c4", "#e7b99a",
    "#cdd3b5", "#f2efe8", "#a9b4bd", "#dd9f7a",
)]  # fmt: skip
BRICKS = [rgb(c) for c in ("#9c5740", "#86493a", "#a96a4e", "#7b4a3c", "#b07a5c")]
TILES = [
    rgb(c) for c in ("#a05a46", "#ab6850", "#8a4d3e", "#75504a", "#5e5856", "#b5755a", "#6d6764")
]
FLATS = [rgb(c) for c in ("#a8a59c", "#8f9193", "#c4bfb3", "#777a7d", "#b3a998")]
METALS = [rgb(c) for c in ("#8fa3ad", "#b8bcc0", "#6f8577", "#a3b0a0", "#9c9fa6")]
TRIMS = [rgb(c) for c in ("#7b3f2e", "#3f4a55", "#5b6b4f", "#c8a24a", "#46382f", "#2f5d73")]
WHITE, DARK = rgb("#f4f1ea"), rgb("#3a3c40")


@dataclass(frozen=True)
class Building:
    """One building: what it is, where it stands, and its parts.

    Attributes:
        name: "b<column><row>-<number in the block>".
        style: the kind of building, for the list of changes.
        base: middle of its footprint at ground level, m in the city frame.
        size: full footprint along x and y, and height above the ground, m.
        yaw_rad: turn of the footprint.
        solids: its parts.
    """

    name: str
    style: str
    base: tuple[float, float, float]
    size: tuple[float, float, float]
    yaw_rad: float
    solids: tuple[Solid, ...]

    @property
    def volume_m3(self) -> float:
        """Return the volume of its box."""
        return self.size[0] * self.size[1] * self.size[2]

    def corners(self) -> NDArray[np.float64]:
        """Return f64[8, 3], the corners of its box in the city frame."""
        signs = np.array([[i, j] for i in (-0.5, 0.5) for j in (-0.5, 0.5)])
        c, s = np.cos(self.yaw_rad), np.sin(self.yaw_rad)
        flat = (signs * self.size[:2]) @ np.array([[c, s], [-s, c]])
        low = np.column_stack([flat, np.zeros(4)])
        high = np.column_stack([flat, np.full(4, self.size[2])])
        return np.concatenate([low, high]) + self.base


def _pick(rng: np.random.Generator, colours: list[Rgb]) -> Rgb:
    base = np.array(colours[rng.integers(len(colours))])
    r, g, b = np.clip(base * rng.uniform(0.85, 1.12) * rng.uniform(0.96, 1.04, 3), 0.02, 0.85)
    return float(r), float(g), float(b)


def _roof_units(
    rng: np.random.Generator, base: tuple[float, float, float], size: tuple[float, float]
) -> list[Solid]:
    """Return what stands on a flat roof: parapets, a stair head, ventilation boxes."""
    x, y, z = base
    lx, ly = size
    grey = _pick(rng, FLATS)
    rim = [
        box((x, y + s * (ly / 2 - 0.2), z), (lx, 0.4, 0.7), wall_rgb=grey, top_rgb=WHITE)
        for s in (-1, 1)
    ] + [
        box((x + s * (lx / 2 - 0.2), y, z), (0.4, ly, 0.7), wall_rgb=grey, top_rgb=WHITE)
        for s in (-1, 1)
    ]
    units = [
        box(
            (x + rng.uniform(-0.35, 0.35) * lx, y + rng.uniform(-0.3, 0.3) * ly, z),
            (rng.uniform(1.5, 3.5), rng.uniform(1.5, 3.0), rng.uniform(0.8, 1.8)),
            wall_rgb=_pick(rng, METALS),
            top_rgb=_pick(rng, METALS),
        )
        for _ in range(max(2, round(lx * ly / 110)))
    ]
    stair = box(
        (x + rng.uniform(-0.25, 0.25) * lx, y, z),
        (4.5, 3.5, 2.8),
        wall_rgb=_pick(rng, PLASTERS),
        top_rgb=DARK,
    )
    return [*rim, *units, stair]


def slab(
    rng: np.random.Generator, x: float, y: float, size: tuple[float, float, float]
) -> list[Solid]:
    """Return a flat-roofed block of offices or flats with details on its roof."""
    wall = [Skin.RIBBON, Skin.GLASS, Skin.PLASTER, Skin.RIBBON, Skin.BRICK][rng.integers(5)]
    colours = BRICKS if wall is Skin.BRICK else PLASTERS
    ground = ground_m(y)
    top = [Skin.GRAVEL, Skin.GRAVEL, Skin.LAWN][rng.integers(3)]
    body = box(
        (x, y, ground - FOUNDATION_M), (size[0], size[1], size[2] + FOUNDATION_M),
        wall=wall, top=top, wall_rgb=_pick(rng, colours),
        top_rgb=_pick(rng, FLATS) if top is Skin.GRAVEL else rgb("#7d8b58"),
        accent_rgb=_pick(rng, TRIMS), storey_m=float(rng.uniform(3.1, 3.7)),
        seed=int(rng.integers(1 << 20)),
    )  # fmt: skip
    return [body, *_roof_units(rng, (x, y, ground + size[2]), size[:2])]


def gabled(
    rng: np.random.Generator, x: float, y: float, size: tuple[float, float, float],
    yaw_rad: float = 0.0, hip: bool = False, brick: float = 0.3,
) -> list[Solid]:  # fmt: skip
    """Return a house with a tiled roof, its ridge along the house's own x."""
    lx, ly, height = size
    rise = min(ly * rng.uniform(0.32, 0.45), height * 0.6)
    eaves = height - rise
    ground = ground_m(y)
    is_brick = rng.random() < brick
    wall_rgb = _pick(rng, BRICKS if is_brick else PLASTERS)
    seed = int(rng.integers(1 << 20))
    body = box(
        (x, y, ground - FOUNDATION_M), (lx, ly, eaves + FOUNDATION_M), yaw_rad=yaw_rad,
        wall=Skin.BRICK if is_brick else Skin.PLASTER, wall_rgb=wall_rgb,
        accent_rgb=_pick(rng, TRIMS), storey_m=float(rng.uniform(2.9, 3.3)), seed=seed,
    )  # fmt: skip
    over = 0.9
    roof = box(
        (x, y, ground + eaves - 0.1), (lx + (over if hip else 0.3), ly + over, rise),
        yaw_rad=yaw_rad, inset_m=((ly / 2 if hip else 0.0), (ly + over) / 2),
        wall=Skin.TILES, wall_rgb=_pick(rng, TILES), top_rgb=wall_rgb, seed=seed,
    )  # fmt: skip
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    u, v = rng.uniform(-0.3, 0.3) * lx, rng.choice([-1.0, 1.0]) * ly * 0.12
    chimney = box(
        (x + c * u - s * v, y + s * u + c * v, ground + eaves + rise * 0.4), (0.9, 0.9, rise * 0.8),
        yaw_rad=yaw_rad, wall_rgb=_pick(rng, BRICKS), top_rgb=DARK,
    )  # fmt: skip
    return [body, roof, chimney]


Part = tuple[str, float, float, tuple[float, float, float], float, list[Solid]]


def _centre_block(rng: np.random.Generator, block: Block) -> Iterator[Part]:
    """Large slabs in one of three arrangements: the buildings an event can take."""
    (cx, cy), lx, ly = block.centre, block.x1 - block.x0 - 4, block.y1 - block.y0 - 4
    depth = rng.uniform(14.0, 16.5)
    arrangement = (block.column + 2 * block.row + int(rng.integers(2))) % 3
    rows: list[tuple[float, float, float, float, float]]
    if arrangement == 0:
        off = ly / 2 - depth / 2
        rows = [(cx, cy - off, lx, depth, 19), (cx, cy + off, lx, depth, 25)]
    elif arrangement == 1:
        off = lx / 2 - depth / 2
        rows = [(cx - off, cy, depth, ly, 22), (cx + off, cy, depth, ly, 16)]
    else:
        wing = lx - depth - 6
        rows = [
            (cx - lx / 2 + depth / 2, cy, depth, ly, 20),
            (cx + lx / 2 - wing / 2, cy + ly / 2 - depth / 2, wing, depth, 28),
        ]
    for x, y, sx, sy, height in rows:
        size = (sx, sy, height * float(rng.uniform(0.9, 1.12)))
        yield "slab", x, y, size, 0.0, slab(rng, x, y, size)


def _perimeter_block(rng: np.random.Generator, block: Block) -> Iterator[Part]:
    """Terraced houses round a courtyard, each with its own colour and height."""
    depth, inset = 10.5, 1.0
    x0, x1, y0, y1 = block.x0 + inset, block.x1 - inset, block.y0 + inset, block.y1 - inset
    sides = [
        (0.0, x0, x1, y0 + depth / 2), (0.0, x0, x1, y1 - depth / 2),
        (np.pi / 2, y0 + depth, y1 - depth, x0 + depth / 2),
        (np.pi / 2, y0 + depth, y1 - depth, x1 - depth / 2),
    ]  # fmt: skip
    for yaw, start, end, line in sides:
        count = max(1, round((end - start) / rng.uniform(9.5, 13.0)))
        edges = np.linspace(start, end, count + 1)
        for a, b in itertools.pairwise(edges):
            if rng.random() < 0.07:
                continue
            middle = float(a + b) / 2
            x, y = (middle, line) if yaw == 0.0 else (line, middle)
            size = (float(b - a), depth, float(rng.uniform(12.5, 18.0)))
            yield "terrace", x, y, size, yaw, gabled(rng, x, y, size, yaw, brick=0.35)


def _houses_block(rng: np.random.Generator, block: Block) -> Iterator[Part]:
    """Small houses in gardens, in two rows along x."""
    (_, cy), ly = block.centre, block.y1 - block.y0
    for row in (-1, 1):
        count = max(2, round((block.x1 - block.x0) / 14.5))
        for index in range(count):
            x = block.x0 + (index + 0.5) * (block.x1 - block.x0) / count + rng.uniform(-1, 1)
            y = cy + row * ly * 0.29 + rng.uniform(-1.5, 1.5)
            size = (float(rng.uniform(9, 11)), float(rng.uniform(7.5, 9)), float(rng.uniform(7, 9)))
            yaw = float(rng.choice([0.0, np.pi / 2]) + rng.uniform(-0.12, 0.12))
            yield "house", x, y, size, yaw, gabled(rng, x, y, size, yaw, hip=rng.random() < 0.4)


def _towers_block(rng: np.random.Generator, block: Block) -> Iterator[Part]:
    """Two high-rises and a low hall on lawns."""
    cx, cy = block.centre
    for sx, sy, height in ((-1, -1, 39.0), (1, 1, 31.0)):
        x, y = cx + sx * 10.5, cy + sy * 10.5
        size = (17.0, 15.0, float(height * rng.uniform(0.9, 1.0)))
        yield "tower", x, y, size, 0.0, slab(rng, x, y, size)
    size = (16.0, 12.0, 6.0)
    yield "hall", cx + 10, cy - 11, size, 0.0, slab(rng, cx + 10, cy - 11, size)


def _industry_block(rng: np.random.Generator, block: Block) -> Iterator[Part]:
    """A long shed with skylights, a smaller one with a gable, and a chimney."""
    (cx, cy), lx, ly = block.centre, block.x1 - block.x0 - 5, block.y1 - block.y0 - 5
    size = (lx, ly * 0.5, 9.5)
    y = cy + ly * 0.25
    shed = box(
        (cx, y, ground_m(y) - FOUNDATION_M), (size[0], size[1], size[2] + FOUNDATION_M),
        wall=Skin.CLADDING, top=Skin.SKYLIGHTS, wall_rgb=_pick(rng, METALS),
        top_rgb=_pick(rng, METALS), accent_rgb=_pick(rng, TRIMS), seed=int(rng.integers(1 << 20)),
    )  # fmt: skip
    yield "shed", cx, y, size, 0.0, [shed]
    x, y, small = cx - lx * 0.26, cy - ly * 0.27, (lx * 0.46, ly * 0.3, 8.0)
    parts = gabled(rng, x, y, small, brick=1.0)
    yield "workshop", x, y, small, 0.0, parts
    x, tall = cx + lx * 0.1, (2.6, 2.6, 30.0)
    stack = box(
        (x, y, ground_m(y) - FOUNDATION_M), (2.6, 2.6, 32.0), inset_m=(0.6, 0.6),
        wall_rgb=rgb("#a86a50"), top_rgb=DARK, yaw_rad=0.4,
    )  # fmt: skip
    yield "chimney", x, y, tall, 0.4, [stack]


def _square_block(rng: np.random.Generator, block: Block) -> Iterator[Part]:
    """A church on a market square, with stalls."""
    cx, cy = block.centre
    x, y = cx + 3.0, cy + 6.0
    ground, stone = ground_m(y), rgb("#cbb893")
    nave = gabled(rng, x, y, (24.0, 11.0, 16.0), brick=0.0)
    tower = [
        box((x - 14.5, y, ground - FOUNDATION_M), (7, 7, 25.0), wall=Skin.BRICK, wall_rgb=stone),
        box((x - 14.5, y, ground + 23.0), (7.6, 7.6, 13.0), inset_m=(3.75, 3.75),
            wall=Skin.SEAM, wall_rgb=rgb("#6f9483"), top_rgb=rgb("#6f9483")),
    ]  # fmt: skip
    yield "church", x - 4.0, y, (31.0, 11.0, 36.0), 0.0, [*nave, *tower]
    for index in range(9):
        sx, sy = cx - 15 + 6.2 * (index % 5), cy - 14 + 7.0 * (index // 5)
        cloth = rgb(["#d8453a", "#f0f0ea", "#3f77b5", "#e0b23f"][index % 4])
        stall = box(
            (sx, sy, ground_m(sy)), (3.6, 2.8, 2.9), yaw_rad=float(rng.uniform(-0.2, 0.2)),
            inset_m=(0.3, 0.8), wall_rgb=cloth, top_rgb=cloth,
        )  # fmt: skip
        yield "stall", sx, sy, (3.6, 2.8, 2.9), 0.0, [stall]


BUILDERS: dict[BlockKind, Callable[[np.random.Generator, Block], Iterator[Part]]] = {
    BlockKind.CENTRE: _centre_block,
    BlockKind.PERIMETER: _perimeter_block,
    BlockKind.HOUSES: _houses_block,
    BlockKind.TOWERS: _towers_block,
    BlockKind.INDUSTRY: _industry_block,
    BlockKind.SQUARE: _square_block,
}


def build_block(rng: np.random.Generator, block: Block, first: int) -> list[Building]:
    """Return the buildings of a block.

    Args:
        rng: random stream.
        block: the block.
        first: number of its first building; the next ones count on.
    """
    builder = BUILDERS.get(block.kind)
    found = [] if builder is None else list(builder(rng, block))
    return [
        Building(
            f"b{block.column}{block.row}-{index}", style, (x, y, ground_m(y)), size, yaw,
            tuple(solid.owned_by(first + index) for solid in solids),
        )
        for index, (style, x, y, size, yaw, solids) in enumerate(found)
    ]  # fmt: skip
