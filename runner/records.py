"""Owns making values plain JSON: numbers finite or null, paths relative to the job's folder."""

import math
from pathlib import Path
from typing import Any


def plain(value: Any, folder: Path) -> Any:
    """Return a value as JSON can hold it, six significant digits for every float.

    Args:
        value: JSON values, paths, and dicts, lists or tuples of them.
        folder: the job's folder, resolved.
    """
    if isinstance(value, Path):
        resolved = value.resolve()
        inside = resolved.is_relative_to(folder)
        return str(resolved.relative_to(folder) if inside else resolved)
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): plain(part, folder) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part, folder) for part in value]
    return value
