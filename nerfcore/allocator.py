"""Owns what the C allocator does with freed memory; other libraries than glibc keep their ways."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
KEPT_BYTES = 1 << 30
FEW_ARENAS = 2


def keep_freed_memory() -> None:
    """Keep freed buffers: fresh pages cost more than the arithmetic on them."""
    _tell(M_MMAP_THRESHOLD, KEPT_BYTES)
    _tell(M_TRIM_THRESHOLD, KEPT_BYTES)


def share_arenas() -> None:
    """Let threads share few arenas, for a process whose threads come and go: each arena would keep
    what its busiest thread had once freed. To be called before the threads start."""
    _tell(M_ARENA_MAX, FEW_ARENAS)


def give_freed_memory_back() -> None:
    """Return all freed memory to the system; takes some milliseconds."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _tell(parameter: int, value: int) -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(parameter, value)
