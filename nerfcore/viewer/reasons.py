"""Owns how an exception is worded in the page: one line, never empty."""


def reason_of(error: BaseException) -> str:
    """Return an exception's first line, or its type's name where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
