"""Owns the server's check of what a client's controls send: a page is not to be trusted."""

import math
from collections.abc import Iterable

from nerfcore.viewer.poses import BadViewError


def within(name: str, value: object, low: float, high: float) -> float:
    """Return a control's number.

    Args:
        name: of the control, as the page has it.
        value: as it was sent.
        low, high: least and most that is allowed.

    Raises:
        BadViewError: it is no number, or outside.
    """
    if not isinstance(value, int | float) or not math.isfinite(value) or not low <= value <= high:
        raise BadViewError(f"{name} {value!r:.40}: must be {low:g} to {high:g}")
    return float(value)


def one_of(name: str, value: object, allowed: Iterable[str]) -> str:
    """Return a control's choice.

    Raises:
        BadViewError: it is not among those allowed.
    """
    choices = tuple(allowed)
    if not isinstance(value, str) or value not in choices:
        raise BadViewError(f"{name} {value!r:.40}: must be one of {', '.join(choices[:12])}")
    return value
