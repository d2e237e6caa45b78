"""Owns what counts as a problem: kinds, how grave, their limits, and the record of one found.

A limit that depends on the dataset (an image darker than its flight) is derived where it is
checked; everything fixed stands here.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

# Sharpness: see `photographs.blur_of`. Photographs of one flight differ by less than 0.06.
BLUR_FLOOR: Final = 0.36
BLUR_ABOVE_FLIGHT: Final = 0.10
BLUR_GRAVE: Final = 0.55
# Exposure.
DARKEST: Final = 40.0  # mean luma
DARK_SHARE: Final = 0.5
BURNT_SHARE: Final = 0.10
STOPS_OFF: Final = 1.0
# Likeness of two fingerprints (cosine), and how near cameras of such a pair are.
ALIKE: Final = 0.985
SAME_PLACE: Final = 0.02  # of the height above the ground
MOST_PAIRS: Final = 3  # duplicates named per photograph
# Poses.
ERROR_FLOOR_PX: Final = 1.5
ERROR_TIMES: Final = 4.0  # times the median photograph's reprojection error
ERROR_CEILING_PX: Final = 4.0  # whatever the flight: a scene seen so far off is haze
FAR_TIMES: Final = 5.0  # times the flight's median distance to the nearest camera
HEIGHT_TIMES: Final = 2.5
UPWARD_DEG: Final = 80.0
# Points.
FEWEST_POINTS: Final = 20
POINTS_SHARE: Final = 0.15  # of the flight's median
# Experts.
MASKS_APART: Final = 0.03  # stored masks have other pixels, which differ at borders
UNBALANCED: Final = 0.25  # of an equal share
# The dataset as a whole.
LEAST_OVERLAP: Final = 0.6
LEAST_CAMERAS: Final = 3.0
LEAST_PHOTOGRAPHS: Final = 10


class Severity(StrEnum):
    """How grave a problem is."""

    SERIOUS = "serious"
    WARNING = "warning"
    NOTE = "note"


class Kind(StrEnum):
    """What is wrong; the value names it in HTML and JSON."""

    UNREADABLE = "unreadable"
    CHANGED = "changed"
    POSE_ERROR = "pose_error"
    POSE_FAR = "pose_far"
    POSE_HEIGHT = "pose_height"
    POSE_UPWARD = "pose_upward"
    TWO_POSES = "two_poses"
    EMPTY_EXPERT = "empty_expert"
    FEW_PHOTOGRAPHS = "few_photographs"
    LOW_OVERLAP = "low_overlap"
    NO_POINTS = "no_points"
    BLURRED = "blurred"
    FEW_POINTS = "few_points"
    DARK = "dark"
    BURNT = "burnt"
    EXPOSURE_JUMP = "exposure_jump"
    DUPLICATE = "duplicate"
    UNBALANCED_EXPERT = "unbalanced_expert"
    STALE_MASKS = "stale_masks"
    NO_EXPERTS = "no_experts"
    NO_PLACE = "no_place"


TITLES: Final[dict[Kind, tuple[str, str]]] = {
    Kind.UNREADABLE: ("Unreadable photograph", "Training stops at it."),
    Kind.CHANGED: (
        "File changed since it was prepared",
        "Its checksum differs from the recorded one: damaged or replaced. Training stops at it.",
    ),
    Kind.POSE_ERROR: (
        "Pose disagrees with the points",
        "The scene is seen shifted in these photographs; everything they see turns to haze.",
    ),
    Kind.POSE_FAR: (
        "Camera far from all others",
        "Usually a wrong pose; it stretches the scene and wastes cells.",
    ),
    Kind.POSE_HEIGHT: (
        "Odd height above the ground",
        "Below the ground, or far above or below the rest of the flight: usually a wrong pose.",
    ),
    Kind.POSE_UPWARD: (
        "Looks at the sky",
        "Sky has no depth; it becomes haze between camera and ground.",
    ),
    Kind.TWO_POSES: (
        "One picture with two poses",
        "At least one of the poses is wrong, or a file was copied under another name.",
    ),
    Kind.EMPTY_EXPERT: (
        "Empty expert",
        "No photograph sees what it owns; it learns nothing and takes memory.",
    ),
    Kind.FEW_PHOTOGRAPHS: ("Few photographs", "Too few views to recover depth."),
    Kind.LOW_OVERLAP: ("Little overlap", "Depth is left to chance where few photographs overlap."),
    Kind.NO_POINTS: (
        "No sparse points",
        "Ground height is guessed, and training starts without knowing where the surfaces are.",
    ),
    Kind.BLURRED: (
        "Blurred photograph",
        "Out of focus or shaken: it softens everything that it sees.",
    ),
    Kind.FEW_POINTS: (
        "Few sparse points",
        "The pose rests on few matches and may be wrong; also seen over water and forest.",
    ),
    Kind.DARK: ("Too dark", "Nothing to learn from in the shadows."),
    Kind.BURNT: ("Over-exposed", "Burnt-out areas have no texture; they become fog or holes."),
    Kind.EXPOSURE_JUMP: (
        "Exposure differs from its flight",
        "The same wall in two brightnesses: visible as patches in the result.",
    ),
    Kind.DUPLICATE: (
        "Duplicate photograph",
        "Costs time and memory and adds nothing; a validation copy of a training image flatters "
        "the score.",
    ),
    Kind.UNBALANCED_EXPERT: (
        "Unbalanced expert",
        "Sees far less than its equal share, while others carry its work.",
    ),
    Kind.STALE_MASKS: (
        "Stored masks contradict the partition",
        "They were made for other settings or cameras, and mislead whoever reads them.",
    ),
    Kind.NO_EXPERTS: ("No experts yet", "Training needs the scene divided into experts."),
    Kind.NO_PLACE: ("No place on the Earth", "Results cannot be laid over a map."),
}


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a dataset.

    Attributes:
        kind: what is wrong.
        severity: how grave.
        subject: an image's name, an expert or the dataset.
        value: what was found, with its unit.
        limit: what is allowed, with its unit.
        mend: what to do about it.
        images: indices of the photographs concerned, the subject first; empty for others.
    """

    kind: Kind
    severity: Severity
    subject: str
    value: str
    limit: str
    mend: str
    images: tuple[int, ...] = ()


_GRAVEST_FIRST: Final = list(Severity)
_KINDS_IN_ORDER: Final = list(Kind)


def in_order(problems: list[Problem]) -> tuple[Problem, ...]:
    """Sort problems: the gravest kinds first, then by kind and subject."""
    worst = {
        kind: min(_GRAVEST_FIRST.index(one.severity) for one in problems if one.kind is kind)
        for kind in {one.kind for one in problems}
    }
    return tuple(
        sorted(
            problems,
            key=lambda one: (
                worst[one.kind],
                _KINDS_IN_ORDER.index(one.kind),
                _GRAVEST_FIRST.index(one.severity),
                one.subject,
            ),
        )
    )
