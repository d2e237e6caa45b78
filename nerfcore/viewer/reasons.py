"""Owns how an exception becomes a message in the page: one line, never empty."""

from collections.abc import Callable


def reason_of(error: BaseException) -> str:
    """Return an exception's first line, or its type's name where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def guarded(say: Callable[[str, str], None], title: str, action: Callable[[], object]) -> None:
    """Run a control's action; whatever it raises becomes a message in the page."""
    try:
        action()
    except Exception as error:  # noqa: BLE001 - a failed control must not end the viewer
        say(title, reason_of(error))
