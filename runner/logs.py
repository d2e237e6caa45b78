"""Owns where the runner's log lines go: standard error, and runner.log in the job's folder.

A runner's keeper writes its standard error to runner.log; then lines are not written twice.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

KEPT_VARIABLE = "SKYLINE_RUN_TOKEN"  # the mediator marks the runners it started
CHATTY = ("websockets", "numba", "matplotlib", "PIL")
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def begin_log() -> None:
    """Send log lines to standard error."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=_FORMAT, force=True)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


@contextlib.contextmanager
def kept_log(path: Path) -> Iterator[None]:
    """Send log lines to a file (created with mode 0640) too, unless a keeper writes that file."""
    if KEPT_VARIABLE in os.environ:
        yield
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o640), "a", encoding="utf-8") as lines:
        handler = logging.StreamHandler(lines)
        handler.setFormatter(logging.Formatter(_FORMAT))
        logging.getLogger().addHandler(handler)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(handler)
