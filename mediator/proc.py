"""Owns what /proc says of processes: identity, life, membership in a runner's tree, and signals.

A process is boot id + number + start time, so a reused number is never mistaken for it. A runner's
tree is every process that carries the run's token in its environment (the runner's keeper is one),
every process of the runner's session while the runner itself is there (later the session's number
may be anyone's), those seen to be of the tree before, and all that descend from any of these.
"""

import contextlib
import os
import signal
from collections.abc import Collection, Iterator
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
    parent: int
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
    return ProcessStat(pid, fields[0], int(fields[1]), int(fields[3]), int(fields[19]))


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


def tree_of(
    identity: ProcessIdentity | None, token: str, seen: Collection[ProcessIdentity] = ()
) -> list[ProcessIdentity]:
    """Give the living processes of a runner's tree.

    Args:
        identity: the runner itself, dead or alive; None when it was never recorded.
        token: the run's token.
        seen: processes found to be of the tree before.
    """
    stats = {stat.pid: stat for stat in living()}
    children: dict[int, list[int]] = {}
    for stat in stats.values():
        children.setdefault(stat.parent, []).append(stat.pid)
    session = identity.pid if identity is not None and _is_there(identity) else None
    known = {(process.boot_id, process.pid, process.start_ticks) for process in seen}
    below = [
        pid
        for pid, stat in stats.items()
        if stat.session == session
        or (boot_id(), pid, stat.start_ticks) in known
        or _carries(pid, token)
    ]
    tree: set[int] = set()
    while below:
        pid = below.pop()
        if pid not in tree:
            tree.add(pid)
            below += children.get(pid, ())
    return [ProcessIdentity(boot_id(), pid, stats[pid].start_ticks) for pid in sorted(tree)]


def keeper_of(identity: ProcessIdentity, token: str) -> ProcessIdentity | None:
    """Give a living runner's parent if it belongs to the run, or None."""
    stat = read_stat(identity.pid)
    if stat is None or not _is_there(identity) or not _carries(stat.parent, token):
        return None
    return identify(stat.parent)


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


def _is_there(identity: ProcessIdentity) -> bool:
    """Tell whether /proc has this very process, be it as a zombie."""
    stat = read_stat(identity.pid)
    same = stat is not None and stat.start_ticks == identity.start_ticks
    return same and identity.boot_id == boot_id()


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
