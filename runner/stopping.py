"""Owns the wish to stop: SIGTERM and SIGINT become a flag that operations ask for.

The first signal asks for a clean end (save, then exit code 75). A second SIGINT ends the process at
once, as a person at a terminal expects; repeated SIGTERMs change nothing.
"""

import signal
import threading
from types import FrameType


class InterruptedJobError(Exception):
    """The job ended early because it was asked to; what there was to save is saved."""


class StopRequest:
    """Whether, and by which signal, the process was asked to stop."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self.signal_name = ""

    def install(self) -> None:
        """Take over SIGTERM and SIGINT; only the main thread may call this."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def is_asked(self) -> bool:
        """Say whether the process was asked to stop."""
        return self._asked.is_set()

    def raise_if_asked(self, saved: str = "nothing was begun") -> None:
        """Raise `InterruptedJobError` once a stop was asked for.

        Args:
            saved: what is on disk, for the message.
        """
        if self.is_asked():
            raise InterruptedJobError(f"stopped by {self.signal_name}; {saved}")

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.signal_name = self.signal_name or signal.Signals(number).name
        self._asked.set()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
