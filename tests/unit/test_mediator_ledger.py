"""The ledger: durable, alone, and never recreated silently."""

import json
import sqlite3
from pathlib import Path

import pytest

from mediator.errors import (
    LedgerCorruptError,
    LedgerError,
    LedgerLockedError,
    LedgerWriteError,
    MediatorError,
)
from mediator.events import DeadLetter, EventKind, FieldProblem, Topics
from mediator.ledger import Ledger
from mediator.ledger_file import LEDGER_NAME, hold_lock
from mediator.records import NewJob, ProcessIdentity, Source
from mediator.states import JobState

TOPICS = Topics("status", "events", "letters")


def source(offset: int) -> Source:
    """Give the source of the message at an offset."""
    return Source("cluster", "jobs", 0, offset)


def job(name: str, **more: str) -> NewJob:
    """Give a small job."""
    return NewJob(name, "train", json.dumps({"job_id": name}), f"hash of {name}", **more)


def take(ledger: Ledger, offset: int, new: NewJob) -> None:
    """Accept a job and have its claim hold, so that everything may be told of it."""
    ledger.accept(source(offset), new)
    ledger.mark_claimed([(new.job_id, 1)])


def letter(offset: int, job_id: str | None) -> DeadLetter:
    """Give a dead letter."""
    problem = FieldProblem("op", '"x"', "must be one of train")
    return DeadLetter(source(offset), "bad", [problem], b"\xff{", None, [("h", b"v")], job_id)


@pytest.fixture
def ledger(tmp_path: Path):
    """Give an empty ledger."""
    ledger = Ledger(tmp_path, TOPICS)
    yield ledger
    ledger.close()


def test_what_is_accepted_is_there_after_reopening(tmp_path: Path) -> None:
    """A job, its source and its event outlive the connection."""
    first = Ledger(tmp_path, TOPICS)
    take(first, 7, job("a"))
    first.close()
    second = Ledger(tmp_path, TOPICS)
    assert second.state_of("a") is JobState.QUEUED
    assert second.has_seen(source(7))
    assert not second.has_seen(Source("another cluster", "jobs", 0, 7))
    assert [e.topic for e in second.unsent(0, 9)] == ["status", "events"]


def test_what_is_accepted_reaches_the_disk_and_strangers_cannot_read_it(
    ledger: Ledger, tmp_path: Path
) -> None:
    """Accepting waits for the disk, beginning a run does not; a lasting commit covers both."""

    def level() -> int:
        return ledger._connection.execute("PRAGMA synchronous").fetchone()[0]

    ledger.accept(source(0), job("a"))
    assert level() == 2
    ledger.begin_run("a", "work-0", "token")
    assert level() == 1
    ledger.make_lasting()
    assert level() == 2
    changes = ledger._connection.total_changes
    ledger.make_lasting()
    assert ledger._connection.total_changes == changes
    assert ledger._connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert (tmp_path / LEDGER_NAME).stat().st_mode & 0o777 == 0o640


def test_an_event_has_the_agreed_shape(ledger: Ledger) -> None:
    """Consumers of the topics can rely on these names."""
    take(ledger, 0, job("a"))
    entry = ledger.unsent(0, 1)[0]
    event = json.loads(entry.payload)
    assert entry.key == "a"
    assert list(event) == [
        "job_id", "seq", "time", "kind", "state", "op", "attempt", "epoch", "reason",
        "mediator", "jobs_topic", "spec_sha256", "source", "anew_epoch", "data",
    ]  # fmt: skip
    assert (event["seq"], event["kind"], event["state"]) == (1, "state", "queued")
    assert (event["spec_sha256"], event["source"]) == ("hash of a", "cluster/jobs/0/0")
    assert event["data"] == {}
    whole = json.loads(ledger.unsent(0, 2)[1].payload)
    assert list(whole) == [
        "job_id", "seq", "time", "kind", "state", "op", "attempt", "epoch", "reason", "data",
    ]  # fmt: skip
    assert whole["data"]["spec"] == {"job_id": "a"}


def test_progress_goes_to_the_event_topic_only_and_holds_no_nan(ledger: Ledger) -> None:
    """The compacted topic holds states; NaN, which JSON has not, becomes null."""
    take(ledger, 0, job("a"))
    last = ledger.unsent(0, 9)[-1].entry_id
    ledger.add_events("a", [(EventKind.PROGRESS, {"loss": float("nan"), "step": 3})], 99)
    (entry,) = ledger.unsent(last, 9)
    assert entry.topic == "events"
    assert json.loads(entry.payload)["data"] == {"loss": None, "step": 3}
    record = ledger.job("a")
    assert record is not None and record.progress_offset == 99


