"""Owns what /proc says of processes: identity, life, membership in a runner's tree, and signals.

A process is boot id + number + start time, so a reused number is never mistaken for it. A runner's
tree is every process of the runner's session, and every process that carries the run's token in
its environment (which finds those that left the session).
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mediator.records import ProcessIdentity

TOKEN_VARIABLE = "SKYLINE_RUN_TOKEN"
_PROC = Path("/proc")


@dataclass(frozen=True)
class ProcessStat:
    """The fields of /proc/PID/stat that matter here."""

    pid: int
    state: str
    session: int
    start_ticks: int


@cache
def boot_id() -> str:
    """Give the kernel's id of this boot."""
    return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def read_stat(pid: int) -> ProcessStat | None:
    """Read a process's stat, or None when there is no such process."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # the command name in parentheses may itself hold spaces and parentheses
    fields = text.rpartition(")")[2].split()
    return ProcessStat(pid, fields[0], int(fields[3]), int(fields[19]))


def identify(pid: int) -> ProcessIdentity | None:
    """Give a living process's identity, or None."""
    stat = read_stat(pid)
    return None if stat is None else ProcessIdentity(boot_id(), pid, stat.start_ticks)


def is_alive(identity: ProcessIdentity) -> bool:
    """Tell whether this very process still runs (a zombie has ended)."""
    if identity.boot_id != boot_id():
        return False
    stat = read_stat(identity.pid)
    return stat is not None and stat.start_ticks == identity.start_ticks and _runs(stat)


def tree_of(identity: ProcessIdentity | None, token: str) -> list[ProcessIdentity]:
    """Give the living processes of a runner's tree.

    Args:
        identity: the runner itself, dead or alive; None when it was never recorded.
        token: the run's token.
    """
    session = _own_session(identity)
    return [
        ProcessIdentity(boot_id(), stat.pid, stat.start_ticks)
        for stat in living()
        if stat.session == session or _carries(stat.pid, token)
    ]


def send_signal(identity: ProcessIdentity, number: signal.Signals) -> None:
    """Signal this very process; nothing happens when it has ended or its number was reused."""
    # the descriptor pins the process, so the check after opening it cannot go stale
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return
    try:
        if is_alive(identity):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)


def _own_session(identity: ProcessIdentity | None) -> int | None:
    """Give the runner's session number, or None when a later process took that number."""
    if identity is None or identity.boot_id != boot_id():
        return None
    stat = read_stat(identity.pid)
    if stat is not None and stat.start_ticks != identity.start_ticks:
        return None
    return identity.pid


def living() -> Iterator[ProcessStat]:
    """Give every process that runs now."""
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            stat = read_stat(int(entry.name))
            if stat is not None and _runs(stat):
                yield stat


def _runs(stat: ProcessStat) -> bool:
    if stat.state not in "ZX":
        return True
    # a process whose first thread has ended shows as a zombie while its other threads run on
    try:
        return len(list((_PROC / str(stat.pid) / "task").iterdir())) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def _carries(pid: int, token: str) -> bool:
    try:
        environment = (_PROC / str(pid) / "environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return f"{TOKEN_VARIABLE}={token}".encode() in environment.split(b"\0")
