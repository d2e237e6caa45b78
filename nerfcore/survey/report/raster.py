"""Owns drawing a figure as a PNG, with a heading and a legend, to paste into a mail.

Pixels are RGB u8; one figure unit becomes `SCALE` pixels. Colours are those of a light page.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, assert_never

import cv2
import numpy as np
from numpy.typing import NDArray

from nerfcore.survey.report.drawing import (
    Dart,
    Disc,
    Figure,
    Group,
    Line,
    Picture,
    Pinned,
    Shape,
    Text,
)
from nerfcore.survey.report.palette import PAINTS, rgb_of

Canvas = NDArray[np.uint8]
LegendEntry = tuple[str, tuple[int, int, int]]
SCALE: Final = 1.5
_SHIFT: Final = 4  # fractional bits OpenCV takes for coordinates
_MARGIN: Final = 24
_FONT: Final = cv2.FontFace("sans")
_LEGEND_ROW: Final = 24
_DART_GROWN: Final = 1.35  # strokes of whole pixels eat into small shapes
_LEGEND_GAP: Final = 50


def to_png(figure: Figure, heading: str, details: str, legend: Sequence[LegendEntry] = ()) -> bytes:
    """Return a figure as PNG bytes.

    Args:
        figure: what to draw.
        heading, details: two lines above it.
        legend: words and their colours (R, G, B), below it.
    """
    width, top = figure.width + 2 * _MARGIN, 76.0
    rows = _legend_rows(legend, figure.width)
    height = top + figure.height + _MARGIN + _LEGEND_ROW * len(rows)
    canvas = np.full((round(height * SCALE), round(width * SCALE), 3), 255, np.uint8)
    _text(canvas, Text(_MARGIN, 36, heading, size_px=21, bold=True))
    _text(canvas, Text(_MARGIN, 60, details, paint="quiet", size_px=14))
    x, y = round(_MARGIN * SCALE), round(top * SCALE)
    tall, wide = round(figure.height * SCALE), round(figure.width * SCALE)
    window = np.ascontiguousarray(canvas[y : y + tall, x : x + wide])
    _draw(window, figure.shapes)
    canvas[y : y + tall, x : x + wide] = window
    for row, entries in enumerate(rows):
        _legend(canvas, entries, top + figure.height + _LEGEND_ROW * (row + 1))
    _, content = cv2.imencode(".png", cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR))
    return content.tobytes()


def _legend_rows(legend: Sequence[LegendEntry], width: float) -> list[list[LegendEntry]]:
    """Break the legend into rows that fit."""
    rows: list[list[LegendEntry]] = []
    used = width
    for entry in legend:
        needed = _text_width(entry[0], 13) + _LEGEND_GAP
        if used + needed > width:
            rows.append([])
            used = 0.0
        rows[-1].append(entry)
        used += needed
    return rows


def _legend(canvas: Canvas, entries: Sequence[LegendEntry], base: float) -> None:
    x = float(_MARGIN)
    for words, colour in entries:
        corner = (round(x * SCALE), round((base - 11) * SCALE))
        far = (round((x + 14) * SCALE), round((base + 2) * SCALE))
        cv2.rectangle(canvas, corner, far, colour, cv2.FILLED)
        _text(canvas, Text(x + 20, base, words, size_px=13))
        x += _text_width(words, 13) + _LEGEND_GAP


def _text_width(words: str, size_px: float) -> float:
    box = cv2.getTextSize((0, 0), words, (0, 0), _FONT, round(size_px * SCALE))
    return box[2] / SCALE


def _draw(canvas: Canvas, shapes: Sequence[Shape]) -> None:
    for shape in shapes:
        match shape:
            case Line():
                _line(canvas, shape.places, shape.paint, closed=shape.closed)
            case Disc():
                turn = np.linspace(0.0, 2.0 * np.pi, 25)[:-1]
                round_off = np.stack([np.cos(turn), np.sin(turn)], axis=-1) * shape.radius_px
                _line(canvas, round_off + np.array([shape.x, shape.y]), shape.paint, closed=True)
            case Dart():
                _line(canvas, _dart(shape), shape.paint, closed=True)
            case Text():
                _text(canvas, shape)
            case Picture():
                _picture(canvas, shape)
            case Group():
                if not shape.only_chosen:
                    _draw(canvas, shape.shapes)
            case Pinned():
                _draw(canvas, [_moved(one, shape.x, shape.y) for one in shape.shapes])
            case _:
                assert_never(shape)


def _moved(shape: Line | Dart | Text, x: float, y: float) -> Shape:
    if isinstance(shape, Line):
        return replace(shape, places=shape.places + np.array([x, y]))
    return replace(shape, x=shape.x + x, y=shape.y + y)


def _dart(dart: Dart) -> NDArray[np.float64]:
    outline = np.array([[0.0, -1.0], [0.72, 0.8], [0.0, 0.4], [-0.72, 0.8]])
    outline *= _DART_GROWN * dart.size_px
    angle = np.radians(dart.turn_deg)
    turned = outline @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return turned + np.array([dart.x, dart.y])


def _line(canvas: Canvas, places: NDArray[np.float64], name: str, *, closed: bool) -> None:
    paint = PAINTS[name]
    scaled = np.clip(places * SCALE, -1e5, 1e5)
    points = [np.round(scaled * 2**_SHIFT).astype(np.int32)]
    if closed and paint.fill is not None:
        with _blended(canvas, scaled, 2, paint.fill_share) as (part, offset):
            shifted = [points[0] - offset * 2**_SHIFT]
            cv2.fillPoly(part, shifted, rgb_of(paint.fill), cv2.LINE_AA, _SHIFT)
    if paint.stroke is not None:
        thick = max(1, round(paint.width_px * SCALE))
        with _blended(canvas, scaled, thick + 2, paint.stroke_share) as (part, offset):
            shifted = [points[0] - offset * 2**_SHIFT]
            cv2.polylines(part, shifted, closed, rgb_of(paint.stroke), thick, cv2.LINE_AA, _SHIFT)


@contextmanager
def _blended(
    canvas: Canvas, places: NDArray[np.float64], margin: int, share: float
) -> Iterator[tuple[Canvas, NDArray[np.int32]]]:
    """Give a copy of the canvas around some places, and its corner; blend it back at the end."""
    size = np.array(canvas.shape[1::-1])
    low = np.clip(np.floor(places.min(axis=0)).astype(np.int64) - margin, 0, size)
    high = np.clip(np.ceil(places.max(axis=0)).astype(np.int64) + margin, low, size)
    target = canvas[low[1] : high[1], low[0] : high[0]]
    part = target.copy()
    if part.size == 0:
        part = np.zeros((1, 1, 3), np.uint8)
        yield part, low.astype(np.int32)
        return
    yield part, low.astype(np.int32)
    target[...] = cv2.addWeighted(part, share, target, 1.0 - share, 0.0)


def _text(canvas: Canvas, text: Text) -> None:
    fill = PAINTS[text.paint].fill
    size = round(text.size_px * SCALE)
    x = text.x * SCALE
    if text.anchor != "start":
        x -= _text_width(text.words, text.size_px) * SCALE * (0.5 if text.anchor == "middle" else 1)
    place = (round(x), round(text.y * SCALE))
    cv2.putText(
        canvas, text.words, place, rgb_of(fill or "ink"), _FONT, size, 650 if text.bold else 400
    )


def _picture(canvas: Canvas, picture: Picture) -> None:
    x, y = round(picture.x * SCALE), round(picture.y * SCALE)
    size = (round(picture.width * SCALE), round(picture.height * SCALE))
    way = cv2.INTER_LINEAR if picture.photographic else cv2.INTER_NEAREST
    rgba = np.asarray(cv2.resize(picture.rgba, size, interpolation=way), np.float32)
    target = canvas[y : y + size[1], x : x + size[0]]
    rgba = rgba[: target.shape[0], : target.shape[1]]
    share = rgba[..., 3:] / 255.0
    target[...] = np.round(rgba[..., :3] * share + target * (1.0 - share)).astype(np.uint8)