def test_a_huge_event_is_cut(ledger: Ledger) -> None:
    """An event always fits a Kafka message of the default size."""
    take(ledger, 0, job("a"))
    ledger.add_events("a", [(EventKind.METRICS, {"rows": ["x" * 100] * 10_000})], 1)
    entry = ledger.unsent(0, 9)[-1]
    assert len(entry.payload) < 2000
    assert "bytes" in json.loads(entry.payload)["data"]["omitted"]


def test_a_dead_letter_holds_everything(ledger: Ledger) -> None:
    """The reason, the fields, the original bytes and headers, and a header to tell repeats by."""
    ledger.refuse(source(3), letter(3, None), "")
    (entry,) = ledger.unsent(0, 9)
    content = json.loads(entry.payload)
    assert entry.topic == "letters"
    assert entry.headers == (("skyline-source", "cluster/jobs/0/3"),)
    assert content["reason"] == "bad"
    assert content["errors"][0]["field"] == "op"
    assert content["original"] == {"encoding": "base64", "content": "/3s="}
    assert content["headers"] == [{"name": "h", "value": {"encoding": "utf-8", "content": "v"}}]


def test_a_refused_id_may_be_used_again(ledger: Ledger) -> None:
    """After a refusal the corrected job runs under the same name."""
    ledger.refuse(source(0), letter(0, "a"), "train")
    assert ledger.state_of("a") is JobState.REJECTED
    ledger.refuse(source(1), letter(1, "a"), "train")
    ledger.accept(source(2), job("a"))
    assert ledger.state_of("a") is JobState.QUEUED


def test_a_refusal_does_not_disturb_a_job_of_that_id(ledger: Ledger) -> None:
    """Garbage that names a living job leaves its state alone."""
    take(ledger, 0, job("a"))
    ledger.refuse(source(1), letter(1, "a"), "train")
    assert ledger.state_of("a") is JobState.QUEUED
    kinds = [json.loads(e.payload).get("kind") for e in ledger.unsent(0, 9)]
    assert kinds == ["state", "state", None, "duplicate"]


def test_a_run_is_recorded_before_its_process(ledger: Ledger) -> None:
    """Attempt, slot and token come first, the process after."""
    ledger.accept(source(0), job("a"))
    assert ledger.begin_run("a", "work-0", "token") == 1
    record = ledger.job("a")
    assert record is not None
    assert (record.state, record.run_token, record.process) == (JobState.RUNNING, "token", None)
    ledger.record_process("a", ProcessIdentity("boot", 5, 6))
    record = ledger.job("a")
    assert record is not None and record.process == ProcessIdentity("boot", 5, 6)


def test_jobs_wait_in_order(ledger: Ledger) -> None:
    """Larger priority first, then the order of arrival."""
    ledger.accept(source(0), job("a"))
    ledger.accept(source(1), job("b"))
    ledger.accept(source(2), NewJob("c", "train", "{}", "h", priority=1))
    ledger.accept(source(3), NewJob("v", "view", "{}", "h"))
    assert ledger.startable(9, 0, 0.0) == []
    ledger.mark_claimed([(name, 1) for name in "abcv"])
    assert [w.job_id for w in ledger.startable(9, 0, 0.0)] == ["c", "a", "b"]
    assert [w.job_id for w in ledger.startable(2, 0, 0.0)] == ["c", "a"]
    assert [w.job_id for w in ledger.startable(0, 9, 0.0)] == ["v"]


def test_a_view_takes_a_whole_slot_when_told_so_or_when_there_are_no_places(ledger: Ledger) -> None:
    """By the job's own field, or by a mediator without view places."""
    ledger.accept(source(0), NewJob("shares", "view", '{"share_slot": true}', "h"))
    ledger.accept(source(1), NewJob("alone", "view", '{"share_slot": false}', "h"))
    ledger.accept(source(2), job("train"))
    ledger.mark_claimed([(name, 1) for name in ("shares", "alone", "train")])
    assert [w.job_id for w in ledger.startable(9, 0, 0.0)] == ["alone", "train"]
    assert [w.job_id for w in ledger.startable(0, 9, 0.0)] == ["shares"]
    without = ledger.startable(9, 0, 0.0, view_places=False)
    assert [w.job_id for w in without] == ["shares", "alone", "train"]
    assert not any(w.shares for w in without)


def test_events_wait_until_the_claim_has_held(ledger: Ledger, tmp_path: Path) -> None:
    """Across a restart; then they go out in their order, behind what is owed already."""
    ledger.accept(source(0), job("a"))
    ledger.note_duplicate(source(1), "a")
    ledger.accept(source(2), job("b"))
    assert [(e.topic, e.key) for e in ledger.unsent(0, 9)] == [("status", "a"), ("status", "b")]
    assert ledger.backlog(9) == 2 and ledger.unsent_topics() == {"status"}
    again = Ledger(tmp_path, TOPICS)
    again.mark_claimed([("a", 2)])
    assert again.backlog(9) == 2
    again.mark_claimed([("a", 1)])
    told = [e for e in again.unsent(0, 9) if e.topic == "events"]
    assert [json.loads(e.payload)["seq"] for e in told] == [1, 2]
    assert told[0].entry_id > again.unsent(0, 9)[1].entry_id
    again.give_up("b")
    again.mark_claimed([("b", 1)])
    assert [e.key for e in again.unsent(0, 9)] == ["a", "a", "a"]
    again.close()


