"""Owns the painted ground: streets with markings, yards, parks, river, fields, as albedo rasters.

A raster covers the square |x|, |y| <= half; row r, column c is the point
(-half + (c + 0.5) texel, -half + (r + 0.5) texel) of the city frame. Values are linear albedo.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from nerfcore.city.plan import RIVER_HALF_WIDTH_M, Block, BlockKind, Plan, Street, stream
from nerfcore.city.solids import Rgb, Solid, rgb

Raster = NDArray[np.float32]

ASPHALT, PAVING, PAINT = rgb("#77787b"), rgb("#b7b0a4"), rgb("#eceae4")
GRASS, MEADOW, GRAVEL, EARTH = rgb("#7c9150"), rgb("#8f9c58"), rgb("#c9bda2"), rgb("#9a8160")
COBBLES, WATER, SAND, DUST = rgb("#b59f86"), rgb("#4f7479"), rgb("#d3c39a"), rgb("#aaa093")
FIELDS = [rgb(c) for c in (
    "#8fa05a", "#c2b070", "#a7b468", "#7d9150", "#d3c684", "#97805c", "#6f8a4c", "#b5a162",
)]  # fmt: skip
FAR_HALF_M, FAR_TEXEL_M = 720.0, 1.0


@dataclass
class Canvas:
    """A raster being painted, addressed in metres."""

    half: float
    texel: float
    pixels: Raster

    def rect(self, x0: float, x1: float, y0: float, y1: float, colour: Rgb) -> None:
        """Fill an axis-aligned rectangle."""
        c0, c1, r0, r1 = (
            int(np.clip(round((v + self.half) / self.texel), 0, self.pixels.shape[0]))
            for v in (x0, x1, y0, y1)
        )
        self.pixels[r0:r1, c0:c1] = colour

    def polygon(self, corners: NDArray[np.float64], colour: Rgb) -> None:
        """Fill a polygon, f64[N, 2]."""
        scaled = np.round(((corners + self.half) / self.texel - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(self.pixels, [scaled], colour, shift=4)

    def disc(self, x: float, y: float, radius: float, colour: Rgb) -> None:
        """Fill a disc."""
        angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        circle = np.column_stack([x + radius * np.cos(angles), y + radius * np.sin(angles)])
        self.polygon(circle, colour)


def mottle(rng: np.random.Generator, size: int, scales_px: dict[float, float]) -> Raster:
    """Return f32[size, size] of smooth noise around 1.

    Args:
        rng: random stream.
        size: pixels a side.
        scales_px: wavelength -> amplitude of each octave.
    """
    total = np.ones((size, size), np.float32)
    for scale, amplitude in scales_px.items():
        coarse = rng.uniform(-1, 1, (int(size / scale) + 3,) * 2).astype(np.float32)
        total += amplitude * cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return total


def paint_far(plan: Plan, seed: int) -> Canvas:
    """Paint the country round the town: a patchwork of fields and woods, and the river."""
    rng = stream(seed, 2)
    size = round(2 * FAR_HALF_M / FAR_TEXEL_M)
    seeds = np.ones((size, size), np.uint8)
    places = rng.integers(0, size, (230, 2))
    seeds[places[:, 0], places[:, 1]] = 0
    _, labels = cv2.distanceTransformWithLabels(
        seeds, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    labels = np.asarray(labels, np.int32)
    count = int(labels.max()) + 1
    colours = np.array(FIELDS, np.float32)[rng.integers(len(FIELDS), size=count)]
    angles = rng.uniform(0, np.pi, count).astype(np.float32)
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
    furrow = np.sin((np.cos(angles)[labels] * columns + np.sin(angles)[labels] * rows) * 0.55)
    pixels = colours[labels] * (1 + 0.08 * furrow[..., None])
    wood = mottle(rng, size, {90.0: 0.9, 30.0: 0.35})
    leaves = mottle(rng, size, {7.0: 0.35, 3.0: 0.3})
    pixels[wood > 1.4] = (np.array(rgb("#4f6a38")) * leaves[..., None])[wood > 1.4]
    pixels *= mottle(rng, size, {60.0: 0.12, 12.0: 0.06})[..., None]
    canvas = Canvas(FAR_HALF_M, FAR_TEXEL_M, np.ascontiguousarray(pixels, np.float32))
    _river(canvas, plan)
    return canvas


def _street(canvas: Canvas, plan: Plan, street: Street, along_x: bool) -> None:
    """Paint one street: carriageway, kerbs, centre dashes, edge lines."""

    def rect(a0: float, a1: float, b0: float, b1: float, colour: Rgb) -> None:
        edges = (a0, a1, b0, b1) if along_x else (b0, b1, a0, a1)
        canvas.rect(*edges, colour)

    end = plan.half_m + (45.0 if not along_x else 0.0)
    lane = street.width / 2 - 2.2
    rect(-end, plan.half_m, street.at - lane, street.at + lane, ASPHALT)
    for side in (-1, 1):
        edge = street.at + side * lane
        rect(-end, plan.half_m, edge - 0.2, edge + 0.2, rgb("#d2cdc2"))
    for start in np.arange(-plan.half_m, plan.half_m, 6.0):
        rect(start, start + 3.0, street.at - 0.18, street.at + 0.18, PAINT)
    if street.width > 15:
        rect(-plan.half_m, plan.half_m, street.at - 0.9, street.at + 0.9, GRASS)


def _crossings(canvas: Canvas, plan: Plan) -> None:
    """Paint junctions: plain asphalt, with zebra stripes before them."""
    for a in plan.across:
        for b in plan.along:
            wa, wb = a.width / 2 - 2.2, b.width / 2 - 2.2
            canvas.rect(a.at - wa, a.at + wa, b.at - wb, b.at + wb, ASPHALT)
            for side in (-1, 1):
                for off in np.arange(-wa + 0.5, wa - 0.5, 1.5):
                    y = b.at + side * (wb + 2.2)
                    canvas.rect(a.at + off, a.at + off + 0.75, y - 1.5, y + 1.5, PAINT)
                for off in np.arange(-wb + 0.5, wb - 0.5, 1.5):
                    x = a.at + side * (wa + 2.2)
                    canvas.rect(x - 1.5, x + 1.5, b.at + off, b.at + off + 0.75, PAINT)


def _parking(canvas: Canvas, x0: float, x1: float, y0: float, y1: float) -> None:
    """Paint a car park with bays."""
    canvas.rect(x0, x1, y0, y1, rgb("#868686"))
    for x in np.arange(x0 + 0.5, x1 - 2.0, 2.6):
        for low, high in ((y0, y0 + 5.0), (y1 - 5.0, y1)):
            canvas.rect(x, x + 0.28, low, high, PAINT)


def _park(canvas: Canvas, block: Block) -> None:
    """Paint a park: lawns, winding and straight paths, a pond."""
    (cx, cy), span = block.centre, block.x1 - block.x0
    canvas.rect(block.x0, block.x1, block.y0, block.y1, GRASS)
    for k in (-1, 1):
        t = np.linspace(-0.5, 0.5, 40)
        x, y = cx + t * span, cy + k * t * (block.y1 - block.y0) + 3 * np.sin(9 * t)
        edge = np.concatenate([np.column_stack([x, y - 1.1]), np.column_stack([x, y + 1.1])[::-1]])
        canvas.polygon(edge, GRAVEL)
    canvas.disc(cx, cy, 7.5, GRAVEL)
    canvas.disc(cx, cy, 5.4, WATER)
    canvas.disc(cx + 12, cy - 1, 4.5, rgb("#b5583f"))
    canvas.disc(cx + 12, cy - 1, 3.2, rgb("#d8b54a"))


def _yard(canvas: Canvas, block: Block, rng: np.random.Generator) -> None:
    """Paint the ground of a block that is built up."""
    x0, x1, y0, y1 = block.x0, block.x1, block.y0, block.y1
    cx, cy = block.centre
    if block.kind is BlockKind.PARK:
        _park(canvas, block)
    elif block.kind is BlockKind.HOUSES:
        canvas.rect(x0, x1, y0, y1, GRASS)
        canvas.rect(x0, x1, cy - 1.2, cy + 1.2, GRAVEL)
        for x in np.arange(x0 + 4, x1 - 4, 14.0):
            canvas.rect(x, x + 3.0, y0, y1, rgb("#b9ada0"))
            canvas.rect(x + 6, x + 9.5, cy + 3, cy + 6, EARTH)
    elif block.kind is BlockKind.SQUARE:
        canvas.rect(x0, x1, y0, y1, COBBLES)
        for x in np.arange(x0 + 3, x1 - 3, 6.0):
            canvas.rect(x, x + 0.5, y0, y1, rgb("#d8cbb4"))
        for y in np.arange(y0 + 3, y1 - 3, 6.0):
            canvas.rect(x0, x1, y, y + 0.5, rgb("#d8cbb4"))
        canvas.disc(cx + 13, cy - 12, 3.6, rgb("#e2dccd"))
        canvas.disc(cx + 13, cy - 12, 2.8, WATER)
    elif block.kind is BlockKind.TOWERS:
        canvas.rect(x0, x1, y0, y1, GRASS)
        _parking(canvas, x0 + 1, cx - 3, cy + 3, y1 - 1)
        canvas.rect(cx - 1.4, cx + 1.4, y0, y1, PAVING)
    elif block.kind is BlockKind.INDUSTRY:
        canvas.rect(x0, x1, y0, y1, rgb("#8f8c86"))
        _parking(canvas, cx + 7, x1 - 1, y0 + 1, cy - 2)
    else:
        canvas.rect(x0 + 2, x1 - 2, y0 + 2, y1 - 2, [GRASS, GRAVEL, MEADOW][rng.integers(3)])
        canvas.rect(cx - 5, cx + 5, cy - 4, cy + 4, [GRASS, COBBLES, EARTH][rng.integers(3)])


def _river(canvas: Canvas, plan: Plan) -> None:
    """Paint the river with its banks and a tow path."""
    x = np.arange(-canvas.half - 5, canvas.half + 5, 2.0)
    centre = plan.river_centre(x)
    for reach, colour in ((20.0, MEADOW), (14.6, GRAVEL), (13.2, GRASS),
                          (RIVER_HALF_WIDTH_M + 1, SAND), (RIVER_HALF_WIDTH_M, WATER)):  # fmt: skip
        low, high = np.column_stack([x, centre - reach]), np.column_stack([x, centre + reach])
        canvas.polygon(np.concatenate([low, high[::-1]]), colour)


def paint_town(plan: Plan, seed: int, far: Canvas) -> Canvas:
    """Paint the town's ground over the fields round it."""
    rng = stream(seed, 3)
    half = plan.half_m + 45.0
    texel = 0.25 if half < 260 else 0.4
    size = round(2 * half / texel)
    lo, hi = (round((s * half + far.half) / far.texel) for s in (-1, 1))
    base = cv2.resize(far.pixels[lo:hi, lo:hi], (size, size), interpolation=cv2.INTER_LINEAR)
    canvas = Canvas(half, texel, np.ascontiguousarray(base, np.float32))
    edge = plan.half_m
    canvas.rect(-edge, edge, -edge, edge, PAVING)
    for block in plan.blocks:
        _yard(canvas, block, rng)
    _river(canvas, plan)
    for street in plan.across:
        _street(canvas, plan, street, along_x=False)
    for street in plan.along:
        _street(canvas, plan, street, along_x=True)
    _crossings(canvas, plan)
    wear = {4.0 / texel: 0.09, 1.6 / texel: 0.09, 24.0 / texel: 0.08, 0.6 / texel: 0.07}
    canvas.pixels *= mottle(rng, size, wear)[..., None]
    np.clip(canvas.pixels, 0.01, 0.9, out=canvas.pixels)
    return canvas


