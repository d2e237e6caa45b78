"""Owns which fields hold secrets, and how they are shown: not at all.

A secret stands in the job's own job.json, in the ledger, in the message it came with and where
that message is kept (`message/<job id>` on the status topic, a dead letter); never in a log, a
reason, an event or a run.json.
"""

import difflib
import functools
import re
from typing import Any

MASK = "(not shown)"
_SECRET_NAME = re.compile(
    r"token|secret|passw|pass[_.-]?phrase|pwd|(api|private|access)[_.-]?key|credential"
    r"|auth(?!or(?!i[sz]))|bearer|cookie",
    re.IGNORECASE,
)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_OFTEN_MISTYPED = ("token", "secret", "password", "passphrase", "credential", "bearer", "cookie")
_ALIKE = 0.75  # of difflib: "tokn", "toekn" and "pasword" are, "step" and "host" are not


def is_secret(name: str) -> bool:
    """Tell whether a field's name, mistyped or not, says that its value is a secret."""
    return _SECRET_NAME.search(name) is not None or _is_like_a_secret(name[:64])


@functools.lru_cache(maxsize=4096)  # every job has the same names
def _is_like_a_secret(name: str) -> bool:
    return any(
        difflib.get_close_matches(word.lower(), _OFTEN_MISTYPED, n=1, cutoff=_ALIKE)
        for word in _WORD.findall(name)
    )


def masked(value: Any, name: str = "") -> Any:
    """Return a JSON value with every secret in it replaced by `MASK`; null stays null.

    Args:
        value: any JSON value.
        name: the field it is the value of.
    """
    if value is not None and is_secret(name):
        return MASK
    if isinstance(value, dict):
        return {key: masked(part, str(key)) for key, part in value.items()}
    if isinstance(value, list):
        return [masked(part) for part in value]
    return value
