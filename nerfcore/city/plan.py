"""Owns the town's layout: streets, blocks and what stands on each, the river, the slope."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

GROUND_SLOPE = 0.02  # rise of the ground per metre away from the river (towards +y)
RIVER_HALF_WIDTH_M = 10.0
RIVER_WAVE_M = (4.0, 46.0)  # amplitude, wavelength / (2 pi)


class BlockKind(StrEnum):
    """What a block is built up with."""

    CENTRE = "centre"
    PERIMETER = "perimeter"
    HOUSES = "houses"
    TOWERS = "towers"
    INDUSTRY = "industry"
    PARK = "park"
    SQUARE = "square"


@dataclass(frozen=True)
class Block:
    """A block between streets: its ground from kerb to kerb, m in the city frame."""

    column: int
    row: int
    kind: BlockKind
    x0: float
    x1: float
    y0: float
    y1: float

    @property
    def centre(self) -> tuple[float, float]:
        """Return the middle of the block."""
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2


@dataclass(frozen=True)
class Street:
    """A straight street: where its centre line lies, and its width from kerb to kerb, m."""

    at: float
    width: float


@dataclass(frozen=True)
class Plan:
    """The layout of one town.

    Attributes:
        yaw_rad: turn from the city frame to ENU, counter-clockwise seen from above.
        across: streets along y, sorted by x; along: streets along x, sorted by y.
        blocks: all blocks.
        half_m: half the town's extent; the river lies just beyond y = -half_m.
        river_y: the river's mean centre line.
    """

    yaw_rad: float
    across: tuple[Street, ...]
    along: tuple[Street, ...]
    blocks: tuple[Block, ...]
    half_m: float
    river_y: float

    def enu_from_city(self) -> NDArray[np.float64]:
        """Return f64[3, 3] that turns city coordinates into ENU."""
        c, s = np.cos(self.yaw_rad), np.sin(self.yaw_rad)
        return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])

    def river_centre(self, x: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Return the y of the river's centre line at x, m."""
        amplitude, wavelength = RIVER_WAVE_M
        return self.river_y + amplitude * np.sin(np.asarray(x) / wavelength)


def ground_m(y: float) -> float:
    """Return the height of the ground at y, m."""
    return GROUND_SLOPE * y


def stream(seed: int, purpose: int) -> np.random.Generator:
    """Return a random stream of its own for one purpose, so that purposes never disturb another."""
    return np.random.default_rng([seed, purpose])


def _streets(rng: np.random.Generator, blocks: int) -> tuple[Street, ...]:
    pitches = rng.uniform(52.0, 59.0, blocks)
    lines = np.concatenate([[0.0], np.cumsum(pitches)])
    lines -= lines.mean()
    widths = np.where(np.arange(blocks + 1) == blocks // 2, 17.0, 12.5)
    return tuple(Street(float(at), float(width)) for at, width in zip(lines, widths, strict=True))


def _kinds(rng: np.random.Generator, centres: NDArray[np.float64]) -> list[BlockKind]:
    """Put the large buildings in the middle, and share out the rest so that each kind occurs."""
    distance = np.linalg.norm(centres, axis=1)
    core = distance < max(48.0, float(distance.min()) + 12.0)
    rest = np.flatnonzero(~core)
    rng.shuffle(rest)
    cycle = [
        BlockKind.PARK, BlockKind.SQUARE, BlockKind.PERIMETER, BlockKind.HOUSES, BlockKind.TOWERS,
        BlockKind.PERIMETER, BlockKind.INDUSTRY, BlockKind.HOUSES, BlockKind.PERIMETER,
    ]  # fmt: skip
    kinds = [BlockKind.CENTRE] * len(centres)
    for order, index in enumerate(rest):
        kinds[index] = cycle[order % len(cycle)]
    return kinds


def make_plan(seed: int, blocks: int) -> Plan:
    """Lay out a town.

    Args:
        seed: decides everything random.
        blocks: blocks a side.
    """
    rng = stream(seed, 1)
    across, along = _streets(rng, blocks), _streets(rng, blocks)
    cells = [(i, j) for j in range(blocks) for i in range(blocks)]
    edges = [
        (
            across[i].at + across[i].width / 2, across[i + 1].at - across[i + 1].width / 2,
            along[j].at + along[j].width / 2, along[j + 1].at - along[j + 1].width / 2,
        )
        for i, j in cells
    ]  # fmt: skip
    centres = np.array([((x0 + x1) / 2, (y0 + y1) / 2) for x0, x1, y0, y1 in edges])
    kinds = _kinds(rng, centres)
    half = max(abs(street.at) + street.width / 2 for street in (*across, *along))
    return Plan(
        yaw_rad=float(rng.uniform(0.15, 0.5)),
        across=across,
        along=along,
        blocks=tuple(
            Block(i, j, kind, *edge) for (i, j), kind, edge in zip(cells, kinds, edges, strict=True)
        ),
        half_m=half,
        river_y=along[0].at - along[0].width / 2 - RIVER_HALF_WIDTH_M - RIVER_WAVE_M[0] - 6.0,
    )