def scatter_debris(canvas: Canvas, rng: np.random.Generator, places: list[Solid]) -> None:
    """Paint a skirt of dust and debris around heaps of rubble."""
    size = canvas.pixels.shape[0]
    drift = mottle(rng, size, {7.0 / canvas.texel: 0.5, 2.0 / canvas.texel: 0.3}) - 1.0
    grain = mottle(rng, size, {2.2 / canvas.texel: 0.2, 0.8 / canvas.texel: 0.3})
    dust = np.array(DUST, np.float32)
    middle = (np.arange(size) + 0.5) * canvas.texel - canvas.half
    for heap in places:
        (x, y, _), (hx, hy, _) = heap.centre_m, heap.half_m
        du = np.maximum(np.abs(middle - x) - hx * 0.9, 0.0)[None, :]
        dv = np.maximum(np.abs(middle - y) - hy * 0.9, 0.0)[:, None]
        rows, columns = dv[:, 0] < 14.0, du[0] < 14.0
        region = np.ix_(rows, columns)
        away = np.hypot(du[:, columns], dv[rows])
        cover = np.clip(0.95 - away / 8.0 + drift[region], 0.0, 0.9)[..., None]
        canvas.pixels[region] = (
            canvas.pixels[region] * (1 - cover) + dust * grain[region][..., None] * cover
        )
        for _ in range(110):
            u, v = rng.normal(0, hx + 1.5), rng.normal(0, hy + 1.5)
            gain = float(rng.uniform(0.3, 1.35))
            colour = (DUST[0] * gain, DUST[1] * gain, DUST[2] * gain)
            canvas.disc(x + u, y + v, float(rng.uniform(0.2, 0.65)), colour)


def pyramid(pixels: Raster) -> list[Raster]:
    """Return the raster and its halvings, each texel the mean of four, down to a few texels."""
    levels = [pixels]
    while min(levels[-1].shape[:2]) > 8:
        rows, columns = levels[-1].shape[:2]
        smaller = (columns // 2, rows // 2)
        halved = cv2.resize(levels[-1], smaller, interpolation=cv2.INTER_AREA)
        levels.append(np.asarray(halved, np.float32))
    return levels
