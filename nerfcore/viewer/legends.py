"""Owns the legends of what the picture shows, as HTML."""

from typing import Final, assert_never

from nerfcore.viewer.colours import (
    DEPTH_TABLES,
    EXPERT_RGBS,
    LARGEST_CHANGE,
    NO_DEPTH_RGB,
    DepthMap,
    Show,
)

_FRAME: Final = '<div style="padding:0.2em 0.8em 0.6em;font-size:0.8em">{}</div>'
_BAR: Final = (
    '<div style="height:1.1em;border-radius:3px;background:linear-gradient(to right,{})"></div>'
    '<div style="display:flex;justify-content:space-between">{}</div>'
)
_SWATCH: Final = (
    '<span style="display:inline-block;width:0.8em;height:0.8em;border:1px solid #888;'
    'background:rgb({},{},{})"></span> {}'
)


def legend_html(
    show: Show, depth_max_m: float, expert_count: int, depth_map: DepthMap = DepthMap.TURBO
) -> str:
    """Return the legend of what is shown; empty where none is needed."""
    match show:
        case Show.RGB | Show.OPACITY:
            return ""
        case Show.DEPTH:
            return _FRAME.format(
                _depth_bar(depth_max_m, depth_map) + _swatch(NO_DEPTH_RGB, "nothing hit")
            )
        case Show.EXPERTS:
            marks = (
                _swatch(EXPERT_RGBS[k % len(EXPERT_RGBS)].tolist(), str(k))
                for k in range(min(expert_count, len(EXPERT_RGBS)))
            )
            more = " … colours repeat" if expert_count > len(EXPERT_RGBS) else ""
            return _FRAME.format(" &nbsp; ".join(marks) + more)
        case Show.CHANGE:
            stops = "rgb(255,217,13) 0%, rgb(255,13,13) 100%"
            marks = f"<span>a little</span><span>{LARGEST_CHANGE:.0%} of full scale</span>"
            note = "Grey: as photographed. Dark: no photograph of these sees it."
            return _FRAME.format(_BAR.format(stops, marks) + note)
        case _:
            assert_never(show)


def _depth_bar(depth_max_m: float, depth_map: DepthMap) -> str:
    table = DEPTH_TABLES[depth_map]
    stops = ", ".join(
        f"rgb({r},{g},{b}) {100 * index / 255:.0f}%"
        for index, (r, g, b) in ((i, table[i].tolist()) for i in range(0, 256, 15))
    )
    marks = "".join(f"<span>{depth_max_m * part / 4:g} m</span>" for part in range(5))
    return _BAR.format(stops, marks)


def _swatch(rgb: tuple[int, ...] | list[int], text: str) -> str:
    return _SWATCH.format(*rgb, text)
