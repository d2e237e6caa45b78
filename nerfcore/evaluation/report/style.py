"""Owns the frame of every report: head, styles, words, tables, pictures inside the page."""

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

# The page can load nothing from anywhere, whatever an image's name says.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
SPLIT_WORDS = {
    "adapted": "images adapted to",
    "new_heldout": "new images held out",
    "old_val": "old validation views",
}
PHOTO_QUALITY = 82
LOSSLESS = 101  # how OpenCV is asked for lossless WebP
_CSS = """
:root{--page:#fff;--panel:#f4f6f8;--ink:#18222c;--muted:#56636f;--rule:#d5dce3}
@media(prefers-color-scheme:dark){:root{--page:#10161c;--panel:#18212a;--ink:#e7ecf1;
--muted:#9eabb8;--rule:#2f3b47}}
body{margin:0 auto;max-width:1180px;padding:24px;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,sans-serif}
h1{margin:.1em 0;font-size:26px}h2{margin:1.6em 0 .5em;font-size:19px}
.kicker{margin:0;color:var(--muted)}.note{color:var(--muted);max-width:80ch}
.beside{display:grid;grid-template-columns:repeat(auto-fit,minmax(360px,1fr));gap:20px}
figure{margin:0;background:var(--panel);border-radius:8px;padding:10px}
figure img{width:100%;display:block;image-rendering:pixelated}
figcaption{color:var(--muted);font-size:13px;padding-top:6px}
.chart{width:100%}.chart text{fill:var(--muted);font-size:12px}.rule{stroke:var(--rule)}
.legend span{margin-right:14px;white-space:nowrap}
.legend i{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:5px}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:13.5px}
td,th{padding:4px 10px;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap}
td:first-child,th:first-child{text-align:left}
.tiles{display:flex;flex-wrap:wrap;gap:12px;padding:0;list-style:none}
.tiles li{background:var(--panel);border-radius:8px;padding:8px 14px}
.tiles b{display:block;font-size:20px}
"""


def page(title: str, kicker: str, body: str) -> str:
    """A whole HTML page without links to anything outside."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}: {escape(kicker)}</title>
<link rel="icon" href="data:,"><style>{_CSS}</style></head>
<body><header><p class="kicker">{escape(kicker)}</p><h1>{escape(title)}</h1></header>
<main>{body}</main></body></html>
"""


def table(
    frame: pd.DataFrame, decimals: int = 2, by_column: Mapping[str, int] | None = None
) -> str:
    """A dataframe as an HTML table; numbers rounded, in some columns otherwise; NaN as a dash."""
    digits = [(by_column or {}).get(str(name), decimals) for name in frame.columns]
    head = "".join(f"<th>{escape(str(name).replace('_', ' '))}</th>" for name in frame.columns)
    rows = "".join(
        f"<tr>{''.join(f'<td>{_cell(v, d)}</td>' for v, d in zip(row, digits, strict=True))}</tr>"
        for row in frame.itertuples(index=False)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>{rows}</table></div>'


def _cell(value: object, decimals: int) -> str:
    if isinstance(value, float):
        if math.isnan(value):
            return "&ndash;"
        return f"{value:.0f}" if value.is_integer() else f"{value:.{decimals}f}"
    return escape(str(value))


def tiles(entries: Sequence[tuple[str, str]]) -> str:
    """Big numbers with their words."""
    items = "".join(f"<li><b>{escape(value)}</b>{escape(words)}</li>" for words, value in entries)
    return f'<ul class="tiles">{items}</ul>'


def picture(path: Path, caption: str, *, lossless: bool = False) -> str:
    """A picture file as a figure with the picture inside, or nothing where there is no file."""
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return "" if found is None else figure(np.asarray(found, np.uint8), caption, lossless=lossless)


def figure(bgr: NDArray[np.uint8], caption: str, *, lossless: bool = False) -> str:
    """A BGR or BGRA picture as a figure."""
    quality = LOSSLESS if lossless else PHOTO_QUALITY
    _, content = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, quality])
    uri = f"data:image/webp;base64,{base64.b64encode(content.tobytes()).decode()}"
    return (
        f'<figure><img alt="{escape(caption)}" src="{uri}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
