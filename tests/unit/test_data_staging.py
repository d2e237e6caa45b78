"""Datasets in the making: locks, plans, a full disk, and what an interrupted run leaves."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_flights import camera_of, leftovers, make_flight

from configs.exit_codes import ExitCode
from nerfcore.data import writing
from nerfcore.data.dataset import load_dataset
from nerfcore.data.images import read_photograph
from nerfcore.data.prepare import PrepareSettings, prepare_dataset
from nerfcore.data.staging import restore_retired, staged
from nerfcore.data.update import update_dataset
from nerfcore.errors import DataError

PLAN = {"of": "test"}
SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_dataset.py"


class Interrupted(BaseException):
    """Ends a run the way Ctrl-C does."""


def interrupt_after(count, phase="train photographs"):
    def on_progress(name, done, total):
        if name == phase and done == count:
            raise Interrupted

    return on_progress


def stage_of(target: Path) -> Path:
    return target.parent / f".tmp-{target.name}-stage"


def test_interrupted_run_goes_on(tmp_path):
    """What an interrupted run finished is taken over, the rest is made; the result is the same."""
    make_flight(tmp_path / "flight", camera=camera_of("OPENCV"))
    want = prepare_dataset(tmp_path / "flight", tmp_path / "want", PrepareSettings())
    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        prepare_dataset(tmp_path / "flight", out, PrepareSettings(), interrupt_after(4))
    assert not out.exists()
    done = sorted((stage_of(out) / "train" / "rgbs").iterdir())
    assert len(done) >= 4
    before = {path.name: path.stat().st_mtime_ns for path in done[:4]}
    got = prepare_dataset(tmp_path / "flight", out, PrepareSettings(resume=True))
    kept = {path.name: path.stat().st_mtime_ns for path in got.train.paths if path.name in before}
    assert kept == before
    for one, other in zip(got.train.paths, want.train.paths, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert (out / "dataset.json").read_bytes() == (tmp_path / "want" / "dataset.json").read_bytes()
    assert leftovers(tmp_path) == [] and not (out / "work").exists()


def test_changed_photographs_are_made_anew(tmp_path):
    """A photograph replaced, or a stored file damaged, between the runs is not taken over."""
    flight = make_flight(tmp_path / "flight")
    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        prepare_dataset(tmp_path / "flight", out, PrepareSettings(), interrupt_after(6))
    replaced = tmp_path / "flight" / "images" / flight.names[0]
    replaced.write_bytes(replaced.read_bytes() + b"new")
    damaged = stage_of(out) / "train" / "rgbs" / "000001.png"
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    dataset = prepare_dataset(tmp_path / "flight", out, PrepareSettings(resume=True))
    assert dataset.train.paths[0].read_bytes().endswith(b"new")
    load_dataset(out, checksum=True)


def test_journal_cut_off_in_a_line(tmp_path):
    """A half line at the journal's end costs that photograph only, even after a second kill."""
    make_flight(tmp_path / "flight")
    out = tmp_path / "out"
    for _ in range(2):
        with pytest.raises(Interrupted):
            prepare_dataset(
                tmp_path / "flight", out, PrepareSettings(resume=True), interrupt_after(3)
            )
        journal = stage_of(out) / "work" / "journal.jsonl"
        with journal.open("a") as file:
            file.write('{"key": "tra')
    assert len(prepare_dataset(tmp_path / "flight", out, PrepareSettings(resume=True)).train) == 9


def test_another_plan_is_refused(tmp_path):
    """--resume with other settings or another model is refused; without --resume it begins anew."""
    make_flight(tmp_path / "flight")
    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        prepare_dataset(tmp_path / "flight", out, PrepareSettings(), interrupt_after(2))
    with pytest.raises(DataError, match="unfinished run had other settings or other input"):
        prepare_dataset(tmp_path / "flight", out, PrepareSettings(val_split=0.3, resume=True))
    assert stage_of(out).is_dir()
    assert len(prepare_dataset(tmp_path / "flight", out, PrepareSettings(val_split=0.3)).val) == 3
    assert leftovers(tmp_path) == []


