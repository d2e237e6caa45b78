"""The ledger file: read where nothing can be written, locked by a stranger, mended."""

import re
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from mediator import ledger_file
from mediator.errors import LedgerCorruptError, LedgerError, LedgerLockedError, LedgerWriteError
from mediator.events import Topics
from mediator.ledger import Ledger
from mediator.ledger_file import LEDGER_NAME, hold_lock
from mediator.records import NewJob, Source

TOPICS = Topics("status", "events", "letters")


def fill(ledger: Ledger, number: int) -> None:
    """Queue some jobs."""
    for offset in range(number):
        ledger.accept(Source("c", "t", 0, offset), NewJob(f"j{offset}", "train", "{}", "h"))


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with the ledger of a killed mediator; SQLite refuses to open it in its place.

    That is what it does on a read-only file system, which a test cannot always mount.
    """
    at_work, folder = tmp_path / "at work", tmp_path / "kept"
    for path in (at_work, folder):
        path.mkdir()
    with closing(Ledger(at_work, TOPICS)) as ledger:
        fill(ledger, 3)
        for name in (LEDGER_NAME, f"{LEDGER_NAME}-wal"):
            shutil.copyfile(at_work / name, folder / name)
    refusals = iter([sqlite3.OperationalError("unable to open database file")])
    check = ledger_file._check_version

    def refuse_once(connection: sqlite3.Connection, path: Path) -> int:
        for refusal in refusals:
            raise refusal
        return check(connection, path)

    monkeypatch.setattr(ledger_file, "_check_version", refuse_once)
    return folder


def test_a_ledger_is_read_where_nothing_can_be_written(kept: Path) -> None:
    """All that was committed is there, also what is only in the journal yet."""
    before = {p.name: p.read_bytes() for p in kept.iterdir() if p.is_file()}
    with closing(Ledger(kept, TOPICS, read_only=True)) as reader:
        assert [job.job_id for job in reader.jobs()] == ["j0", "j1", "j2"]
    assert {p.name: p.read_bytes() for p in kept.iterdir() if p.is_file()} == before


def test_a_ledger_that_is_being_written_is_not_copied(kept: Path) -> None:
    """Half of a change would be read; who may write the folder can read it."""
    with hold_lock(kept), pytest.raises(LedgerLockedError, match="as a user who may"):
        Ledger(kept, TOPICS, read_only=True)


def test_a_stranger_who_keeps_the_ledger_locked_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mend is to end that program, not to free space."""
    Ledger(tmp_path, TOPICS).close()
    connect = sqlite3.connect
    monkeypatch.setattr(
        ledger_file.sqlite3, "connect", lambda *a, **k: connect(*a, **{**k, "timeout": 0.1})
    )
    with closing(connect(tmp_path / LEDGER_NAME, isolation_level=None)) as stranger:
        stranger.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LedgerError) as refusal:
            fill(Ledger(tmp_path, TOPICS), 1)
    assert isinstance(refusal.value, LedgerWriteError)
    assert "another program keeps it locked" in str(refusal.value)
    assert "space" not in str(refusal.value) and "by itself" not in str(refusal.value)


def test_the_mend_that_is_named_works(tmp_path: Path) -> None:
    """The command of the message, as it stands there, gives a ledger with the jobs in it."""
    if shutil.which("sqlite3") is None:
        pytest.skip("the mend is made with the sqlite3 program, which is not here")
    with closing(Ledger(tmp_path, TOPICS)) as ledger:
        fill(ledger, 200)
        size = ledger._rows("PRAGMA page_size")[0][0]
        page = ledger._rows("SELECT rootpage FROM sqlite_schema WHERE name='jobs_in_order'")[0][0]
    path = tmp_path / LEDGER_NAME
    with path.open("r+b") as content:
        content.seek((page - 1) * size)
        content.write(b"\xa5" * size)
    with pytest.raises(LedgerCorruptError) as refusal:
        Ledger(tmp_path, TOPICS)
    text = str(refusal.value)
    assert "\n" not in text
    command = re.search(r"`(.*?)`", text)
    assert command is not None
    subprocess.run(["sh", "-c", command[1]], check=False, timeout=60, capture_output=True)
    (tmp_path / "mended.sqlite3").rename(path)
    for journal in tmp_path.glob(f"{LEDGER_NAME}-*"):
        journal.unlink()
    with closing(Ledger(tmp_path, TOPICS)) as mended:
        assert mended.count() == 200


def test_without_its_file_a_ledger_is_not_said_to_be_salvaged(tmp_path: Path) -> None:
    """A journal alone holds no ledger: the mend names no file that is not there."""
    (tmp_path / f"{LEDGER_NAME}-wal").write_bytes(b"x" * 100)
    with pytest.raises(LedgerCorruptError) as refusal:
        Ledger(tmp_path, TOPICS)
    assert ".dump" not in str(refusal.value) and "aside" in str(refusal.value)
