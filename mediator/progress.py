"""Owns reading a runner's progress file as it grows and thinning it for the event topic.

The file holds one JSON object a line with an `event` name. Lines are read from a byte offset the
ledger remembers, so a restart neither repeats nor loses events. Progress lines are thinned to
about one a second; the newest one held back is told before anything else of the job.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mediator.events import EventKind

READ_LIMIT_BYTES = 1024 * 1024
PROGRESS_INTERVAL_S = 1.0
_KIND_OF_EVENT = {
    "progress": EventKind.PROGRESS,
    "checkpoint": EventKind.CHECKPOINT,
    "artifact": EventKind.ARTIFACT,
    "viewer_ready": EventKind.VIEWER_READY,
    "metrics": EventKind.METRICS,
}

Report = tuple[EventKind, dict[str, Any]]


@dataclass
class ProgressTail:
    """Reads the complete lines added to a file since the last look.

    Attributes:
        path: the file; it need not exist yet.
        offset: byte after the last line read.
        bad_lines: lines so far that were not a known event.
    """

    path: Path
    offset: int
    bad_lines: int = 0

    def read_new(self) -> list[Report]:
        """Give the new events in order."""
        lines = self._new_lines()
        reports = [_parse(line) for line in lines]
        self.bad_lines += reports.count(None)
        return [report for report in reports if report is not None]

    def _new_lines(self) -> list[bytes]:
        try:
            with self.path.open("rb") as handle:
                handle.seek(0, 2)
                if handle.tell() < self.offset:
                    self.offset = 0  # the runner began the file anew
                handle.seek(self.offset)
                chunk = handle.read(READ_LIMIT_BYTES)
        except FileNotFoundError:
            return []
        end = chunk.rfind(b"\n") + 1
        if end == 0 and len(chunk) == READ_LIMIT_BYTES:
            end = len(chunk)  # one line longer than the limit: skipped piece by piece
        self.offset += end
        return chunk[:end].splitlines()


def _parse(line: bytes) -> Report | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    kind = _KIND_OF_EVENT.get(str(record.pop("event", None)))
    return None if kind is None else (kind, record)


@dataclass
class ProgressThinner:
    """Lets through one progress report an interval, always the newest, and all other reports."""

    interval_s: float = PROGRESS_INTERVAL_S
    _next_at: float = 0.0
    _held: Report | None = field(default=None)

    def pass_on(self, reports: list[Report], now: float) -> list[Report]:
        """Give the reports to tell now.

        Args:
            reports: new ones, in order.
            now: monotonic seconds.
        """
        told: list[Report] = []
        for report in reports:
            if report[0] is EventKind.PROGRESS:
                self._held = report
            else:
                told += self.release()
                told.append(report)
        if self._held is not None and now >= self._next_at:
            told += self.release()
            self._next_at = now + self.interval_s
        return told

    def release(self) -> list[Report]:
        """Give the report held back, if any."""
        held, self._held = self._held, None
        return [] if held is None else [held]
