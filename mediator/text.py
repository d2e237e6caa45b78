"""Owns how outside text enters logs, reasons and events: one line, bounded, always encodable."""

import json
import math
from datetime import UTC, datetime
from typing import Any

REASON_LIMIT_CHARS = 1000


def one_line(text: str, limit: int = REASON_LIMIT_CHARS) -> str:
    """Give the text as one printable line: control characters escaped, cut at the limit.

    Args:
        text: anything, including lone surrogates and line breaks.
        limit: most characters kept.

    Returns:
        A string that encodes to UTF-8 and holds no line break.
    """
    cut = text if len(text) <= limit else text[: limit - 3] + "..."
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return shown.encode("utf-8", "backslashreplace").decode("utf-8")


def utc_now() -> str:
    """Give the time now as ISO 8601 in UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def finite(value: Any) -> Any:
    """Give a JSON value with every NaN and infinity replaced by null (JSON has neither)."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def canonical_json(value: Any) -> str:
    """Give the one JSON text of a value: sorted keys, no spaces, ASCII only.

    Raises:
        ValueError: the value holds NaN or infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
