"""Owns line charts as SVG: curves with bands, a linear or a log2 x axis that may begin at 0."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 560.0, 300.0
_LEFT, _TOP, _RIGHT, _BOTTOM = 52.0, 18.0, 14.0, 44.0
COLOURS = ("#1769e0", "#e0570b", "#17703a", "#8a2be2", "#b3201b", "#007c89", "#6b6b00", "#c2187a")
_TICKS = 5


@dataclass(frozen=True)
class Curve:
    """One line.

    Attributes:
        name: for the legend.
        x, y: the points, in order of x.
        low, high: a band around it (of several seeds), or None.
        dashed: how it is drawn.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """The x axis: its words, and whether it is log2(1 + x) (steps) or linear (seconds)."""

    words: str
    is_log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, before scaling."""
        return math.log2(1.0 + value) if self.is_log else value

    def ticks(self, values: Sequence[float]) -> list[float]:
        """Values to mark."""
        distinct = sorted(set(values))
        if self.is_log:
            return distinct if len(distinct) <= 10 else distinct[:: math.ceil(len(distinct) / 10)]
        return _round_ticks(0.0, max(distinct, default=1.0))


def line_chart(curves: Sequence[Curve], axis: Axis, unit: str, name: str) -> str:
    """Draw curves as an SVG element with a legend; an empty text where nothing is finite.

    Args:
        curves: at most as many as there are colours are told apart.
        axis: of x; unit: of y.
        name: says what the chart shows, for readers that do not see it.
    """
    every = [v for c in curves for part in (c.y, c.low or (), c.high or ()) for v in part]
    finite = [v for v in every if math.isfinite(v)]
    if not finite:
        return ""
    ticks = _round_ticks(min(finite), max(finite))
    low, high = min(ticks[0], min(finite)), max(ticks[-1], max(finite))
    last = max((axis.place(x) for c in curves for x in c.x), default=1.0) or 1.0

    def at(x: float, y: float) -> str:
        across = _LEFT + axis.place(x) / last * (WIDTH - _LEFT - _RIGHT)
        down = _TOP + (high - y) / max(high - low, 1e-9) * (HEIGHT - _TOP - _BOTTOM)
        return f"{across:.1f},{down:.1f}"

    parts = [_grid(ticks, axis, curves, at, low, unit)]
    for i, curve in enumerate(curves):
        parts.append(_drawn(curve, COLOURS[i % len(COLOURS)], at))
    return (
        f'<figure><svg role="img" aria-label="{escape(name)}" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" '
        f'class="chart">{"".join(parts)}</svg>{_legend(curves)}</figure>'
    )


def _drawn(curve: Curve, colour: str, at) -> str:  # type: ignore[no-untyped-def]
    points = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if math.isfinite(y)]
    out = ""
    if curve.low is not None and curve.high is not None:
        edge = list(zip(curve.x, curve.high, strict=True))
        edge += list(zip(curve.x, curve.low, strict=True))[::-1]
        outline = " ".join(at(x, y) for x, y in edge if math.isfinite(y))
        out += f'<polygon points="{outline}" fill="{colour}" fill-opacity="0.15"/>'
    dash = ' stroke-dasharray="6 4"' if curve.dashed else ""
    line = " ".join(at(x, y) for x, y in points)
    out += f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'
    for x, y in points:
        across, down = at(x, y).split(",")
        title = f"<title>{escape(curve.name)}: {x:g} &#8594; {y:.2f}</title>"
        out += f'<circle cx="{across}" cy="{down}" r="3.2" fill="{colour}">{title}</circle>'
    return out


def _grid(
    ticks: Sequence[float], axis: Axis, curves: Sequence[Curve], at, low: float, unit: str
) -> str:  # type: ignore[no-untyped-def]
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    out = ""
    for tick in ticks:
        down = at(0.0, tick).split(",")[1]
        out += f'<line x1="{_LEFT}" x2="{right}" y1="{down}" y2="{down}" class="rule"/>'
        out += f'<text x="{_LEFT - 7}" y="{float(down) + 4:.1f}" text-anchor="end">{tick:g}</text>'
    for tick in axis.ticks([x for curve in curves for x in curve.x]):
        across = at(tick, low).split(",")[0]
        out += f'<text x="{across}" y="{bottom + 17}" text-anchor="middle">{tick:g}</text>'
    middle = (_LEFT + right) / 2
    out += f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(axis.words)}</text>'
    return out + f'<text x="{_LEFT}" y="12">{escape(unit)}</text>'


def _legend(curves: Sequence[Curve]) -> str:
    entries = "".join(
        f'<span><i style="background:{COLOURS[i % len(COLOURS)]}"></i>{escape(c.name)}</span>'
        for i, c in enumerate(curves)
    )
    return f'<figcaption class="legend">{entries}</figcaption>'


def _round_ticks(low: float, high: float) -> list[float]:
    """About five round values from below `low` to above `high`."""
    raw = max(high - low, 1e-6) / _TICKS
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw)
    first = math.floor(low / step)
    count = math.ceil(high / step) - first
    return [round(float(v), 10) for v in (first + np.arange(count + 1)) * step]
