"""Owns writing a figure as SVG: crisp, hoverable, and small.

Every shape carries its paint as a class; a camera is a link to itself (`#photo-12`), so that a
click chooses it even without JavaScript. Marks (darts, discs, words) are scaled by `--mark`, so
that the page can keep their size on the screen.
"""

import base64
from collections.abc import Sequence
from html import escape
from typing import assert_never

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

_PHOTO_QUALITY = 78
_LOSSLESS = 101  # how OpenCV is asked for lossless WebP


def to_svg(figure: Figure, name: str) -> str:
    """Return a figure as an SVG element.

    Args:
        figure: what to draw.
        name: the element's id and class.
    """
    return (
        f'<svg id="{name}" class="figure {name}" role="img" aria-label="'
        f'{escape(figure.description)}" viewBox="0 0 {_n(figure.width)} {_n(figure.height)}" '
        f'xmlns="http://www.w3.org/2000/svg">{_all(figure.shapes)}</svg>'
    )


def data_uri(rgba: NDArray[np.uint8], *, photographic: bool) -> str:
    """Return a picture u8[h, w, 4] as a WebP data URI, lossless unless photographic."""
    quality = _PHOTO_QUALITY if photographic else _LOSSLESS
    bgra = cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA)
    _, content = cv2.imencode(".webp", bgra, [cv2.IMWRITE_WEBP_QUALITY, quality])
    return "data:image/webp;base64," + base64.b64encode(content.tobytes()).decode()


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _all(shapes: Sequence[Shape]) -> str:
    return "".join(_one(shape) for shape in shapes)


def _one(shape: Shape) -> str:
    match shape:
        case Line():
            points = " ".join(f"{_n(x)},{_n(y)}" for x, y in shape.places)
            tag = "polygon" if shape.closed else "polyline"
            return f'<{tag} class="{shape.paint}" points="{points}"/>'
        case Disc():
            return (
                f'<g transform="translate({_n(shape.x)} {_n(shape.y)})">'
                f'<circle class="mark {shape.paint}" r="{_n(shape.radius_px)}"/></g>'
            )
        case Dart():
            s = shape.size_px
            return (
                f'<g transform="translate({_n(shape.x)} {_n(shape.y)}) '
                f'rotate({shape.turn_deg:.0f})"><path class="mark {shape.paint}" '
                f'd="M0 {_n(-s)}L{_n(0.72 * s)} {_n(0.8 * s)}L0 {_n(0.4 * s)}L{_n(-0.72 * s)} '
                f'{_n(0.8 * s)}z"/></g>'
            )
        case Text():
            weight = ' font-weight="600"' if shape.bold else ""
            return (
                f'<g transform="translate({_n(shape.x)} {_n(shape.y)})"><text class="mark '
                f'{shape.paint}" font-size="{_n(shape.size_px)}" text-anchor="{shape.anchor}"'
                f"{weight}>{escape(shape.words)}</text></g>"
            )
        case Picture():
            uri = data_uri(shape.rgba, photographic=shape.photographic)
            return (
                f'<image x="{_n(shape.x)}" y="{_n(shape.y)}" width="{_n(shape.width)}" '
                f'height="{_n(shape.height)}" preserveAspectRatio="none" href="{uri}"/>'
            )
        case Group():
            return _group(shape)
        case Pinned():
            return (
                f'<g transform="translate({_n(shape.x)} {_n(shape.y)})"><g class="mark">'
                f"{_all(shape.shapes)}</g></g>"
            )
        case _:
            assert_never(shape)


def _group(group: Group) -> str:
    inside = _all(group.shapes)
    title = f"<title>{escape(group.title)}</title>" if group.title else ""
    classes = " ".join(filter(None, (group.name, "only-chosen" if group.only_chosen else "")))
    if group.image is None:
        return f'<g class="{classes}">{title}{inside}</g>'
    link = f"photo-{group.image}"
    target = f' id="{link}"' if group.name == "camera" else ""
    return (
        f'<a{target} class="{classes} photo" data-photo="{group.image}" href="#{link}" '
        f'aria-label="{escape(group.title)}">{title}{inside}</a>'
    )