def test_finished_dataset_is_kept(tmp_path):
    """--resume keeps a dataset that the same command made, and refuses one that it did not."""
    make_flight(tmp_path / "flight")
    out = tmp_path / "out"
    prepare_dataset(tmp_path / "flight", out, PrepareSettings())
    before = (out / "dataset.json").stat().st_mtime_ns
    assert len(prepare_dataset(tmp_path / "flight", out, PrepareSettings(resume=True)).train) == 9
    assert (out / "dataset.json").stat().st_mtime_ns == before
    with pytest.raises(DataError, match="made with other settings"):
        prepare_dataset(tmp_path / "flight", out, PrepareSettings(val_split=0.3, resume=True))
    both = PrepareSettings(val_split=0.3, resume=True, overwrite=True)
    assert len(prepare_dataset(tmp_path / "flight", out, both).val) == 3


@pytest.mark.parametrize("model", ["PINHOLE", "OPENCV"])
def test_a_photograph_changed_after_the_dataset_was_made(tmp_path, model):
    """--resume makes it anew, it alone, whatever its time says; what is bad changes nothing."""
    flight = make_flight(tmp_path / "flight", camera=camera_of(model))
    out, again = tmp_path / "out", PrepareSettings(val_split=0.3, resume=True)
    before = prepare_dataset(tmp_path / "flight", out, PrepareSettings(val_split=0.3))
    times = {path: path.stat().st_mtime_ns for path in before.train.paths}
    source = tmp_path / "flight" / "images" / before.train.names[2]
    noted = source.stat()
    whole = source.read_bytes()
    source.write_bytes(whole[:200])
    with pytest.raises(DataError, match="cut off, 200 bytes"):
        prepare_dataset(tmp_path / "flight", out, again)
    assert load_dataset(out, checksum=True).train.paths == before.train.paths
    assert cv2.imwrite(str(source), np.full((72, 96, 3), 200, np.uint8))
    os.utime(source, ns=(noted.st_atime_ns, noted.st_mtime_ns))
    after = prepare_dataset(tmp_path / "flight", out, again)
    assert after.train.names == before.train.names and len(flight.names) == 9
    stored = [a == b for a, b in zip(after.train.paths, before.train.paths, strict=True)]
    assert stored == [True, True, False, True, True, True][: len(stored)]
    assert all(
        path.stat().st_mtime_ns == times[path] for path in after.train.paths if path in times
    )
    assert abs(int(read_photograph(after.train.paths[2]).mean()) - 200) < 2
    assert not before.train.paths[2].exists()
    want = prepare_dataset(tmp_path / "flight", tmp_path / "want", PrepareSettings(val_split=0.3))
    assert after.train.checksums == want.train.checksums
    load_dataset(out, checksum=True)


def test_a_dataset_that_notes_no_sources_cannot_be_compared(tmp_path):
    """An older dataset is not called unchanged when nobody can tell."""
    make_flight(tmp_path / "flight")
    out = tmp_path / "out"
    prepare_dataset(tmp_path / "flight", out, PrepareSettings())
    record = json.loads((out / "dataset.json").read_text())
    for image in record["train"]["images"]:
        del image["source_sha256"]
    (out / "dataset.json").write_text(json.dumps(record))
    assert len(load_dataset(out).train) == 9
    with pytest.raises(DataError, match=r"records no source_sha256 .*add --overwrite"):
        prepare_dataset(tmp_path / "flight", out, PrepareSettings(resume=True))


