"""Owns experts that are read from a checkpoint when a ray first meets them.

The least recently used experts are given up when those in memory exceed a budget. That suits
pictures; what changes parameters first calls `hold_all`.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import overload

import torch

from nerfcore.field.memory import CPU, Need, require_memory
from nerfcore.field.parameters import Parameters

CHANGING_COPIES = 3


class LazyExperts(Sequence[Parameters]):
    """Experts loaded on demand, least recently used ones given up."""

    def __init__(
        self,
        count: int,
        load: Callable[[int], Parameters],
        expert_bytes: int,
        budget_bytes: int,
        device: torch.device = CPU,
    ) -> None:
        """Make the list, empty.

        Args:
            count: how many experts there are.
            load: reads one.
            expert_bytes: the size of one.
            budget_bytes: memory for all; at least one stays.
            device: where `load` puts them.
        """
        self._count = count
        self._load = load
        self._expert_bytes, self._device = expert_bytes, device
        self._most = max(1, budget_bytes // max(1, expert_bytes))
        self._held: OrderedDict[int, Parameters] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    @property
    def held(self) -> list[int]:
        """Experts in memory, the least recently used first."""
        return list(self._held)

    def hold_all(self) -> None:
        """Load every expert and give up none from now on.

        Raises:
            SettingsError: they do not fit in memory, told before any is loaded.
        """
        missing = Need(
            "parameters", self._count - len(self._held), self._expert_bytes, self._device
        )
        # what changes one expert holds its moments and its gradient, or a copy to go back to
        changing = Need("first expert changed", CHANGING_COPIES, self._expert_bytes, self._device)
        require_memory(f"{self._count} experts of the checkpoint", [missing, changing])
        self._most = self._count
        for expert in range(self._count):
            self[expert]

    @overload
    def __getitem__(self, index: int) -> Parameters: ...

    @overload
    def __getitem__(self, index: slice) -> list[Parameters]: ...

    def __getitem__(self, index: int | slice) -> Parameters | list[Parameters]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(f"expert {index} of {self._count}")
        expert = index % self._count
        with self._lock:
            if expert not in self._held:
                self._held[expert] = self._load(expert)
            self._held.move_to_end(expert)
            while len(self._held) > self._most:
                self._held.popitem(last=False)
            return self._held[expert]
