"""What a process may use of its machine, from control groups laid out as the kernel does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nerfcore import machine
from nerfcore.machine import free_memory, usable_cores

MB = 1 << 20


class Machine:
    """A machine of 8 cores and 1,000 MB available, its control groups in a folder."""

    def __init__(self, root: Path) -> None:
        self.groups, self.proc = root / "cgroup", root / "proc"
        self.write(self.proc / "meminfo", f"MemTotal: 1 kB\nMemAvailable: {1000 * 1024} kB\n")
        self.write(self.proc / "self/cgroup", "0::/\n")
        self.groups.mkdir()

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def member_of(self, lines: str) -> None:
        self.write(self.proc / "self/cgroup", lines)

    def group(self, folder: str, **files: str) -> None:
        """Write a group's files; a double underscore in a name is a dot."""
        for name, text in files.items():
            self.write(self.groups / folder / name.replace("__", "."), text + "\n")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setattr(machine, "CGROUP_ROOT", made.groups)
    monkeypatch.setattr(machine, "PROC", made.proc)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for name in machine.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return made


def test_without_limits_the_machine_is_the_limit(here: Machine) -> None:
    """Version 2 says "max", version 1 a quota of -1 and more memory than there is."""
    here.member_of("4:memory:/\n1:cpu,cpuacct:/\n0::/\n")
    here.group("", cpu__max="max 100000", memory__max="max", memory__current="5")
    here.group("cpu,cpuacct", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    here.group("memory", memory__limit_in_bytes=str(2**63), memory__usage_in_bytes="1")
    assert usable_cores() == 8
    assert free_memory() == machine.FreeMemory(1000 * MB, here.proc / "meminfo")


@pytest.mark.parametrize(("quota", "cores"), [("50000", 1), ("150000", 2), ("1600000", 8)])
def test_a_quota_of_cores_counts_rounded_up(here: Machine, quota: str, cores: int) -> None:
    """In both versions; never more than the process may be scheduled on."""
    here.group("", cpu__max=f"{quota} 100000")
    assert usable_cores() == cores
    here.group("", cpu__max="max 100000")
    here.member_of("1:cpu,cpuacct:/docker/abc\n")  # the host's path: here it is the mount's root
    here.group("cpu,cpuacct", cpu__cfs_quota_us=quota, cpu__cfs_period_us="100000")
    assert usable_cores() == cores


def test_groups_above_limit_too(here: Machine) -> None:
    """The least of a job's group and the slice that it lies in."""
    here.member_of("0::/slice/job\n")
    here.group("slice", cpu__max="200000 100000", memory__max=str(300 * MB), memory__current="0")
    here.group("slice/job", cpu__max="400000 100000", memory__max=str(500 * MB))
    here.group("slice/job", memory__current=str(100 * MB))
    assert usable_cores() == 2
    assert free_memory() == machine.FreeMemory(300 * MB, here.groups / "slice/memory.max")


def test_cached_files_count_as_free(here: Machine) -> None:
    """Limit 800 MB, used 700 of which 150 are files' pages: 250 MB are left."""
    here.group("", memory__max=str(800 * MB), memory__current=str(700 * MB))
    here.group("", memory__stat=f"anon 1\nactive_file {50 * MB}\ninactive_file {100 * MB}")
    assert free_memory().bytes == 250 * MB
    here.member_of("4:memory:/\n")
    here.group("memory", memory__limit_in_bytes=str(800 * MB))
    here.group("memory", memory__usage_in_bytes=str(700 * MB))
    here.group("memory", memory__stat=f"total_inactive_file {20 * MB}")
    assert free_memory().bytes == 120 * MB


@pytest.mark.parametrize("name", machine.THREAD_VARIABLES)
def test_variables_lower_the_count(
    here: Machine, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As they do for other programs; what is no number above 0 says nothing."""
    for value, cores in (("3", 3), ("99", 8), ("0", 8), ("many", 8)):
        monkeypatch.setenv(name, value)
        assert usable_cores() == cores


def test_compiled_kernels_and_workers_take_as_many_threads() -> None:
    """In a process of its own, told by the variable that OpenMP programs know."""
    code = (
        "import nerfcore, numba; from nerfcore.field.workers import worker_count; "
        "print(numba.get_num_threads(), worker_count())"
    )
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | {"OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == ["1", "1"], done.stderr
