"""Owns how long a job may wait, run and stay without progress, and what is tried again.

Progress is a change of phase or step, not mere life. A job out of time is asked to stop and ends as
timed out. Only failures that may heal by themselves are tried again, after a pause that doubles.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mediator.events import EventKind
from mediator.progress import Report

LONGEST_PAUSE_S = 300.0
LOG_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """Limits of every job.

    Attributes:
        wait_s: longest wait for the first attempt, s; None for no limit. A job that has begun
            once, here or at another mediator, is never ended for waiting.
        run_s: longest time of one attempt, s; None for no limit.
        progress_s: longest time without a new step or phase, s; None for no limit.
        max_attempts: attempts in all where failures may heal, >= 1.
        backoff_s: pause before the second attempt, s; doubled for each further one.
        log_bytes: most bytes of a job's runner.log.
        max_interruptions: attempts that end as if asked to stop, though nobody here asked, in all;
            a clean stop of the mediator counts nothing.
    """

    wait_s: float | None = None
    run_s: float | None = None
    progress_s: float | None = None
    max_attempts: int = 3
    backoff_s: float = 2.0
    log_bytes: int = LOG_BYTES
    max_interruptions: int = 20

    def pause_s(self, failures: int) -> float:
        """Give the pause after the n-th failure, from 1."""
        return min(LONGEST_PAUSE_S, self.backoff_s * 2.0 ** (failures - 1))


@dataclass
class Watchdog:
    """Tells when one attempt is out of time.

    Attributes:
        limits: the limits.
        began: Unix time at which the attempt began, s.
        clock: Unix time, s.
    """

    limits: Limits
    began: float
    clock: Callable[[], float] = time.time
    _moved_at: float = field(default=0.0)
    _last: tuple[Any, Any] = (None, None)

    def see(self, reports: list[Report]) -> None:
        """Take the runner's reports."""
        for kind, data in reports:
            place = (data.get("phase"), data.get("step"))
            if kind is not EventKind.PROGRESS or place != self._last:
                self._moved_at = self.clock()
            if kind is EventKind.PROGRESS:
                self._last = place

    def overdue(self) -> str | None:
        """Give the reason why the attempt must end, or None."""
        now, limits = self.clock(), self.limits
        if limits.run_s is not None and now - self.began > limits.run_s:
            return f"ran for longer than {limits.run_s:g} s (--run-limit-s)"
        still_s = now - max(self.began, self._moved_at)
        if limits.progress_s is not None and still_s > limits.progress_s:
            return f"no progress for longer than {limits.progress_s:g} s (--progress-limit-s)"
        return None


def unix_time(text: str | None) -> float:
    """Give an ISO 8601 time as Unix time, s; now when there is none."""
    return time.time() if text is None else datetime.fromisoformat(text).timestamp()
