"""Owns what this process may use of its machine: cores and memory, control groups counted.

A container's limits show in neither the CPU count nor /proc/meminfo: they are the least ones of the
process's control group and the groups above it, in version 2 (`cpu.max`, `memory.max`) or version 1
(`cpu.cfs_quota_us`, `memory.limit_in_bytes`) of the interface. Linux only.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
PROC = Path("/proc")
THREAD_VARIABLES = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class FreeMemory:
    """Memory that can still be taken: how much, and which file sets the limit."""

    bytes: int
    source: Path


def usable_cores() -> int:
    """Return how many threads can run at once, at least 1.

    The least of: the cores this process may be scheduled on, the control groups' quotas rounded up,
    and whole numbers above 0 in NUMBA_NUM_THREADS and OMP_NUM_THREADS.
    """
    limits = [len(os.sched_getaffinity(0))]
    limits += [math.ceil(quota) for quota in _cpu_quotas()]
    stated = (os.environ.get(name, "") for name in THREAD_VARIABLES)
    limits += [int(value) for value in stated if value.isdecimal() and int(value) > 0]
    return max(1, min(limits))


def set_thread_variables() -> None:
    """Tell numba its threads, where the environment does not: as many as can run at once.

    numba itself does not see a quota. They are OpenMP's: of the bundled layers the only one that
    several Python threads may enter at once, as the viewer's renderer and its adaptation do.
    """
    os.environ.setdefault("NUMBA_THREADING_LAYER", "omp")
    os.environ.setdefault("NUMBA_NUM_THREADS", str(usable_cores()))


def free_memory() -> FreeMemory:
    """Return the least of what the kernel calls available and what each control group has left.

    Files' pages in a group's cache count as free: the kernel takes them back.

    Raises:
        OSError: no /proc/meminfo: not Linux.
    """
    found = [FreeMemory(_available_bytes(), PROC / "meminfo"), *_memory_limits()]
    return min(found, key=lambda free: free.bytes)


def _available_bytes() -> int:
    path = PROC / "meminfo"
    for line in path.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{path}: no MemAvailable line; Skyline runs on Linux")


def _cpu_quotas() -> Iterator[float]:
    """Cores that each group above this process may keep busy."""
    for group in _groups("cpu"):
        words = _words(group / "cpu.max")
        if len(words) == 2 and words[0] != "max":
            yield int(words[0]) / int(words[1])
        quota, period = _words(group / "cpu.cfs_quota_us"), _words(group / "cpu.cfs_period_us")
        if quota and period and int(quota[0]) > 0:
            yield int(quota[0]) / int(period[0])


def _memory_limits() -> Iterator[FreeMemory]:
    """What each group above this process has left, where it has a limit."""
    for group in _groups("memory"):
        for limit_name, used_name, cache_names in (
            ("memory.max", "memory.current", ("active_file", "inactive_file")),
            (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                ("total_active_file", "total_inactive_file"),
            ),
        ):
            limit, used = _words(group / limit_name), _words(group / used_name)
            if not (limit and used) or limit[0] == "max":
                continue
            words = _words(group / "memory.stat")
            stat = dict(zip(words[::2], words[1::2], strict=False))
            cached = sum(int(stat.get(name, 0)) for name in cache_names)
            left = int(limit[0]) - int(used[0]) + cached
            yield FreeMemory(max(0, left), group / limit_name)


def _groups(controller: str) -> Iterator[Path]:
    """Folders of this process's control group and those above it, as they are mounted here.

    A container may see only its own group, mounted as the root, while /proc names it by the host's
    path: folders that are not there are left out.
    """
    for line in _lines(PROC / "self/cgroup"):
        _, names, path = line.split(":", 2)
        if not names:
            mounts = [CGROUP_ROOT, CGROUP_ROOT / "unified"]
        elif controller in names.split(","):
            mounts = [CGROUP_ROOT / names, CGROUP_ROOT / controller]
        else:
            continue
        for mount in dict.fromkeys(mounts):
            own = mount / path.lstrip("/")
            for folder in (own, *own.parents):
                if folder.is_dir():
                    yield folder
                if folder == mount:
                    break


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    """A small file's lines; none where it is missing or closed to us."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