def test_two_runs_at_once(tmp_path):
    """A run that finds another one busy with the same output leaves it alone."""
    make_flight(tmp_path / "flight")
    out = tmp_path / "out"
    stage_of(out).mkdir()
    descriptor = os.open(stage_of(out), os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another run is busy"):
            prepare_dataset(tmp_path / "flight", out, PrepareSettings())
        assert stage_of(out).is_dir()
    finally:
        os.close(descriptor)
    prepare_dataset(tmp_path / "flight", out, PrepareSettings())


def test_killed_between_the_renames_of_a_replacement(tmp_path):
    """The old dataset comes back when it was set aside and the new one did not take its place."""
    make_flight(tmp_path / "flight")
    out = tmp_path / "out"
    prepare_dataset(tmp_path / "flight", out, PrepareSettings())
    aside = tmp_path / ".tmp-out-old-12345678"
    out.rename(aside)
    restore_retired(out)
    assert len(load_dataset(out).train) == 9 and not aside.exists()
    prepare_dataset(tmp_path / "flight", tmp_path / "other", PrepareSettings())
    (tmp_path / "other").rename(aside)
    dataset = prepare_dataset(tmp_path / "flight", out, PrepareSettings(overwrite=True))
    assert len(dataset.train) == 9 and leftovers(tmp_path) == []


def test_missing_parents_go_again(tmp_path):
    """An error leaves no folder behind that was not there before."""
    with pytest.raises(DataError, match="on purpose"), staged(tmp_path / "a" / "b" / "c", PLAN):
        raise DataError("on purpose")
    assert list(tmp_path.iterdir()) == []


def mounted(folder: Path, size: str) -> bool:
    """Mount a small file system at the folder; only root may."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
    )
    return done.returncode == 0


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    if os.geteuid() != 0 or not mounted(folder, "256k"):
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def noisy(flight):
    """Give the photographs contents that fill a disk."""
    rng = np.random.default_rng(0)
    for name in flight.names:
        path = flight.root / "images" / name
        cv2.imwrite(str(path), rng.integers(0, 256, (72, 96, 3), dtype=np.uint8))


def test_really_full_disk(tmp_path, small_disk):
    """On a disk of 256 kB the file, the cause and the mend are said, and nothing is left on it."""
    flight = make_flight(tmp_path / "flight", count=16)
    noisy(flight)
    with pytest.raises(OSError, match=r"the disk is full; .* was removed.*free more") as caught:
        prepare_dataset(tmp_path / "flight", small_disk / "out", PrepareSettings())
    assert caught.value.errno == errno.ENOSPC
    assert list(small_disk.iterdir()) == []
    command = [SCRIPT, "--data_path", tmp_path / "flight", "--output_path", small_disk / "out"]
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, check=False
    )
    assert done.returncode == ExitCode.DISK_FULL and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ") and "free more" in done.stderr
    assert list(small_disk.iterdir()) == []


def full_at(monkeypatch, name):
    """Let writing fail at the first file of this name."""
    plain = Path.write_bytes

    def write_bytes(self, content):
        if self.name == name:
            plain(self, content[:10])
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return plain(self, content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)


def test_full_disk_at_any_photograph(tmp_path, monkeypatch):
    """A write that fails in the middle leaves neither output nor stage."""
    make_flight(tmp_path / "flight")
    full_at(monkeypatch, "000005.png")
    with pytest.raises(OSError, match=r"000005\.png: the disk is full"):
        prepare_dataset(tmp_path / "flight", tmp_path / "out", PrepareSettings())
    assert not (tmp_path / "out").exists() and leftovers(tmp_path) == []


def test_full_disk_while_updating(tmp_path, monkeypatch):
    """A full disk leaves the dataset as it was."""
    make_flight(tmp_path / "flight")
    prepare_dataset(tmp_path / "flight", tmp_path / "out", PrepareSettings())
    make_flight(tmp_path / "later", prefix="b")
    before = {str(path) for path in (tmp_path / "out").rglob("*")}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "points.npz")

    monkeypatch.setattr(writing, "write_points", full)
    with pytest.raises(OSError, match=r"points\.npz: the disk is full"):
        update_dataset(tmp_path / "out", tmp_path / "later")
    assert {str(path) for path in (tmp_path / "out").rglob("*")} == before
    monkeypatch.undo()
    assert update_dataset(tmp_path / "out", tmp_path / "later").name == "batch_0001"


def test_interrupted_update_goes_on(tmp_path):
    """An update goes on from where it was interrupted, and the dataset is whole in between."""
    make_flight(tmp_path / "flight")
    out = tmp_path / "out"
    prepare_dataset(tmp_path / "flight", out, PrepareSettings())
    make_flight(tmp_path / "later", prefix="b")
    with pytest.raises(Interrupted):
        update_dataset(out, tmp_path / "later", on_progress=interrupt_after(3, "adapt photographs"))
    assert load_dataset(out).batches == {}
    stage = out / "continual" / ".tmp-batch_0001-stage"
    assert len((stage / "work" / "journal.jsonl").read_text().splitlines()) >= 3
    assert json.loads((stage / "work" / "plan.json").read_text())["heldout_split"] == 0.25
    assert update_dataset(out, tmp_path / "later", resume=True).name == "batch_0001"
    assert [path.name for path in (out / "continual").iterdir()] == ["batch_0001"]
