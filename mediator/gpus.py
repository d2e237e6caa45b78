"""Owns when a slot with a GPU is free: when no process of its last run is left on any GPU.

A process that /proc no longer has may still hold memory on a GPU while the driver takes it apart;
the next run would then find too little. `nvidia-smi` is asked beside the loop, never waited for.
Where it cannot be asked, the empty process tree has to do, and the log says so once.
"""

import logging
import shutil
import subprocess
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mediator.proc import read_stat
from mediator.records import ProcessIdentity

QUERY = ("--query-compute-apps=pid", "--format=csv,noheader,nounits")
ANSWER_S = 10.0
ASK_EVERY_S = 0.5
COMPLAIN_EVERY_S = 30.0
_log = logging.getLogger("mediator")


class GpuProbe(Protocol):
    """What tells which processes are on the GPUs."""

    def look(self) -> frozenset[int] | None:
        """Give the process numbers on any GPU; begins to ask when nothing is asked yet.

        Returns:
            None while there is no answer; it never waits for one.

        Raises:
            OSError: it cannot be told, with the reason.
        """
        ...


class NvidiaSmi:
    """Asks `nvidia-smi`.

    Args:
        program: its path.
        clock: monotonic seconds.
    """

    def __init__(self, program: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._program = program
        self._clock = clock
        self._asked: subprocess.Popen[str] | None = None
        self._until = 0.0

    def look(self) -> frozenset[int] | None:
        """Give the process numbers on any GPU; see `GpuProbe`."""
        if self._asked is None:
            self._asked = subprocess.Popen(
                [self._program, *QUERY],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            self._until = self._clock() + ANSWER_S
        if self._asked.poll() is None:
            if self._clock() < self._until:
                return None
            self._asked.kill()
        asked, self._asked = self._asked, None
        text, _ = asked.communicate()
        if asked.returncode != 0:
            said = " ".join(text.split())[:200] or f"no answer within {ANSWER_S:g} s"
            raise OSError(f"{self._program} failed ({asked.returncode}): {said}")
        rows = (row.strip() for row in text.splitlines())
        return frozenset(int(row) for row in rows if row.isascii() and row.isdigit())


def find_probe() -> GpuProbe | None:
    """Give the way to ask this machine's GPUs, or None where there is none."""
    program = shutil.which("nvidia-smi")
    return None if program is None or not Path("/dev/nvidiactl").exists() else NvidiaSmi(program)


@dataclass
class _Held:
    members: frozenset[ProcessIdentity]
    complain_at: float


class Quarantine:
    """Slots whose last run has left /proc but perhaps not the GPU.

    Args:
        probe: asks the GPUs; None where there is none to ask.
        clock: monotonic seconds.
    """

    def __init__(self, probe: GpuProbe | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._probe = probe
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._asked_for: tuple[str, ...] | None = None
        self._next_at = 0.0
        self._told: str | None = None

    def hold(self, slot: str, members: Collection[ProcessIdentity]) -> bool:
        """Hold a slot back after its run has ended.

        Args:
            slot: the slot's name.
            members: every process the run is known to have had.

        Returns:
            False when there is no GPU to ask, so the slot is free at once.
        """
        if self._probe is None:
            return False
        self._held[slot] = _Held(frozenset(members), self._clock() + COMPLAIN_EVERY_S)
        self._next_at = 0.0
        return True

    def released(self) -> list[str]:
        """Give the slots that are free now; call it again and again."""
        if not self._held or self._probe is None:
            return []
        if self._asked_for is None:
            if self._clock() < self._next_at:
                return []
            # the answer counts only for slots held before it was asked for
            self._asked_for = tuple(self._held)
        try:
            busy = self._probe.look()
        except OSError as error:
            self._asked_for = None
            self._tell(str(error))
            return self._let_go(list(self._held))
        if busy is None:
            return []
        asked_for, self._asked_for = self._asked_for, None
        self._next_at = self._clock() + ASK_EVERY_S
        self._told = None
        return self._let_go([slot for slot in asked_for if self._is_clear(slot, busy)])

    def _is_clear(self, slot: str, busy: frozenset[int]) -> bool:
        held = self._held[slot]
        left = sorted(m.pid for m in held.members if m.pid in busy and not _is_reused(m))
        if left and self._clock() >= held.complain_at:
            held.complain_at = self._clock() + COMPLAIN_EVERY_S
            _log.error("slot %s stays taken: process %s of its last job is still on a GPU; if it "
                       "stays so, reset that GPU or restart the machine",
                       slot, ", ".join(map(str, left)))  # fmt: skip
        return not left

    def _let_go(self, slots: list[str]) -> list[str]:
        for slot in slots:
            del self._held[slot]
        return slots

    def _tell(self, reason: str) -> None:
        if reason != self._told:
            self._told = reason
            _log.warning("cannot tell what is on the GPUs (%s); slots are free when their "
                         "processes have ended", reason)  # fmt: skip


def _is_reused(member: ProcessIdentity) -> bool:
    """Tell whether a process's number belongs to another one by now."""
    stat = read_stat(member.pid)
    return stat is not None and stat.start_ticks != member.start_ticks
