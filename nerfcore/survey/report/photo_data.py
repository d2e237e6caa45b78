"""Owns what the page knows about each photograph: its facts in words, and its thumbnail."""

import json
from typing import Any, Final

import numpy as np

from nerfcore.survey.photographs import PhotoFacts
from nerfcore.survey.survey import Survey

MOST_THUMBNAILS: Final = 400  # about 10 kB each; photographs with problems come first


def photo_data(survey: Survey) -> str:
    """Return the photographs as JSON that is safe inside a script element."""
    shown = _with_thumbnail(survey)
    photos = [_one(survey, image, thumbnail=image in shown) for image in range(len(survey.roster))]
    text = json.dumps(photos, ensure_ascii=False, separators=(",", ":"))
    # "</script>" or "<!--" inside a name would end or hide the element.
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _with_thumbnail(survey: Survey) -> set[int]:
    count = len(survey.roster)
    if count <= MOST_THUMBNAILS:
        return set(range(count))
    shown = list(dict.fromkeys(i for one in survey.problems for i in one.images))[:MOST_THUMBNAILS]
    spread = np.linspace(0, count - 1, MOST_THUMBNAILS - len(shown)).round().astype(int)
    return {*shown, *spread.tolist()}


def _one(survey: Survey, image: int, *, thumbnail: bool) -> dict[str, Any]:
    photo = survey.photos[image]
    whole = isinstance(photo, PhotoFacts)
    return {
        "name": survey.roster.names[image],
        "facts": facts_of(survey, image),
        "thumbnail": photo.thumbnail if whole and thumbnail else "",
    }


def facts_of(survey: Survey, image: int) -> list[tuple[str, str]]:
    """Return what is known about a photograph, as pairs of a term and a value with its unit."""
    roster, views, tracks = survey.roster, survey.views, survey.tracks
    photo = survey.photos[image]
    size = f"{roster.images.widths_px[image]} x {roster.images.heights_px[image]} px"
    facts = [
        ("set", roster.splits[image]),
        ("size", size),
        ("above ground", f"{views.heights_m[image]:.1f} m"),
        ("tilt from vertical", f"{views.tilts_deg[image]:.0f}°"),
    ]
    if np.isfinite(views.gsd_cm[image]):
        facts.append(("ground per pixel", f"{views.gsd_cm[image]:.1f} cm"))
    if np.isfinite(views.overlaps[image]):
        facts.append(("overlap", f"{views.overlaps[image]:.0%}"))
    if isinstance(photo, PhotoFacts):
        facts += [("blur", f"{photo.blur:.2f}"), ("brightness", f"{photo.brightness:.0f}")]
    if tracks.observations[image] >= 0:
        facts.append(("points seen", f"{tracks.observations[image]:,}"))
    if np.isfinite(tracks.errors_px[image]):
        facts.append(("reprojection", f"{tracks.errors_px[image]:.2f} px"))
    return facts