def test_sent_entries_are_not_given_again(ledger: Ledger) -> None:
    """The outbox gives what is unsent, in order."""
    for number in range(3):
        take(ledger, number, job(f"j{number}"))
    entries = ledger.unsent(0, 100)
    ledger.mark_sent([e.entry_id for e in entries[:4]])
    assert [e.key for e in ledger.unsent(0, 100)] == ["j2", "j2"]
    assert ledger.unsent(entries[4].entry_id, 100) == entries[5:]


def test_an_error_inside_a_transaction_leaves_nothing(ledger: Ledger) -> None:
    """Half a change is never written."""
    ledger.accept(source(0), job("a"))
    with pytest.raises(sqlite3.IntegrityError), ledger.transaction():
        ledger._write_received(job("b"))
        ledger._note_source(source(0), "b", "accepted")
    assert ledger.state_of("b") is None


def test_a_full_disk_is_named_and_passes(ledger: Ledger) -> None:
    """Writing fails with the mend, and works again when there is room."""
    pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
    ledger._connection.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(LedgerWriteError, match="free space"):
        for number in range(1000):
            ledger.accept(source(number), job(f"j{number}"))
    accepted = len(ledger.jobs())
    ledger._connection.execute("PRAGMA max_page_count=100000")
    ledger.accept(source(5000), job("after"))
    assert len(ledger.jobs()) == accepted + 1


def test_only_ended_jobs_are_forgotten(ledger: Ledger) -> None:
    """Forgetting keeps the source, so the message cannot bring the job back."""
    take(ledger, 0, job("a"))
    with pytest.raises(MediatorError, match="not ended"):
        ledger.forget("a")
    ledger.move("a", JobState.FAILED, reason="no")
    ledger.forget("a")
    assert ledger.job("a") is None
    assert ledger.has_seen(source(0))
    assert len(ledger.unsent(0, 99)) == 4


def test_a_second_mediator_is_kept_out(tmp_path: Path) -> None:
    """The lock names its holder, and ends with it."""
    with (
        hold_lock(tmp_path),
        pytest.raises(LedgerLockedError, match=r"pid \d+.*--log-root"),
        hold_lock(tmp_path),
    ):
        pass
    with hold_lock(tmp_path):
        pass


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _garbage(path: Path) -> None:
    path.write_bytes(b"this is no database at all " * 300)


def _overwritten_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = b"\x5a" * (len(content) - 4096)
    path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def _another_database(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (a)")


def _only_journal_left(path: Path) -> None:
    path.rename(path.with_name(path.name + "-wal"))


@pytest.mark.parametrize(
    "damage",
    [_empty, _garbage, _overwritten_middle, _cut, _another_database, _only_journal_left],
)
def test_a_damaged_ledger_is_refused_and_left_alone(tmp_path: Path, damage) -> None:
    """The mediator says how to mend it; it never begins anew over it."""
    ledger = Ledger(tmp_path, TOPICS)
    for number in range(50):
        ledger.accept(source(number), job(f"j{number}"))
    ledger.close()
    damage(tmp_path / LEDGER_NAME)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(LedgerCorruptError, match="aside"):
        Ledger(tmp_path, TOPICS)
    after = {p.name: p.read_bytes() for p in tmp_path.iterdir() if not p.name.endswith("-shm")}
    assert {name: after[name] for name in before} == before


def test_a_ledger_of_another_version_is_refused(tmp_path: Path) -> None:
    """An older mediator does not touch a newer ledger."""
    Ledger(tmp_path, TOPICS).close()
    with sqlite3.connect(tmp_path / LEDGER_NAME) as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(LedgerError, match="version 99"):
        Ledger(tmp_path, TOPICS)


def test_reading_beside_a_writer(ledger: Ledger, tmp_path: Path) -> None:
    """A reader sees what is committed and cannot write."""
    ledger.accept(source(0), job("a"))
    reader = Ledger(tmp_path, TOPICS, read_only=True)
    assert [j.job_id for j in reader.jobs()] == ["a"]
    with pytest.raises(LedgerWriteError):
        reader.move("a", JobState.FAILED)
    reader.close()
    with pytest.raises(LedgerError, match="no ledger here"):
        Ledger(tmp_path / "elsewhere", TOPICS, read_only=True)
