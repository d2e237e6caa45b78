"""Owns where the mediator's log lines go: `<log_root>/mediator.log` and stderr, one line a fact."""

import logging
import logging.handlers
import sys
import time
from pathlib import Path

from configs.artifacts import mediator_log_path

LIMIT_BYTES = 10 * 1024 * 1024
KEPT_FILES = 5


class _UtcFormatter(logging.Formatter):
    converter = time.gmtime
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"


def open_log(log_root: Path) -> None:
    """Send the log lines of the mediator and the transport to the log file and stderr.

    Args:
        log_root: an existing folder.

    Raises:
        OSError: the log file cannot be written.
    """
    to_file = logging.handlers.RotatingFileHandler(
        mediator_log_path(log_root),
        maxBytes=LIMIT_BYTES,
        backupCount=KEPT_FILES,
        encoding="utf-8",
        errors="backslashreplace",
    )
    to_file.setFormatter(_UtcFormatter("%(asctime)s %(levelname)s %(message)s"))
    to_terminal = logging.StreamHandler(sys.stderr)
    to_terminal.setFormatter(_UtcFormatter("%(asctime)s %(levelname)s %(message)s"))
    for name in ("mediator", "kafka_utils"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        for handler in (to_file, to_terminal):
            logger.addHandler(handler)
