"""Owns progress.jsonl: one JSON object a line, flushed, for the mediator; and the same for people.

Lines carry `time` (ISO 8601, UTC) and `event`. Progress is thinned to two lines a second, the last
step of a phase and every other event are always written. Paths are relative to the job's folder.
Numbers that are not finite become null, so every line is JSON.
"""

import json
import logging
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from runner.records import plain

PROGRESS_INTERVAL_S = 0.5
SHOWN_CHARS = 1000
_HIDDEN = ("time", "event", "phase", "step", "total")
_ROW_SHOWN = ("tto", "step", "split", "images", "psnr", "psnr_gain", "ssim", "lpips")
_log = logging.getLogger("runner")


class ProgressWriter:
    """Appends events to a job's progress file; use as a context manager."""

    def __init__(self, path: Path, interval_s: float = PROGRESS_INTERVAL_S) -> None:
        """Open the file for appending (created with mode 0640).

        Args:
            path: the job's progress.jsonl; its parent is the job's folder.
            interval_s: least time between progress lines of one phase, s.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._folder = path.parent.resolve()
        self._lines: TextIO = os.fdopen(os.open(path, flags, 0o640), "a", encoding="utf-8")
        self._interval_s = interval_s
        self._phase = ""
        self._next_at = 0.0

    def __enter__(self) -> "ProgressWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()

    def progress(self, phase: str, step: int, total: int, **numbers: Any) -> None:
        """Tell how far a phase is.

        Args:
            phase: "load", "train", "adapt" or "render".
            step: steps done, 0 to `total`.
            numbers: loss, psnr (dB), rays_per_s, eta_s and their like.
        """
        now = time.monotonic()
        if phase == self._phase and now < self._next_at and step < total:
            return
        self._phase, self._next_at = phase, now + self._interval_s
        self._write({"event": "progress", "phase": phase, "step": step, "total": total, **numbers})

    def event(self, name: str, **values: Any) -> None:
        """Tell anything else: "checkpoint", "artifact", "viewer_ready", "metrics"."""
        self._write({"event": name, **values})

    def artifact(self, path: Path) -> None:
        """Tell that a file or folder of the job is complete."""
        self.event("artifact", path=path)

    def _write(self, record: dict[str, Any]) -> None:
        record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **record}
        clean = plain(record, self._folder)
        self._lines.write(json.dumps(clean, ensure_ascii=False, allow_nan=False) + "\n")
        self._lines.flush()
        _log.info("%s", _for_people(clean))


def _for_people(record: dict[str, Any]) -> str:
    match record:
        case {"event": "progress", "phase": phase, "step": step, "total": total}:
            return f"{phase} {step}/{total} {_pairs(record, _HIDDEN)}".rstrip()
        case {"event": "metrics", "rows": rows}:
            shown = ({name: row.get(name) for name in _ROW_SHOWN} for row in rows)
            return "metrics " + "; ".join(_pairs(row, ()) for row in shown)[:SHOWN_CHARS]
        case _:
            return f"{record['event']} {_pairs(record, ('time', 'event'))[:SHOWN_CHARS]}"


def _pairs(record: dict[str, Any], hidden: tuple[str, ...]) -> str:
    return " ".join(
        f"{name}={value}"
        for name, value in record.items()
        if value is not None and name not in hidden
    )
