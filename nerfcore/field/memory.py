"""Owns the arithmetic of memory: what experts take, what is free, and refusing what cannot fit.

Counted is what a run surely holds, to the byte. What a batch of rays takes depends on how many
samples it meets and is not counted: a share of the free memory stays for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nerfcore.errors import SettingsError
from nerfcore.field.parameters import Architecture
from nerfcore.field.workers import worker_count
from nerfcore.machine import free_memory
from nerfcore.sampling.occupancy import CELL_BYTES
from nerfcore.settings import BackendName

MEMORY_SHARE = 0.8
DENSE_ADAM_COPIES = 4  # of one expert, while tensor operations update its table
MOMENTS = 2
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Need:
    """Part of what is held: `count` pieces of `piece_bytes` each on a device."""

    what: str
    count: int
    piece_bytes: int
    device: torch.device = CPU

    @property
    def bytes(self) -> int:
        return self.count * self.piece_bytes

    def __str__(self) -> str:
        return f"{self.what} {self.count} x {self.piece_bytes / 1e6:.4g} MB"


def keeps_dense_gradients(backend: BackendName, device: torch.device) -> bool:
    """Whether a backend gathers a table's gradient in a buffer of the table's size."""
    return device.type != "cpu" or backend not in ("auto", "numba")


def scene_needs(
    architecture: Architecture, experts: int, cells: int, device: torch.device
) -> list[Need]:
    """What a model holds at rest.

    Args:
        experts: how many of them.
        cells: occupancy cells of all experts.
    """
    return [
        Need("parameters", experts, architecture.bytes(), device),
        Need("occupancy", 1, CELL_BYTES * cells),
    ]


def training_needs(
    architecture: Architecture, experts: int, device: torch.device, *, dense: bool, inner: int
) -> list[Need]:
    """What training all experts holds besides `scene_needs`.

    Args:
        dense: see `keeps_dense_gradients`.
        inner: copies of one expert that an inner loop holds; 0 without one.
    """
    one = architecture.bytes()
    needs = [Need("moments", MOMENTS * experts, one, device)]
    if dense:
        needs.append(Need("gradients", experts, one, device))
        needs.append(Need("update", DENSE_ADAM_COPIES, one, device))
    elif architecture.layout is not None:
        level_rows = int(np.diff(architecture.layout.offsets).max())
        level = 4 * level_rows * architecture.layout.features
        threads = min(worker_count(), architecture.layout.levels)
        needs.append(Need("level gradients", threads, level))
    if inner:
        needs.append(Need("inner loop", inner, one, device))
    return needs


def require_memory(settings: str, needs: Sequence[Need]) -> None:
    """Refuse what cannot fit, before it is allocated.

    Args:
        settings: what decides, for the message: fields with their values.
        needs: all that will be held besides what this process holds now.

    Raises:
        SettingsError: more than `MEMORY_SHARE` of what is free on a device, with the arithmetic.
    """
    for device in dict.fromkeys(need.device for need in needs):
        own = [need for need in needs if need.device == device]
        total = sum(need.bytes for need in own)
        free, source = free_bytes(device)
        if total > MEMORY_SHARE * free:
            raise SettingsError(
                f"{settings}: {' + '.join(map(str, own))} = {total / 1e9:.2f} GB, but of "
                f"{free / 1e9:.2f} GB free ({source}) {MEMORY_SHARE:.0%} may be taken, "
                f"{MEMORY_SHARE * free / 1e9:.2f} GB; choose a smaller log2_hashmap_size or fewer "
                "experts"
            )


def free_bytes(device: torch.device) -> tuple[int, str]:
    """Return the memory that can still be taken on a device, and who says so."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept, torch.cuda.get_device_name(device)
    free = free_memory()
    return free.bytes, str(free.source)


def experts_budget_bytes(device: torch.device) -> int:
    """Memory that a loaded model's experts may take for rendering: half of what is free."""
    return free_bytes(device)[0] // 2
