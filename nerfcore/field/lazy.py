"""Owns experts that are read from a checkpoint when a ray first meets them.

The least recently used experts are given up when those in memory exceed a budget. That suits
pictures; what changes parameters first calls `hold_all`.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import overload

from nerfcore.field.parameters import Parameters


class LazyExperts(Sequence[Parameters]):
    """Experts loaded on demand, least recently used ones given up."""

    def __init__(
        self, count: int, load: Callable[[int], Parameters], expert_bytes: int, budget_bytes: int
    ) -> None:
        """Args: how many, how to load one, the size of one, memory for all (at least one stays)."""
        self._count = count
        self._load = load
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
        """Load every expert and give up none from now on."""
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
