"""Owns the request to stop: signals counted without locks, and waits that a signal ends at once."""

import select
import signal
import socket
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopRequest:
    """Counts SIGTERM, SIGINT and SIGHUP; the second one means hurry.

    A signal handler may interrupt anything, so it only counts; a waiting loop is woken through the
    interpreter's wake-up descriptor.
    """

    def __init__(self) -> None:
        self._count = 0
        self._ear, self._mouth = socket.socketpair()
        self._ear.setblocking(False)
        self._mouth.setblocking(False)

    def listen(self) -> None:
        """Take the signals over; main thread only."""
        signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)

    @property
    def asked(self) -> bool:
        """Whether to stop."""
        return self._count > 0

    @property
    def urgent(self) -> bool:
        """Whether to stop without any grace."""
        return self._count > 1

    def ask(self) -> None:
        """Ask as a signal would."""
        self._count += 1

    def wait(self, timeout_s: float) -> None:
        """Wait, but not beyond the next signal."""
        if select.select([self._ear], [], [], timeout_s)[0]:
            self._ear.recv(4096)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.ask()
