"""Owns the problems in HTML: one foldable table per kind, gravest first."""

from html import escape
from itertools import groupby
from typing import Final

from nerfcore.survey.problems import TITLES, Kind, Problem
from nerfcore.survey.survey import Survey

_MOST_OPEN: Final = 12  # a longer table starts folded, unless it is the first
_CHECKED: Final = (
    "Every photograph was checked for blur, darkness, over-exposure and duplicates, every pose "
    "against the sparse points, the ground and its neighbours, every expert for its share of the "
    "work, and the flight for overlap."
)
_HEADINGS: Final = ("Photograph", "Found", "Limit", "Mend")


def problem_list(survey: Survey) -> str:
    """Return the section of problems found."""
    if not survey.problems:
        return (
            '<section class="problems" id="problems"><h2>Problems found</h2><div class="fine">'
            f'<p><b class="is-good">None.</b> {_CHECKED}</p></div></section>'
        )
    kinds = [(kind, list(found)) for kind, found in groupby(survey.problems, lambda one: one.kind)]
    tables = "".join(
        _table(kind, found, is_open=index == 0 or len(found) <= _MOST_OPEN)
        for index, (kind, found) in enumerate(kinds)
    )
    hint = "Choose a row to see its camera on the map." if any(
        one.images for one in survey.problems) else ""  # fmt: skip
    return (
        f'<section class="problems" id="problems"><h2>Problems found '
        f'<span class="count">{len(survey.problems)}</span></h2><p class="lead">{hint}</p>'
        f"{tables}</section>"
    )


def _table(kind: Kind, found: list[Problem], *, is_open: bool) -> str:
    title, why = TITLES[kind]
    severity = found[0].severity
    heads = "".join(f"<th>{heading}</th>" for heading in _HEADINGS)
    rows = "".join(_row(one) for one in found)
    return (
        f'<details class="kind" data-kind="{kind}" data-title="{escape(title)}"'
        f'{" open" if is_open else ""}><summary>{escape(title)} <span class="count">{len(found)}'
        f'</span> <span class="badge is-{severity}">{severity}</span></summary>'
        f'<p class="why">{escape(why)}</p><div class="rows"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def _row(one: Problem) -> str:
    subject, photo = escape(one.subject), ""
    if one.images:
        photo = f' data-photo="{one.images[0]}"'
        subject = f'<a href="#photo-{one.images[0]}">{subject}</a>'
    cells = "".join(f"<td>{escape(text)}</td>" for text in (one.value, one.limit, one.mend))
    return f"<tr{photo}><td>{subject}</td>{cells}</tr>"
