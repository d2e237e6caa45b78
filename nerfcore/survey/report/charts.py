"""Owns the chart figures: heights above the ground, and one value for each photograph.

Photographs stand in the order of the roster, which within a flight is that of their names and so
mostly that of the flight.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nerfcore.survey.photographs import PhotoFacts
from nerfcore.survey.report.drawing import (
    Disc,
    Figure,
    Group,
    Shape,
    Text,
    rectangle,
    round_step,
    segment,
)
from nerfcore.survey.survey import Survey

Float64 = NDArray[np.float64]
WIDTH, HEIGHT = 520.0, 262.0
_LEFT, _TOP, _RIGHT, _BOTTOM = 50.0, 26.0, 10.0, 46.0
_BINS: Final = 30
_CROWD: Final = 230  # more photographs than px: their spreads overlap
_PLOT_W, _PLOT_H = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM


@dataclass(frozen=True, eq=False)
class Strip:
    """One value per photograph, to be drawn side by side.

    Attributes:
        values: f64[N]; NaN leaves a gap.
        unit: words for the axis and the hovering text.
        lows, highs: f64[N], a spread drawn behind, or None.
        decimals: shown in the hovering text.
        top: highest value of the axis; None = of the values.
    """

    values: Float64
    unit: str
    lows: Float64 | None = None
    highs: Float64 | None = None
    decimals: int = 0
    top: float | None = None


def exposure_strip(survey: Survey) -> Strip:
    """Return mean brightness with the 5th to 95th percentile of each photograph."""
    facts = survey.photos
    return Strip(
        _each(facts, "brightness"), "brightness, 0 to 255", _each(facts, "low"),
        _each(facts, "high"), top=256.0,
    )  # fmt: skip


def blur_strip(survey: Survey) -> Strip:
    """Return each photograph's blur."""
    return Strip(_each(survey.photos, "blur"), "blur, 0 is sharp", decimals=2)


def points_strip(survey: Survey) -> Strip:
    """Return how many sparse points each photograph sees."""
    counts = survey.tracks.observations.astype(np.float64)
    return Strip(np.where(counts < 0, np.nan, counts), "points seen")


def _each(photos: Sequence[object], field: str) -> Float64:
    return np.array(
        [getattr(one, field) if isinstance(one, PhotoFacts) else np.nan for one in photos]
    )


def strip_chart(survey: Survey, strip: Strip) -> Figure:
    """Draw one value per photograph.

    Args:
        survey: for names and flights.
        strip: the values.
    """
    tops = strip.values if strip.highs is None else strip.highs
    known = tops[np.isfinite(tops)]
    highest = float(known.max(initial=1e-9))
    step = round_step(highest, 4) if strip.top is None else strip.top / 4
    top = float(step * np.ceil(highest / step)) if strip.top is None else strip.top
    shapes = _frame(top, step, strip.unit)
    count = len(strip.values)
    for image in np.flatnonzero(np.isfinite(strip.values)):
        x = _LEFT + (image + 0.5) / count * _PLOT_W
        age = "first" if survey.roster.flights[image] == 0 else "later"
        inner: list[Shape] = []
        if strip.lows is not None and strip.highs is not None:
            low, high = _y(strip.lows[image], top), _y(strip.highs[image], top)
            spread = "band" if count > _CROWD else "spread"
            inner.append(segment(x, low, x, high, f"{spread}-{age}"))
        value = float(strip.values[image])
        dot = float(np.clip(0.35 * _PLOT_W / count, 2.2, 3.6))
        inner += [
            Group([Disc(x, _y(value, top), 8.0, "ring")], only_chosen=True),
            Disc(x, _y(value, top), dot, f"dot-{age}"),
        ]
        title = f"{survey.roster.names[image]}: {value:.{strip.decimals}f} ({strip.unit})"
        shapes.append(Group(inner, "sample", int(image), title))
    shapes.append(Text(_LEFT + _PLOT_W / 2, HEIGHT - 10, "photographs by name", "quiet", 12.5,
                       "middle"))  # fmt: skip
    return Figure(WIDTH, HEIGHT, shapes, f"{strip.unit} of each of {count} photographs")


def height_chart(survey: Survey) -> Figure:
    """Draw how high above the ground the cameras were, flights stacked in their colours."""
    heights = np.clip(survey.views.heights_m, *_usual_range(survey.views.heights_m))
    low, high = float(heights.min()), float(heights.max())
    width = max(round_step(high - low, _BINS), 1.0)
    first = np.floor(low / width) * width
    edges = np.arange(first, high + width * 1.001, width)
    later = survey.roster.flights > 0
    stacks = [np.histogram(heights[mask], edges)[0] for mask in (~later, later)]
    most = float(sum(stacks).max())  # pyright: ignore
    step = max(round_step(most, 4), 1.0)
    top = step * np.ceil(most / step)
    shapes = _frame(top, step, "photographs")
    across = _PLOT_W / (len(edges) - 1)
    for bar in range(len(edges) - 1):
        x, base = _LEFT + bar * across, 0.0
        for counts, age in zip(stacks, ("first", "later"), strict=True):
            if counts[bar] == 0:
                continue
            y = _y(base + counts[bar], top)
            title = f"{_bin_words(survey, edges, bar)}: {counts[bar]} photographs, {age} flight"
            area = rectangle(x + 1, y, max(across - 2, 1), _y(base, top) - y, f"bar-{age}")
            shapes.append(Group([area], "bar", None, title))
            base += counts[bar]
    every = max(1, round((len(edges) - 1) / 8))
    for tick in range(0, len(edges), every):
        x = _LEFT + tick * across
        shapes.append(Text(x, HEIGHT - 24, f"{edges[tick]:g}", "quiet", 12.5, "middle"))
    shapes.append(Text(_LEFT + _PLOT_W / 2, HEIGHT - 7, "metres above the ground", "quiet", 12.5,
                       "middle"))  # fmt: skip
    return Figure(WIDTH, HEIGHT, shapes, "Histogram of the cameras' heights above the ground")


def _bin_words(survey: Survey, edges: Float64, bar: int) -> str:
    low, high = float(edges[bar]), float(edges[bar + 1])
    if bar == 0 and survey.views.heights_m.min() < low:
        return f"{high:g} m or less"
    if bar == len(edges) - 2 and survey.views.heights_m.max() > high:
        return f"{low:g} m or more"
    return f"{low:g} to {high:g} m"


def _usual_range(heights: Float64) -> tuple[float, float]:
    """Return the range to draw: a camera flung far away would squeeze all others into one bar."""
    middle = float(np.median(heights))
    return middle - 3.0 * abs(middle) - 10.0, middle + 3.0 * abs(middle) + 10.0


def _y(value: float, top: float) -> float:
    return _TOP + (1.0 - value / top) * _PLOT_H


def _frame(top: float, step: float, unit: str) -> list[Shape]:
    """Return the plot's background with horizontal lines every `step` and their values."""
    shapes: list[Shape] = [rectangle(_LEFT, _TOP, _PLOT_W, _PLOT_H, "plot")]
    for line in np.arange(0.0, top + step / 2, step):
        y = _y(float(line), top)
        shapes.append(segment(_LEFT, y, WIDTH - _RIGHT, y, "axis"))
        shapes.append(Text(_LEFT - 7, y + 4, f"{round(float(line), 6):g}", "quiet", 12.5, "end"))
    shapes.append(Text(_LEFT, _TOP - 9, unit, "quiet", 12.5))
    return shapes
