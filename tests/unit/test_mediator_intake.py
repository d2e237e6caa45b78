"""What becomes of a message: every bad input has one outcome, a reason, and harms nothing."""

import contextlib
import json
import os
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from intake_desk import Desk, evaluate, original_of, train

from configs import JobFolder
from mediator.commands import describe
from mediator.errors import LedgerWriteError
from mediator.intake import Outcome
from mediator.states import JobState

MIB = 1024 * 1024


@pytest.fixture
def desk(tmp_path: Path):
    """Give a desk."""
    desk = Desk(tmp_path)
    yield desk
    desk.ledger.close()


def test_a_good_job_is_queued(desk: Desk) -> None:
    """With the whole spec, defaults filled in."""
    assert desk.give(train(job_id="a")) is Outcome.ACCEPTED
    record = desk.ledger.job("a")
    assert record is not None and record.state is JobState.QUEUED
    assert json.loads(record.spec)["batch_rays"] == 8192
    assert desk.letters() == []


def test_priority_comes_before_order(desk: Desk) -> None:
    """Larger first; the same priority in the order of arrival."""
    for name, priority in (("a", 0), ("b", 5), ("c", 5), ("d", -1)):
        desk.give(train(job_id=name, priority=priority))
    desk.ledger.mark_claimed([(name, 1) for name in "abcd"])
    order = [w.job_id for w in desk.ledger.startable(9, 0, 0.0)]
    assert order == ["b", "c", "a", "d"]
    assert desk.give(train(job_id="e", priority=101)) is Outcome.REFUSED


def test_the_same_job_again_is_a_duplicate(desk: Desk) -> None:
    """Whatever the order and spelling of its fields; it is told once more, and not run."""
    desk.give(train(job_id="a", seed=1))
    again = json.dumps({"seed": 1, "job_id": "a", "batch_rays": 8192, **train()}).encode()
    assert desk.give(b"\n " + again) is Outcome.DUPLICATE
    assert [(e["seq"], e["kind"], e["state"]) for e in desk.events()] == [
        (1, "state", "queued"), (2, "duplicate", "queued"),
    ]  # fmt: skip


def test_another_spec_under_the_same_id_is_refused(desk: Desk) -> None:
    """The first job goes on; the second gets a dead letter and the waiting sender hears why."""
    desk.give(train(job_id="a"))
    assert desk.give(train(job_id="a", seed=5)) is Outcome.CONFLICT
    record = desk.ledger.job("a")
    assert record is not None and json.loads(record.spec)["seed"] == 0
    assert "another spec" in desk.letters()[0]["reason"]
    assert desk.events()[-1]["data"] == {"outcome": "rejected"}


def test_the_same_message_again_changes_nothing(desk: Desk) -> None:
    """A redelivery is recognised by cluster, topic, partition and offset."""
    for value in (train(), train(job_id="a"), {"op": "nonsense"}):
        raw = json.dumps(value).encode()
        desk.offset += 1
        desk.intake.take(desk.message(raw, desk.offset))
        before = len(desk.ledger.unsent(0, 999)), len(desk.ledger.jobs())
        again = desk.intake.take(desk.message(raw, desk.offset))
        assert again is Outcome.SEEN_BEFORE
        assert (len(desk.ledger.unsent(0, 999)), len(desk.ledger.jobs())) == before


def test_a_job_without_id_gets_one_from_its_source(tmp_path: Path) -> None:
    """The same message has the same id in any ledger; another message has another."""
    ids = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        desk = Desk(tmp_path / name)
        desk.give(train())
        desk.give(train())
        ids.append([job.job_id for job in desk.ledger.jobs()])
        desk.ledger.close()
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2
    assert all(len(name) == 12 and int(name, 16) >= 0 for name in ids[0])


