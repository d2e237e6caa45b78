"""Ledgers of every older version: opened for writing they are brought up to date, nothing lost."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mediator import ledger_file, ledger_schema
from mediator.errors import LedgerError
from mediator.events import Topics
from mediator.ledger import Ledger
from mediator.ledger_file import LEDGER_NAME
from mediator.ledger_schema import SCHEMA_VERSION, UPGRADES
from mediator.records import Control, Source
from mediator.states import JobState

TOPICS = Topics("status", "events", "letters", "jobs")
OLDER = range(1, SCHEMA_VERSION)
JOB = {
    "op": "train", "spec": '{"op":"train"}', "spec_sha256": "hash", "priority": 0,
    "attempt": 2, "received_at": "2026-01-02T03:04:05+00:00", "event_seq": 7,
}  # fmt: skip


def older(folder: Path, version: int) -> Path:
    """Make the ledger that a mediator of an older version left: a job that waits, one that is done.

    From version 2 on the first of them was queued anew on request.
    """
    path = folder / LEDGER_NAME
    steps = "".join(UPGRADES[target] for target in range(2, version + 1))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(
            f"PRAGMA application_id={ledger_schema.APPLICATION_ID};"
            f"PRAGMA user_version={version};{ledger_schema.SCHEMA}{steps}"
        )
        for number, (name, state) in enumerate((("waits", "queued"), ("done", "succeeded"))):
            row = {**JOB, "job_id": name, "state": state, "sequence": number + 1}
            if version > 1:
                row |= {"epoch": 2 - number, "claimed": 1, "source_cluster": "c",
                        "source_topic": "jobs", "source_offset": number}  # fmt: skip
            names = ",".join(row)
            marks = ",".join("?" * len(row))
            values = tuple(row.values())
            connection.execute(f"INSERT INTO jobs ({names}) VALUES ({marks})", values)
            connection.execute(
                "INSERT INTO sources (cluster_id, topic, partition, offset, job_id, outcome)"
                " VALUES ('c', 'jobs', 0, ?, ?, 'accepted')", (number, name),
            )  # fmt: skip
        connection.execute(
            "INSERT INTO outbox (job_id, seq, topic, key, headers, payload)"
            " VALUES ('waits', 7, 'events', 'waits', '[]', x'7b7d')"
        )
    return path


@pytest.mark.parametrize("version", OLDER)
def test_what_an_older_ledger_holds_is_all_there(tmp_path: Path, version: int) -> None:
    """Jobs, what became of messages, and what is owed; and the jobs can go on."""
    older(tmp_path, version)
    with closing(Ledger(tmp_path, TOPICS)) as ledger:
        waits, done = ledger.jobs()
        assert (waits.state, waits.attempt, waits.event_seq) == (JobState.QUEUED, 2, 7)
        assert (str(waits.source), str(done.source)) == ("c/jobs/0/0", "c/jobs/0/1")
        assert waits.claimed and done.state is JobState.SUCCEEDED
        assert ledger.has_seen(Source("c", "jobs", 0, 1, "digest"))
        assert [entry.payload for entry in ledger.unsent(0, 9)] == [b"{}"]
        assert [w.job_id for w in ledger.startable(1, 0, 1e12)] == ["waits"]
        ledger.move("waits", JobState.RUNNING)
        ledger.move("waits", JobState.SUCCEEDED)
    with closing(Ledger(tmp_path, TOPICS)) as ledger:
        assert [job.state for job in ledger.jobs()] == [JobState.SUCCEEDED] * 2


@pytest.mark.parametrize("version", OLDER)
def test_an_upgraded_ledger_has_the_tables_of_a_new_one(tmp_path: Path, version: int) -> None:
    """Column by column."""
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
    older(tmp_path / "old", version)
    tables = []
    for folder in ("old", "new"):
        with closing(Ledger(tmp_path / folder, TOPICS)) as ledger:
            names = ledger._rows("SELECT name FROM sqlite_schema WHERE type='table' ORDER BY name")
            tables.append({
                row["name"]: [tuple(c) for c in ledger._rows(f"PRAGMA table_info({row['name']})")]
                for row in names
            })  # fmt: skip
            assert ledger._rows("PRAGMA user_version")[0][0] == SCHEMA_VERSION
    assert tables[0] == tables[1]


@pytest.mark.parametrize("version", OLDER)
def test_messages_from_before_the_status_topic_had_any_are_told_once(
    tmp_path: Path, version: int
) -> None:
    """So that a job that was queued anew before the upgrade outlives its mediator too."""
    older(tmp_path, version)
    for _ in range(2):
        with closing(Ledger(tmp_path, TOPICS)) as ledger:
            ledger.keep_owed_messages(limit=1)
            kept = [entry for entry in ledger.unsent(0, 99) if entry.topic == "status"]
            assert [entry.key for entry in kept] == ["message/waits"]
            assert json.loads(kept[0].payload)["jobs_topic"] == "jobs"


@pytest.mark.parametrize("version", [2, 3, 4])
def test_a_request_from_before_a_retry_of_an_older_ledger_is_void(
    tmp_path: Path, version: int
) -> None:
    """It is not known in which epoch the job was queued anew, so the last one is taken for it."""
    older(tmp_path, version)
    with closing(Ledger(tmp_path, TOPICS)) as ledger:
        job = ledger.job("waits")
        assert job is not None and job.anew_epoch == 2
        assert not Control("cancel", "waits", "x", epoch=1).cancels(job.anew_epoch)
        assert Control("cancel", "waits", "x", epoch=2).cancels(job.anew_epoch)


@pytest.mark.parametrize("version", OLDER)
def test_only_to_look_an_older_ledger_is_left_as_it_is(tmp_path: Path, version: int) -> None:
    """Bringing it up to date is the mediator's work; the line says so."""
    path = older(tmp_path, version)
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="start this mediator on it once"):
        Ledger(tmp_path, TOPICS, read_only=True)
    assert path.read_bytes() == before


def test_a_kill_within_the_upgrade_leaves_the_older_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one transaction: the last step failing undoes the first."""
    path = older(tmp_path, 1)
    broken = {**UPGRADES, SCHEMA_VERSION: "SELECT * FROM no_such_table;"}
    with monkeypatch.context() as patch, pytest.raises(LedgerError):
        patch.setattr(ledger_file, "UPGRADES", broken)
        Ledger(tmp_path, TOPICS)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == 1
    with closing(Ledger(tmp_path, TOPICS)) as ledger:
        assert ledger.count() == 2
