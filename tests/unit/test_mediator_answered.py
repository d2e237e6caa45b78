"""Refused messages behind an unfinished job are not answered again by who gets the partition."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from intake_desk import train
from two_ledgers import Pair

from kafka_utils.message import Message
from mediator.answered import Answered
from mediator.intake import Outcome
from mediator.peers import MEDIATOR_KEY

LINE = SimpleNamespace(cluster_id="cluster", settings=SimpleNamespace(jobs_topic="jobs"))
BAD = train(job_id="bad", sed=1)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Give two mediators."""
    pair = Pair(tmp_path)
    yield pair
    for desk in pair.desks:
        desk.ledger.close()


def furthest(pair: Pair) -> dict[int, Message]:
    """Give the first mediator's last message."""
    desk = pair.desks[0]
    return {0: desk.message(b"", desk.offset)}


def hear(pair: Pair, answered: object, cluster_id: str = "cluster") -> None:
    """Let the second mediator hear how far the first one is."""
    sender = pair.memories[0].me
    beat = {"kind": "mediator", "mediator": sender, "jobs_topic": "jobs",
            "cluster_id": cluster_id, "answered": answered}  # fmt: skip
    pair.memories[1].read(f"{MEDIATOR_KEY}{sender}".encode(), json.dumps(beat).encode())


def test_what_another_one_refused_gets_no_second_letter(pair: Pair) -> None:
    """Only below its mark, and it stays known when it comes again."""
    hear(pair, {"0": [2, 5]})
    desk = pair.desks[1]
    assert desk.give(BAD) is Outcome.ANSWERED
    desk.offset = 0
    assert desk.give(BAD) is Outcome.SEEN_BEFORE and desk.letters() == []
    assert desk.give(BAD) is Outcome.REFUSED and len(desk.letters()) == 1


def test_nor_does_another_spec_under_a_taken_id(pair: Pair) -> None:
    """The job's owner has gone, the job is here now."""
    desk = pair.desks[1]
    desk.give(train(job_id="a"))
    hear(pair, {"0": [3, 5]})
    assert desk.give(train(job_id="a", seed=7)) is Outcome.ANSWERED
    assert desk.give(train(job_id="a", seed=7)) is Outcome.CONFLICT


def test_that_the_message_of_an_unfinished_job_cannot_be_taken_here_is_told(pair: Pair) -> None:
    """It was accepted there; without this word it would be lost with its mediator."""
    pair.desks[0].give(train(job_id="a"))
    pair.publish(0)
    pair.read(1)
    hear(pair, {"0": [2, 5]})
    pair.desks[1].offset = 0
    assert pair.desks[1].give(train(job_id="a", seed=7)) is Outcome.CONFLICT
    assert len(pair.desks[1].letters()) == 1


@pytest.mark.parametrize(
    ("answered", "cluster_id"),
    [({"0": [2, 5]}, "other"), ({"1": [2, 5]}, "cluster"), ({"0": [2, -1]}, "cluster"),
     ({"0": "x"}, "cluster"), ([1], "cluster"), (None, "cluster")],
)  # fmt: skip
def test_other_messages_are_answered(pair: Pair, answered: object, cluster_id: str) -> None:
    """Of another broker or partition, of a topic made anew since, or where the word is no mark."""
    hear(pair, answered, cluster_id)
    assert pair.desks[1].give(BAD) is Outcome.REFUSED


def test_a_mark_stands_behind_what_is_told_and_decided_only(pair: Pair) -> None:
    """Not while a letter is owed, not beyond a claim that may be lost."""
    desk, before_ms = pair.desks[0], int(time.time() * 1000)
    answered = Answered(desk.ledger)

    def marks() -> dict[str, list[int]]:
        return answered.record(LINE, furthest(pair))  # type: ignore[arg-type]

    desk.give(BAD)
    assert marks() == {}
    pair.publish(0)
    (mark,) = marks().values()
    assert mark[0] == 2 and mark[1] >= before_ms
    desk.give(train(job_id="a"))
    desk.give(BAD)
    pair.publish(0)
    assert marks() == {"0": mark}
    desk.ledger.mark_claimed([("a", 1)])
    pair.publish(0)
    assert marks()["0"][0] == 4
    elsewhere = SimpleNamespace(**{**vars(LINE), "cluster_id": "new"})
    assert answered.record(elsewhere, furthest(pair)) == {}  # type: ignore[arg-type]