BAD = {
    "a tombstone": (None, "empty"),
    "empty": (b"", "empty"),
    "not UTF-8": (b"\xff\xfe{}", "UTF-8"),
    "not JSON": (b"{op: train}", "not JSON"),
    "cut JSON": (b'{"op": "train", "da', "not JSON"),
    "a list": (b'[{"op": "train"}]', "list"),
    "NaN": (b'{"op": "train", "near": NaN}', "NaN"),
    "huge number": (b'{"op": "train", "near": 1e999}', "near"),
    "huge integer": (b'{"op": "train", "seed": ' + b"9" * 6000 + b"}", "integer"),
    "deep": (b"[" * 100_000 + b"]" * 100_000, "nested"),
    "deep object": (b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested"),
    "10 MB": (b'{"op": "' + b"x" * 10 * MIB + b'"}', "at most 1048576"),
    "no op": (b"{}", "op"),
    "unknown op": (train(op="trian"), "did you mean 'train'"),
    "unknown field": (train(batch_ray=3), "did you mean 'batch_rays'"),
    "wrong type": (train(seed="zero"), "seed"),
    "a true for a number": (train(seed=True), "seed"),
    "out of range": (train(downscale=1.5), "downscale"),
    "job id that climbs": (train(job_id="../../x"), "job_id"),
    "job id with a slash": (train(job_id="a/b"), "job_id"),
    "hidden job id": (train(job_id=".a"), "job_id"),
    "long job id": (train(job_id="a" * 65), "job_id"),
    "unicode job id": (train(job_id="аdmin"), "job_id"),  # noqa: RUF001 - a Cyrillic letter
    "job id with a line break": (train(job_id="a\n"), "job_id"),
    "example": (train(job_id="example"), "kept for an example"),
    "the ledger's name": (train(job_id="ledger.sqlite3"), "job_id"),
    "the lock's name": (train(job_id="Ledger.lock"), "own files"),
    "no dataset": (train(data_dirname="town"), "prepare_dataset.py"),
    "no partition": (train(mask_dirname="g33"), "create_clusters.py"),
    "data that climbs": (train(data_path="../../etc"), "outside"),
    "absolute data": (train(data_path="/etc"), "outside"),
    "name that climbs": (train(data_dirname="../../../etc"), "data_dirname"),
    "no batch": (evaluate(checkpoint_path="t", batch="later"), "known batches: after"),
    "no checkpoint": (evaluate(checkpoint_path="nobody"), "no job or folder"),
    "checkpoint that climbs": (evaluate(checkpoint_path="../../etc"), "outside"),
    "absolute checkpoint": (evaluate(checkpoint_path="/etc/passwd"), "outside"),
    "a lone surrogate": (b'{"op": "train", "dataset": "\\ud800"}', "dataset"),
    "a NUL in a path": (train(data_path="data/\0drz"), "data_path"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_by_name(desk: Desk, name: str) -> None:
    """One outcome, one dead letter with the reason and the original, no job, nothing on disk."""
    value, words = BAD[name]
    before = sorted(p.name for p in desk.logs.iterdir())
    assert desk.give(value) is Outcome.REFUSED
    (letter,) = desk.letters()
    assert words in letter["reason"]
    assert "\n" not in letter["reason"]
    assert letter["errors"]
    assert letter["headers"] == [{"name": "who", "value": {"encoding": "utf-8", "content": "me"}}]
    raw = json.dumps(value).encode() if isinstance(value, dict) else value
    assert letter["original_bytes"] == (None if raw is None else len(raw))
    assert original_of(letter) == raw
    assert desk.ledger.jobs(JobState.QUEUED) == []
    assert sorted(p.name for p in desk.logs.iterdir()) == before
    assert desk.give(train(job_id="next")) is Outcome.ACCEPTED


def test_a_refused_job_with_a_good_id_is_told_to_its_sender(desk: Desk) -> None:
    """As a rejected job, which a corrected one may replace."""
    desk.give(train(job_id="a", sed=1))
    assert [(e["job_id"], e["state"]) for e in desk.events()] == [("a", "rejected")]
    assert "did you mean 'seed'" in desk.events()[0]["reason"]
    assert desk.events()[0]["data"]["errors"][0]["field"] == "sed"
    assert desk.give(train(job_id="a", seed=1)) is Outcome.ACCEPTED


def test_an_epoch_has_one_end_however_often_a_job_is_refused(desk: Desk) -> None:
    """The same bytes again are a duplicate; other bytes, wrong or right, begin the next epoch."""
    for value in (train(job_id="a", sed=1), train(job_id="a", sed=1), train(job_id="a", sed=2)):
        assert desk.give(value) is Outcome.REFUSED
    assert desk.give(train(job_id="a", seed=1)) is Outcome.ACCEPTED
    told = [(e["kind"], e["state"], e["epoch"]) for e in desk.events()]
    assert told == [
        ("state", "rejected", 1), ("duplicate", "rejected", 1), ("state", "rejected", 2),
        ("state", "queued", 3),
    ]  # fmt: skip
    assert [e["seq"] for e in desk.events()] == sorted(e["seq"] for e in desk.events())
    assert len(desk.letters()) == 3


def test_an_original_too_large_for_a_letter_is_compressed_or_marked(desk: Desk) -> None:
    """Text fits; what cannot be compressed is cut, with its size and hash beside it."""
    for raw in (b"{" + b"speech " * 220_000, os.urandom(3 * MIB // 2)):
        desk.give(raw)
    text, noise = desk.letters()
    assert original_of(text) == b"{" + b"speech " * 220_000
    assert noise["original_cut"] and noise["original_bytes"] == 3 * MIB // 2


def test_a_secret_is_neither_told_nor_logged(desk: Desk, caplog) -> None:
    """Neither that of a good job nor that of a refused one, whatever its field is called."""
    caplog.set_level("INFO")
    secret = "hunter2hunter2"
    view = {"op": "view", "data_dirname": "city", "mask_dirname": "g22", "checkpoint_path": "t"}
    desk.checkpoint(desk.logs / "t")
    assert desk.give({**view, "job_id": "a", "viewer_token": secret}) is Outcome.ACCEPTED
    for wrong in (
        {"viewer_token": f"{secret} with spaces"}, {"viewer_token": [secret]},
        {"viewer_tokn": 1, "sasl.password": secret}, {"more": {"api_key": secret}},
    ):  # fmt: skip
        assert desk.give({**view, "job_id": "b", **wrong}) is Outcome.REFUSED
    assert secret not in caplog.text and "(not shown)" in caplog.text
    assert secret not in json.dumps(desk.events()) and len(desk.events()) == 5
    for letter in desk.letters():
        assert secret not in json.dumps({**letter, "original": None})
        assert secret.encode() in (original_of(letter) or b"")
    record = desk.ledger.job("a")
    assert record is not None and json.loads(record.spec)["viewer_token"] == secret
    assert secret not in json.dumps(describe(desk.ledger, record, JobFolder(desk.logs / "a")))


def test_what_is_rolled_back_is_not_logged(desk: Desk, caplog) -> None:
    """A disk that is full has the same message taken again and again: one line when it is kept."""
    caplog.set_level("INFO")
    for kept in (False, False, True):
        with contextlib.suppress(LedgerWriteError), desk.ledger.transaction():
            desk.intake.take(desk.message(json.dumps(train(job_id="a")).encode(), 1))
            if not kept:
                raise sqlite3.OperationalError("database or disk is full")
    assert caplog.text.count("job a: queued") == 1


def test_links_out_of_the_roots_are_refused(desk: Desk, tmp_path_factory) -> None:
    """For data, checkpoints and job folders."""
    outside = tmp_path_factory.mktemp("outside")
    desk.checkpoint(outside)
    (outside / "dataset.json").write_text("{}")
    (desk.project / "data/drz/out/link").symlink_to(outside)
    (desk.logs / "link").symlink_to(outside)
    for value in (
        train(data_dirname="link"),
        evaluate(checkpoint_path="link"),
        train(job_id="link"),
    ):
        assert desk.give(value) is Outcome.REFUSED
    reasons = [letter["reason"] for letter in desk.letters()]
    assert ["outside" in r for r in reasons] == [True, True, False]
    assert "choose another job_id" in reasons[2]


def test_a_folder_nobody_knows_is_not_overwritten(desk: Desk) -> None:
    """An id whose folder holds something is taken."""
    (desk.logs / "old").mkdir()
    (desk.logs / "old/notes.txt").write_text("mine")
    assert desk.give(train(job_id="old")) is Outcome.REFUSED
    assert (desk.logs / "old/notes.txt").read_text() == "mine"


def test_checkpoints_that_are_there_are_accepted(desk: Desk) -> None:
    """By name below the log root, with `logs/` in front, or the checkpoint itself."""
    desk.checkpoint(desk.logs / "example")
    step = desk.logs / "example/checkpoints/step5"
    step.mkdir()
    (step / "manifest.json").write_text("{}")
    for value in (
        "example",
        "logs/example",
        str(desk.logs / "example"),
        "example/checkpoints/step5",
    ):
        assert desk.give(evaluate(checkpoint_path=value)) is Outcome.ACCEPTED
    (desk.logs / "empty").mkdir()
    assert desk.give(evaluate(checkpoint_path="empty")) is Outcome.REFUSED
    assert "holds no checkpoint" in desk.letters()[-1]["reason"]


def test_a_checkpoint_may_be_that_of_a_job_to_come(desk: Desk) -> None:
    """Of a job that waits or runs; not of one that failed."""
    desk.give(train(job_id="t"))
    assert desk.give(evaluate(job_id="e", checkpoint_path="logs/t")) is Outcome.ACCEPTED
    record = desk.ledger.job("e")
    assert record is not None and record.waits_for == "t"
    desk.ledger.move("t", JobState.FAILED, reason="no")
    assert desk.give(evaluate(checkpoint_path="t")) is Outcome.REFUSED
    assert "ended as failed" in desk.letters()[-1]["reason"]


def test_a_job_may_come_before_the_job_it_names(desk: Desk) -> None:
    """Partitions keep no order: while more may come, nothing is decided or written."""
    early = desk.message(json.dumps(evaluate(job_id="e", checkpoint_path="t")).encode(), 900)
    assert desk.intake.take(early, may_wait=True) is Outcome.DEFERRED
    assert desk.ledger.jobs() == [] and desk.letters() == []
    desk.give(train(job_id="t"))
    assert desk.intake.take(early, may_wait=True) is Outcome.ACCEPTED
    outside = evaluate(checkpoint_path="../../etc")
    assert desk.give(outside, may_wait=True) is Outcome.REFUSED


def test_a_request_to_retry_what_nobody_knows_is_refused(desk: Desk) -> None:
    """After the job had time to come; no job is made of it. A cancel waits for its job."""
    ask = json.dumps({"op": "retry", "job_id": "ghost"}).encode()
    early = desk.message(ask, 900)
    assert desk.intake.take(early, may_wait=True) is Outcome.DEFERRED
    assert desk.intake.take(early) is Outcome.REFUSED
    (letter,) = desk.letters()
    assert "no mediator knows such a job" in letter["reason"]
    assert letter["errors"][0]["value"] == '"ghost"'
    assert desk.ledger.jobs() == [] and desk.ledger.open_controls() == []
    assert desk.give({"op": "cancel", "job_id": "ghost"}) is Outcome.CONTROL
    assert desk.give({"op": "cancel", "job_id": "other", "x": 1}) is Outcome.REFUSED
    assert desk.ledger.jobs() == [] and len(desk.ledger.open_controls()) == 1


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
names = st.sampled_from(
    ["op", "job_id", "seed", "data_dirname", "mask_dirname", "checkpoint_path", "tto", "bm", "x"]
)
near_jobs = st.builds(
    lambda base, changes: json.dumps({**base, **changes}).encode(),
    st.sampled_from([train(), evaluate(checkpoint_path="t"), train(job_id="a")]),
    st.dictionaries(names, values, max_size=3),
)


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.binary(max_size=60) | near_jobs | values.map(lambda v: json.dumps(v).encode()))
def test_any_message_has_exactly_one_outcome(desk: Desk, raw: bytes) -> None:
    """Nothing crashes; each message is a job, a duplicate, or a dead letter with a reason."""
    jobs, letters = len(desk.ledger.jobs(JobState.QUEUED)), len(desk.letters())
    outcome = desk.give(raw)
    more_jobs = len(desk.ledger.jobs(JobState.QUEUED)) - jobs
    more_letters = len(desk.letters()) - letters
    expected = {
        Outcome.ACCEPTED: (1, 0),
        Outcome.DUPLICATE: (0, 0),
        Outcome.CONFLICT: (0, 1),
        Outcome.REFUSED: (0, 1),
    }
    assert (more_jobs, more_letters) == expected[outcome]
    if more_letters:
        assert desk.letters()[-1]["reason"]
        assert "unforeseen" not in desk.letters()[-1]["reason"]
