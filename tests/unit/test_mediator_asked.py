"""Requests about jobs that ended at another mediator: who read one answers for it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from intake_desk import train
from two_ledgers import LEASE_S, Pair

from mediator.intake import Outcome
from mediator.peers import MEDIATOR_KEY, SharedMemory
from mediator.records import Control
from mediator.requests import Requests
from mediator.states import JobState


class Asking:
    """A pair whose first mediator's job has failed, and the second one's requests."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.pair = Pair(folder)
        ledger = self.pair.desks[0].ledger
        self.pair.desks[0].give(train(job_id="a"))
        for state in (JobState.RUNNING, JobState.FAILED):
            ledger.move("a", state)
        self.pair.publish(0)
        self.ledger = self.pair.desks[1].ledger
        self.begin()

    def begin(self) -> None:
        """Let the second mediator begin, and read the topic to its end."""
        self.memory = SharedMemory(self.ledger.mediator, "jobs", lambda: self.now)
        for key, value in self.pair.log:
            self.memory.read(key, value)
        self.pair.memories[1] = self.pair.desks[1].intake._memory = self.memory
        self.requests = Requests(self.ledger, self.memory, Waking(), lambda: self.now)  # type: ignore[arg-type]

    def ask(self, op: str) -> None:
        """Let the second mediator read a request."""
        desk = self.pair.desks[1]
        desk.give({"op": op, "job_id": "a"})
        raw = json.dumps({"op": op, "job_id": "a"}).encode()
        self.requests.apply_message(desk.message(raw, desk.offset))

    def look(self, after_s: float) -> list[dict]:
        """Let time pass; give the answers so far."""
        self.now += after_s
        self.requests.look_after(LEASE_S)
        return [event for event in self.pair.desks[1].events() if event["kind"] == "waiting"]

    def hear(self, *, left: bool = False) -> None:
        """Let the first mediator say a word."""
        other = self.pair.memories[0].me
        beat = {"kind": "mediator", "mediator": other, "jobs_topic": "jobs", "cluster_id": "c",
                "left": left}  # fmt: skip
        self.memory.read(f"{MEDIATOR_KEY}{other}".encode(), json.dumps(beat).encode())


class Waking:
    """In place of the supervisor."""

    def wake(self) -> None:
        """Nothing waits."""


@pytest.fixture
def asking(tmp_path: Path) -> Iterator[Asking]:
    """Give a pair and a request to make."""
    asking = Asking(tmp_path)
    yield asking
    for desk in asking.pair.desks:
        desk.ledger.close()


@pytest.mark.parametrize("op", ["retry", "cancel"])
def test_silence_is_answered_once(asking: Asking, op: str) -> None:
    """After a lease, not before; the request stays with the mediator that has the job."""
    asking.ask(op)
    assert asking.look(LEASE_S / 2) == []
    asking.memory.renew_leases()  # as after a time in which nobody could be heard
    assert asking.look(LEASE_S * 0.9) == []
    (event,) = asking.look(LEASE_S)
    assert event["seq"] == 0 and f"request to {op}: the job ended as failed" in event["reason"]
    assert len(asking.look(LEASE_S)) == 1 and not asking.requests.awaits_word
    asking.pair.publish(1)
    (told,) = [one.control for one in asking.pair.read(0) if one.control is not None]
    assert told.op == op


def test_a_word_of_the_other_is_enough(asking: Asking) -> None:
    """It has read the request, so it answers itself; a word from before says nothing."""
    asking.hear()
    asking.now += 1.0
    asking.ask("retry")
    assert asking.look(1.0) == [] and asking.ledger.open_controls() != []
    asking.hear()
    assert asking.look(1.0) == [] and asking.ledger.open_controls() == []
    assert asking.look(2 * LEASE_S) == []


def test_a_restart_asks_again(asking: Asking) -> None:
    """What was heard before it is not known any more."""
    asking.ask("retry")
    asking.pair.publish(1)
    asking.begin()
    asking.requests.ask_again()
    asking.pair.publish(1)
    again = [one.control for one in asking.pair.read(0) if one.control is not None]
    assert len(again) == 2 and again[0] == again[1]
    asking.requests.apply("a")  # its own word comes back
    assert asking.look(LEASE_S / 2) == []
    assert len(asking.look(LEASE_S)) == 1
    asking.begin()
    asking.requests.ask_again()
    assert len(asking.look(2 * LEASE_S)) == 1
    asking.hear()
    asking.look(1.0)
    assert asking.ledger.open_controls() == []


def test_a_request_that_was_heard_of_is_not_refused_when_it_is_read(asking: Asking) -> None:
    """Whoever gets the partition of a mediator that left reads its old requests again."""
    asking.ledger.note_control(Control("retry", "a", "cluster/jobs/0/1", epoch=1), "jobs", None)
    asking.requests.apply("a")
    asking.hear(left=True)
    assert asking.pair.desks[1].give({"op": "retry", "job_id": "a"}) is Outcome.CONTROL
    assert asking.pair.desks[1].give({"op": "retry", "job_id": "a"}) is Outcome.REFUSED
    assert asking.look(2 * LEASE_S) == []


def test_a_retry_of_a_job_that_goes_on_elsewhere_waits_until_it_is_here(asking: Asking) -> None:
    """Its mediator may have vanished; who takes the job over answers."""
    asking.pair.desks[0].ledger.retry("a")
    asking.pair.publish(0)
    asking.begin()
    asking.ask("retry")
    assert asking.look(2 * LEASE_S) == [] and len(asking.ledger.open_controls()) == 1
    asking.pair.desks[1].give(train(job_id="a"))
    assert asking.pair.adoptions[1]._take(
        asking.ledger.watches()[0], asking.memory.known("a"), None
    )
    answers = [e for e in asking.pair.desks[1].events() if e["kind"] == "control"]
    assert [answer["reason"] for answer in answers] == [
        "request to retry: the job has not ended; nothing is changed"
    ]
    assert asking.ledger.open_controls() == []


def test_what_others_passed_on_is_not_answered_for(asking: Asking) -> None:
    """Who read it does."""
    asking.ledger.note_control(Control("retry", "a", "cluster/jobs/0/9", epoch=1), "jobs", None)
    asking.requests.apply("a")
    assert asking.ledger.open_controls() == [] and asking.look(2 * LEASE_S) == []
