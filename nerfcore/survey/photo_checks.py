"""Owns finding photographs that spoil training by what they show: blur, exposure, duplicates."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from nerfcore.survey import problems as limits
from nerfcore.survey.footprints import Views
from nerfcore.survey.photographs import BURNT, DARK, PhotoFacts, Unreadable
from nerfcore.survey.problems import Kind, Problem, Severity
from nerfcore.survey.roster import Roster

Float64 = NDArray[np.float64]
_CHUNK = 256
REMOVE = "remove it from images/ and the model, then prepare again"


def check_photographs(
    roster: Roster, views: Views, photos: Sequence[PhotoFacts | Unreadable]
) -> list[Problem]:
    """Find unreadable, changed, blurred, badly exposed and duplicate photographs.

    Args:
        roster, views: the photographs and what they see.
        photos: what their pixels tell, in the same order.
    """
    found = [
        _unusable(roster.names[i], i, photo)
        for i, photo in enumerate(photos)
        if isinstance(photo, Unreadable)
    ]
    for flight in range(len(roster.flight_names)):
        mine = {
            i: photo
            for i in np.flatnonzero(roster.flights == flight).tolist()
            if isinstance(photo := photos[i], PhotoFacts)
        }
        if mine:
            found += _blurred(roster, mine)
            found += _badly_exposed(roster, mine)
    return found + list(_duplicates(roster, views, photos))


def _unusable(name: str, index: int, photo: Unreadable) -> Problem:
    if photo.is_changed:
        return Problem(
            Kind.CHANGED, Severity.SERIOUS, name, photo.reason, "the file that was prepared",
            "restore it from a copy, or prepare the dataset again with --overwrite", (index,),
        )  # fmt: skip
    return Problem(
        Kind.UNREADABLE, Severity.SERIOUS, name, photo.reason, "a whole JPEG or PNG",
        "copy the original photograph again, then prepare again", (index,),
    )  # fmt: skip


def _blurred(roster: Roster, mine: dict[int, PhotoFacts]) -> Iterator[Problem]:
    usual = float(np.median([photo.blur for photo in mine.values()]))
    limit = max(limits.BLUR_FLOOR, usual + limits.BLUR_ABOVE_FLIGHT)
    for image, photo in mine.items():
        if photo.blur > limit:
            grave = photo.blur > max(limits.BLUR_GRAVE, limit)
            yield Problem(
                Kind.BLURRED, Severity.SERIOUS if grave else Severity.WARNING, roster.names[image],
                f"blur {photo.blur:.2f}", f"at most {limit:.2f} (this flight: {usual:.2f})",
                REMOVE, (image,),
            )  # fmt: skip


def _badly_exposed(roster: Roster, mine: dict[int, PhotoFacts]) -> Iterator[Problem]:
    usual = float(np.median([photo.light for photo in mine.values()]))
    for image, photo in mine.items():
        stops = float(np.log2(max(photo.light, 1e-5) / max(usual, 1e-5)))
        if photo.brightness < limits.DARKEST or photo.dark_share > limits.DARK_SHARE:
            kind, value = Kind.DARK, f"brightness {photo.brightness:.0f}, {photo.dark_share:.0%} "\
                f"of pixels below {DARK}"  # fmt: skip
            limit = f"at least {limits.DARKEST:.0f} and at most {limits.DARK_SHARE:.0%}"
        elif photo.burnt_share > limits.BURNT_SHARE:
            kind, value = Kind.BURNT, f"{photo.burnt_share:.0%} of pixels above {BURNT}"
            limit = f"at most {limits.BURNT_SHARE:.0%}"
        elif abs(stops) > limits.STOPS_OFF:
            kind, value = Kind.EXPOSURE_JUMP, f"{stops:+.1f} stops"
            limit = f"at most {limits.STOPS_OFF:.0f} stop from the flight's median"
        else:
            continue
        yield Problem(
            kind, Severity.WARNING, roster.names[image], value, limit,
            "develop it again from the raw file with the flight's exposure, or " + REMOVE,
            (image,),
        )  # fmt: skip


def _duplicates(
    roster: Roster, views: Views, photos: Sequence[PhotoFacts | Unreadable]
) -> Iterator[Problem]:
    named = np.zeros(len(photos), np.int64)
    for first, second, alike, same_file in _like_pairs(photos):
        named[first] += 1
        if named[first] > limits.MOST_PAIRS:
            continue
        apart_m = float(np.linalg.norm(roster.positions_m[first] - roster.positions_m[second]))
        near_m = limits.SAME_PLACE * max(float(views.heights_m[first]), 1.0)
        turned_deg = _turned_deg(roster, first, second)
        what = "same file" if same_file else f"{alike:.1%} alike"
        value = f"{what} as {roster.names[second]}, cameras {apart_m:.2f} m and {turned_deg:.1f}° "\
            "apart"  # fmt: skip
        moved = apart_m > near_m or turned_deg > 2.0
        yield Problem(
            Kind.TWO_POSES if moved else Kind.DUPLICATE,
            Severity.SERIOUS if moved else Severity.WARNING,
            roster.names[first], value,
            f"like pictures have like poses: within {near_m:.1f} m and 2°" if moved
            else f"less than {limits.ALIKE:.1%} alike",
            "find the true pose of both and remove the other" if moved
            else f"keep one of the two; remove {roster.names[first]} and prepare again",
            (first, second),
        )  # fmt: skip


def _turned_deg(roster: Roster, first: int, second: int) -> float:
    turn = roster.rotations[first].T @ roster.rotations[second]
    return float(np.degrees(np.arccos(np.clip((np.trace(turn) - 1.0) / 2.0, -1.0, 1.0))))


def _like_pairs(
    photos: Sequence[PhotoFacts | Unreadable],
) -> Iterator[tuple[int, int, float, bool]]:
    """Yield (later, earlier, likeness, same file) of photographs that look alike."""
    known = [(i, photo) for i, photo in enumerate(photos) if isinstance(photo, PhotoFacts)]
    if not known:
        return
    rows = np.array([i for i, _ in known])
    prints = np.array([photo.fingerprint for _, photo in known])
    digests = np.array([photo.digest for _, photo in known])
    for start in range(0, len(known), _CHUNK):
        likeness = prints[start : start + _CHUNK] @ prints.T
        same = digests[start : start + _CHUNK, None] == digests
        earlier = np.arange(len(known)) < np.arange(start, start + len(likeness))[:, None]
        for a, b in zip(*np.nonzero(((likeness > limits.ALIKE) | same) & earlier), strict=True):
            yield int(rows[start + a]), int(rows[b]), float(likeness[a, b]), bool(same[a, b])
