"""Owns the places in which jobs run, and which of them a job takes.

A slot names the CUDA devices its runner may see. It is given back only when the runner's whole
tree is gone, also from the GPU (`slot_keeping`). Train and eval jobs take a work slot, one job
each. A view job is a lease: it lasts until nobody has looked for `viewer_timeout`, or until it is
cancelled. It shares a device with the work there in a view place, or takes a whole work slot when
its job says `share_slot: false` or the mediator has no view places (`--view-slots 0`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from mediator.errors import SettingsError

MAX_SLOTS = 64


class Pool(StrEnum):
    """The two pools of slots."""

    WORK = "work"
    VIEW = "view"


@dataclass(frozen=True)
class Slot:
    """One place for one runner.

    Attributes:
        name: pool and number, such as "work-0".
        pool: its pool.
        cuda_devices: value of CUDA_VISIBLE_DEVICES ("" for none), or None to leave it alone.
    """

    name: str
    pool: Pool
    cuda_devices: str | None


def parse_devices(text: str) -> tuple[str, ...] | None:
    """Read `--devices`: "None" (whatever the machine has), "cpu", or GPU numbers such as "0,1".

    Returns:
        None for any device, () for the CPU only, else the GPU numbers.

    Raises:
        SettingsError: neither of these.
    """
    lowered = text.strip().lower()
    if lowered in {"none", "auto", ""}:
        return None
    if lowered == "cpu":
        return ()
    numbers = [part.strip() for part in text.split(",")]
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise SettingsError(f"--devices {text!r}: write None, cpu, or GPU numbers such as 0,1")
    if len(set(numbers)) != len(numbers):
        raise SettingsError(f"--devices {text!r}: a GPU is named twice; name each once")
    return tuple(numbers)


def make_slots(
    devices: Sequence[str] | None, work_slots: int | None, view_slots: int
) -> tuple[Slot, ...]:
    """Lay out the slots; GPUs are dealt round within each pool.

    Args:
        devices: as given by `parse_devices`.
        work_slots: train and eval jobs at a time, 1..64; None means one a GPU, else one.
        view_slots: view jobs at a time, 0..64.

    Raises:
        SettingsError: a number is out of its range.
    """
    if work_slots is None:
        work_slots = max(1, len(devices or ()))
    if not 1 <= work_slots <= MAX_SLOTS:
        raise SettingsError(f"--slots {work_slots}: give 1 to {MAX_SLOTS}")
    if not 0 <= view_slots <= MAX_SLOTS:
        raise SettingsError(f"--view-slots {view_slots}: give 0 to {MAX_SLOTS}")
    counts = {Pool.WORK: work_slots, Pool.VIEW: view_slots}
    return tuple(
        Slot(f"{pool}-{index}", pool, _devices_of(index, devices))
        for pool, count in counts.items()
        for index in range(count)
    )


def _devices_of(index: int, devices: Sequence[str] | None) -> str | None:
    if devices is None:
        return None
    return devices[index % len(devices)] if devices else ""


class SlotPool:
    """Which slots are free.

    Attributes:
        has_view_places: whether view jobs can share.

    Args:
        slots: all of them.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = tuple(slots)
        self._taken: set[str] = set()
        self.has_view_places = any(slot.pool is Pool.VIEW for slot in slots)

    @property
    def on_gpus(self) -> list[str]:
        """The names of the slots whose runs may use a GPU."""
        return [slot.name for slot in self._slots if slot.cuda_devices != ""]

    def uses_gpu(self, name: str) -> bool:
        """Tell whether a run in this slot may use a GPU; one of an earlier layout may."""
        return not any(s.name == name and s.cuda_devices == "" for s in self._slots)

    def free(self, pool: Pool) -> list[Slot]:
        """Give the free slots of a pool."""
        return [s for s in self._slots if s.pool is pool and s.name not in self._taken]

    def take(self, name: str) -> None:
        """Take a slot by name; a name of an earlier layout is only remembered as taken."""
        self._taken.add(name)

    def give_back(self, name: str) -> None:
        """Give a slot back."""
        self._taken.discard(name)
