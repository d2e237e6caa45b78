"""Owns when a slot is taken and when it is free again, across restarts of the mediator.

A slot is given back when its run's process tree is empty and, with a GPU, when none of the run's
processes is left on it. Those are written down from the run's start until the slot is free, so a
mediator that starts later knows what it has to wait for.
"""

import time
from collections.abc import Callable, Collection, Sequence

from mediator.gpus import GpuProbe, Quarantine
from mediator.ledger import Ledger
from mediator.proc import boot_id
from mediator.records import ProcessIdentity
from mediator.slots import Pool, Slot, SlotPool


class SlotKeeper:
    """The slots of a mediator.

    Args:
        slots: every slot there is.
        ledger: open for writing.
        gpus: tells which processes are on the GPUs; None where there is none to ask.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        ledger: Ledger,
        gpus: GpuProbe | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slots = SlotPool(slots)
        self._ledger = ledger
        self._has_probe = gpus is not None
        self._quarantine = Quarantine(gpus, clock)
        self._noted: dict[str, set[ProcessIdentity]] = {}

    @property
    def has_view_places(self) -> bool:
        """Whether view jobs can share."""
        return self._slots.has_view_places

    def free(self, pool: Pool) -> list[Slot]:
        """Give the free slots of a pool."""
        return self._slots.free(pool)

    def take(self, slot: str) -> None:
        """Take a slot for a run."""
        self._slots.take(slot)

    def is_watched(self, slot: str) -> bool:
        """Tell whether the processes of a run in this slot have to be noted."""
        return self._has_probe and self._slots.uses_gpu(slot)

    def note(self, slot: str, members: Collection[ProcessIdentity]) -> None:
        """Write down processes of the run that has a slot."""
        new = set(members) - self._noted.get(slot, set())
        if new and self.is_watched(slot):
            self._ledger.note_slot_processes(slot, new)
            self._noted.setdefault(slot, set()).update(new)

    def end(self, slot: str, members: Collection[ProcessIdentity]) -> bool:
        """Have a slot back after its run's tree was seen empty; tell whether it is free at once."""
        if self.is_watched(slot):
            self.note(slot, members)
            if self._quarantine.hold(slot, self._noted.get(slot, set())):
                return False
        self._slots.give_back(slot)
        return True

    def released(self) -> bool:
        """Free the slots whose GPU is clear, again and again; tell whether there were any."""
        freed = self._quarantine.released()
        for slot in freed:
            self._noted.pop(slot, None)
            self._slots.give_back(slot)
        for slot in freed:
            self._ledger.free_slot(slot)
        return bool(freed)

    def recover(self, in_use: Collection[str]) -> None:
        """After a restart, hold the slots whose last run may still be on a GPU.

        Args:
            in_use: slots whose runs were found alive.
        """
        left = self._ledger.slot_processes(boot_id())
        self._noted = {slot: set(members) for slot, members in left.items() if slot in in_use}
        for slot, members in left.items():
            if slot in in_use:
                continue
            held = [slot] if slot in self._slots.on_gpus else self._slots.on_gpus
            for name in set(held) - set(in_use) if self._has_probe else ():
                self.note(name, members)
                self._slots.take(name)
                self._quarantine.hold(name, self._noted[name])
            if slot not in self._noted:
                self._ledger.free_slot(slot)
