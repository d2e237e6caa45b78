"""A slot is free when its last run is gone from the GPU, not only from /proc."""

import os
import stat
import subprocess
import time
from pathlib import Path

import pytest

from mediator.gpus import COMPLAIN_EVERY_S, NvidiaSmi, Quarantine
from mediator.proc import boot_id, identify
from mediator.records import ProcessIdentity


class FakeProbe:
    """Answers what it was told to, one call late."""

    def __init__(self) -> None:
        self.busy: set[int] = set()
        self.reason: str | None = None
        self.looks = 0

    def look(self) -> frozenset[int] | None:
        """Give nothing at first, then the answer."""
        if self.reason is not None:
            raise OSError(self.reason)
        self.looks += 1
        return frozenset(self.busy) if self.looks % 2 == 0 else None


class Clock:
    """A clock that stands still unless told."""

    now = 100.0

    def __call__(self) -> float:
        """Give the time."""
        return self.now


def was(pid: int) -> ProcessIdentity:
    """Give a process that had this number once, before all that run now."""
    return ProcessIdentity(boot_id(), pid, 0)


def gone_pid() -> int:
    """Give the number of a process that has ended."""
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


@pytest.fixture
def probe() -> FakeProbe:
    """Give a probe."""
    return FakeProbe()


@pytest.fixture
def clock() -> Clock:
    """Give a clock."""
    return Clock()


def test_a_slot_waits_until_the_gpu_has_let_go(probe: FakeProbe, clock: Clock, caplog) -> None:
    """Held while the driver still lists the ended process, with a complaint after a while."""
    quarantine = Quarantine(probe, clock)
    pid = gone_pid()
    probe.busy = {pid, 999_999_999}
    assert quarantine.hold("work-0", {was(pid)})
    for _ in range(6):
        assert quarantine.released() == []
        clock.now += 1
    assert "work-0 stays taken" not in caplog.text
    clock.now += COMPLAIN_EVERY_S
    assert [quarantine.released() for _ in range(4)] == [[]] * 4
    probe.busy = {999_999_999}
    clock.now += 1
    assert [slot for _ in range(3) for slot in quarantine.released()] == ["work-0"]
    assert quarantine.released() == []


def test_a_new_process_of_the_same_number_does_not_hold_it(probe: FakeProbe, clock: Clock) -> None:
    """It began at another time than the run's; one that began at the same time is the run's."""
    quarantine = Quarantine(probe, clock)
    probe.busy = {os.getpid()}
    quarantine.hold("work-0", {was(os.getpid())})
    assert [quarantine.released() for _ in range(2)] == [[], ["work-0"]]
    myself = identify(os.getpid())
    assert myself is not None and quarantine.hold("work-0", {myself})
    clock.now += 1
    assert [quarantine.released() for _ in range(3)] == [[]] * 3


def test_an_answer_counts_only_for_slots_held_when_it_was_asked_for(
    probe: FakeProbe, clock: Clock
) -> None:
    """A run that ended while the question was on its way needs a new one."""
    quarantine = Quarantine(probe, clock)
    quarantine.hold("work-0", {was(gone_pid())})
    assert quarantine.released() == []
    quarantine.hold("work-1", {was(gone_pid())})
    assert quarantine.released() == ["work-0"]
    clock.now += 1
    assert [quarantine.released() for _ in range(2)] == [[], ["work-1"]]


def test_without_a_gpu_nothing_is_held(probe: FakeProbe, clock: Clock) -> None:
    """And a probe that fails lets go, with the reason."""
    assert not Quarantine(None, clock).hold("work-0", {was(1)})
    quarantine = Quarantine(probe, clock)
    probe.reason = "driver mismatch"
    quarantine.hold("work-0", {was(gone_pid())})
    assert quarantine.released() == ["work-0"]


def ask(probe: NvidiaSmi) -> frozenset[int]:
    """Ask until there is an answer."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if (busy := probe.look()) is not None:
            return busy
    raise AssertionError("no answer within 10 s")


def program(folder: Path, text: str) -> str:
    """Make a stand-in for nvidia-smi."""
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_nvidia_smi_is_read(tmp_path: Path) -> None:
    """Numbers, one a line; other lines (`[Insufficient Permissions]`) say nothing."""
    seen = tmp_path / "seen"
    smi = NvidiaSmi(program(tmp_path, f"echo $@ > {seen}; echo 12; echo ' 345 '; echo '[N/A]'"))
    assert ask(smi) == {12, 345} and ask(smi) == {12, 345}
    assert seen.read_text().startswith("--query-compute-apps=pid --format=csv,noheader")


def test_an_nvidia_smi_that_fails_or_hangs_is_named(tmp_path: Path) -> None:
    """The loop never waits for it."""
    with pytest.raises(OSError, match="driver/library version mismatch"):
        ask(NvidiaSmi(program(tmp_path, "echo driver/library version mismatch; exit 18")))
    clock = Clock()
    hanging = NvidiaSmi(program(tmp_path, "exec sleep 60"), clock)
    assert hanging.look() is None
    clock.now += 60
    with pytest.raises(OSError, match="no answer within 10 s"):
        hanging.look()
    with pytest.raises(FileNotFoundError):
        NvidiaSmi(str(tmp_path / "none")).look()
