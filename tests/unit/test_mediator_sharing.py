"""Several mediators: whose a job is, and who may speak of it, decided by one order for all."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from intake_desk import evaluate, train
from two_ledgers import Pair, tell_again

from mediator.events import EPOCH_STRIDE, Topics
from mediator.intake import Outcome
from mediator.ledger import Ledger
from mediator.peers import SharedMemory
from mediator.records import Control, NewJob, Source
from mediator.retelling import BATCH, MOST_OWED, Retelling
from mediator.states import JobState

TOPICS = Topics("status", "events", "letters", "jobs")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Give two mediators."""
    pair = Pair(tmp_path)
    yield pair
    for desk in pair.desks:
        desk.ledger.close()


def test_of_two_claims_the_first_on_the_topic_holds(pair: Pair) -> None:
    """Two copies of a message on two partitions: both see the same winner."""
    for desk in pair.desks:
        assert desk.give(train(job_id="a")) is Outcome.ACCEPTED
    pair.publish(1)
    pair.publish(0)
    pair.read(0)
    pair.read(1)
    assert pair.owner(0) == pair.owner(1) == 1


def test_a_job_that_is_elsewhere_is_watched_not_run(pair: Pair) -> None:
    """The message of another mediator's job is remembered and keeps its offset open."""
    pair.desks[0].give(train(job_id="a"))
    pair.publish(0)
    pair.read(1)
    pair.desks[1].offset = 10
    assert pair.desks[1].give(train(job_id="a")) is Outcome.DUPLICATE
    ledger = pair.desks[1].ledger
    assert ledger.job("a") is None
    assert [w.job.job_id for w in ledger.watches()] == ["a"]
    assert ledger.open_offsets("cluster", "jobs") == {0: 11}
    (event,) = pair.desks[1].events()
    assert (event["kind"], event["seq"]) == ("duplicate", 0)


def test_another_spec_under_another_mediators_id_is_refused(pair: Pair) -> None:
    """And nothing is said of the job itself."""
    pair.desks[0].give(train(job_id="a"))
    pair.publish(0)
    pair.read(1)
    assert pair.desks[1].give(train(job_id="a", seed=5)) is Outcome.CONFLICT
    assert pair.desks[1].give({**train(job_id="a"), "nonsense": 1}) is Outcome.REFUSED
    assert len(pair.desks[1].letters()) == 2
    assert pair.desks[1].events() == []


def test_taking_over_fences_the_older_owner(pair: Pair) -> None:
    """The next epoch prevails everywhere, and its numbers lie above the old ones."""
    pair.desks[0].give(train(job_id="a"))
    pair.publish(0)
    pair.read(1)
    pair.desks[1].give(train(job_id="a"))
    assert pair.take_over(1)
    pair.publish(1)
    pair.read(0)
    assert pair.owner(0) == 1
    job = pair.desks[1].ledger.job("a")
    assert job is not None and (job.epoch, job.event_seq) == (2, EPOCH_STRIDE + 1)
    old = pair.desks[0].ledger
    old.move("a", JobState.RUNNING)
    old.give_up("a")
    assert old.job("a") is None and old.unsent(0, 9) == []
    assert [w.job.job_id for w in old.watches()] == ["a"]


def test_an_end_that_came_too_late_is_not_told_to_the_next_broker_either(pair: Pair) -> None:
    """Done here and taken over there before it was told: here it is forgotten."""
    pair.desks[0].give(train(job_id="a"))
    pair.publish(0)
    pair.read(1)
    pair.desks[1].give(train(job_id="a"))
    pair.take_over(1)
    pair.publish(1)
    old = pair.desks[0].ledger
    old.move("a", JobState.RUNNING)
    old.move("a", JobState.SUCCEEDED)
    old.give_up("a")
    assert old.unsent(0, 9) == [] and tell_again(old, "new") == 0
    assert [w.job.job_id for w in old.watches()] == ["a"]


def test_a_late_word_of_the_older_owner_changes_nothing(pair: Pair) -> None:
    """What a paused mediator still had in its client is void for every reader."""
    pair.desks[0].give(train(job_id="a"))
    pair.publish(0)
    pair.read(1)
    pair.desks[1].give(train(job_id="a"))
    pair.take_over(1)
    pair.publish(1)
    pair.desks[0].ledger.move("a", JobState.RUNNING)
    pair.desks[0].ledger.move("a", JobState.SUCCEEDED)
    pair.publish(0)
    for number in (0, 1):
        pair.read(number)
        known = pair.memories[number].known("a")
        assert known is not None and known.state is JobState.QUEUED
        assert pair.owner(number) == 1


def test_a_forgetful_broker_is_told_again(pair: Pair) -> None:
    """States and open requests, with the numbers they had."""
    ledger = pair.desks[0].ledger
    pair.desks[0].give(train(job_id="a"))
    ledger.note_control(Control("cancel", "later", "x/jobs/0/7"), "jobs", Source("x", "jobs", 0, 7))
    pair.publish(0)
    pair.log.clear()
    assert tell_again(ledger, "new") == 1 and ledger.cluster() == "new"
    pair.publish(0)
    told = [json.loads(value) for _, value in pair.log]
    kinds = [(t["kind"], t.get("seq")) for t in told]
    assert kinds == [("control", None), ("state", 1), ("message", None)]
    pair.read(1)
    assert pair.owner(1) == 0


def test_all_jobs_are_told_again_in_batches(pair: Pair) -> None:
    """However many: the unfinished first, then the ended; one that dies halfway begins again."""
    ledger, count = pair.desks[0].ledger, MOST_OWED + 3 * BATCH
    with ledger.transaction():
        for number in range(count):
            name = f"j{number}"
            ledger.accept(Source("c", "jobs", 0, number), NewJob(name, "train", "{}", "h"))
            ledger.mark_claimed([(name, 1)])
            if number % 2:
                ledger.move(name, JobState.FAILED, reason="no")
    ledger.mark_sent([entry.entry_id for entry in ledger.unsent(0, 10**6)])
    halfway = Retelling(ledger, "new")
    while ledger.backlog(10**6) < MOST_OWED:
        assert not halfway.step()
    # each of the unfinished with its message
    assert not halfway.step() and halfway.told == MOST_OWED // 2 and ledger.cluster() is None
    ledger.mark_sent([entry.entry_id for entry in ledger.unsent(0, 10**6)])
    retelling = Retelling(ledger, "new")
    told: list[dict] = []
    while not retelling.step():
        entries = ledger.unsent(0, 10**6)
        assert len(entries) < MOST_OWED + 2 * BATCH
        if len(entries) >= MOST_OWED:
            told += [json.loads(entry.payload) for entry in entries]
            ledger.mark_sent([entry.entry_id for entry in entries])
    told += [json.loads(entry.payload) for entry in ledger.unsent(0, 10**6)]
    assert retelling.told == count == len({t["job_id"] for t in told})
    ended = [t["state"] == "failed" for t in told if t["kind"] == "state"]
    assert ended == sorted(ended) and sum(ended) == count // 2
    assert ledger.cluster() == "new"


def test_a_refusal_never_takes_a_job_away(pair: Pair) -> None:
    """A bad message under the id of a good one, at the same time, whichever is told first."""
    for first in (0, 1):
        name = f"both {first}".replace(" ", "-")
        pair.desks[0].give(train(job_id=name))
        pair.desks[1].give(train(job_id=name, sed=1))
        pair.publish(first)
        pair.publish(1 - first)
        for number in (0, 1):
            pair.read(number)
            assert pair.owner(number, name) == 0


def test_a_message_is_left_to_the_mediator_that_has_what_it_builds_on(pair: Pair) -> None:
    """Whole, with its place; a copy is a duplicate, another spec is refused, and it is seen."""
    pair.desks[0].give(train(job_id="t"))
    pair.publish(0)
    pair.read(1)
    desk = pair.desks[1]
    desk.offset = 50
    build = evaluate(job_id="e", checkpoint_path="t")
    assert desk.give(build) is Outcome.ELSEWHERE
    assert desk.give(build) is Outcome.DUPLICATE
    assert desk.give({**build, "seed": 5}) is Outcome.CONFLICT
    assert len(desk.letters()) == 1 and desk.ledger.open_offsets("cluster", "jobs") == {0: 51}
    assert not pair.take_over(1, "e") and not pair.take_over(1, "e")
    pair.publish(1)
    (offer,) = [told.offer for told in pair.read(0) if told.offer is not None]
    sent = desk.message(json.dumps(build).encode(), 51)
    assert (offer.message, offer.job_id) == (sent, "e")
    assert pair.memories[1].read(*pair.log[-1]).offer is None
    for _ in range(2):
        pair.desks[0].intake.take_offer(offer)
    job = pair.desks[0].ledger.job("e")
    assert job is not None and (job.waits_for, job.source.offset, job.epoch) == ("t", 51, 1)
    assert pair.desks[0].letters() == []
    pair.publish(0)
    pair.read(1)
    assert pair.owner(1, "e") == 0


def test_a_job_taken_over_goes_to_the_mediator_that_has_what_it_builds_on(pair: Pair) -> None:
    """Under the next epoch, once, and not when it has gone further meanwhile."""
    build = evaluate(job_id="e", checkpoint_path="t")
    pair.desks[0].give(train(job_id="t"))
    pair.desks[0].give(build)
    pair.publish(0)
    pair.read(1)
    pair.desks[1].offset = 50
    pair.desks[1].give(build)
    ledger = pair.desks[0].ledger
    ledger.give_up("e")
    assert not pair.take_over(1, "e")
    pair.publish(1)
    (offer,) = [told.offer for told in pair.read(0) if told.offer is not None]
    assert offer.epoch == 2
    for _ in range(2):
        pair.desks[0].intake.take_offer(offer)
    job = ledger.job("e")
    assert job is not None and (job.epoch, job.waits_for) == (2, "t")


def test_what_waits_for_a_job_that_was_lost_follows_it(pair: Pair) -> None:
    """It is given up with it, and finds its place anew."""
    desk = pair.desks[0]
    desk.give(train(job_id="t"))
    desk.give(evaluate(job_id="e", checkpoint_path="t"))
    desk.ledger.give_up("t")
    assert desk.ledger.jobs() == []
    assert {watch.job.job_id for watch in desk.ledger.watches()} == {"t", "e"}


def test_records_of_other_topics_and_nonsense_are_left_alone() -> None:
    """The status topic may be shared; whatever lies there does no harm."""
    memory = SharedMemory("me", "jobs")
    nameless = b'{"kind": "state", "jobs_topic": "jobs"}'
    unknown = b'{"kind": "control", "jobs_topic": "jobs", "op": "rm", "job_id": 3}'
    half = b'{"kind": "offer", "jobs_topic": "jobs", "to": "me", "job_id": "a", "message": {}}'
    for value in (None, b"", b"[]", b"{", nameless, unknown, half):
        told = memory.read(b"a", value)
        assert told.job_id is None and told.control is None and told.offer is None


def test_a_tombstone_waits_for_its_job(tmp_path: Path) -> None:
    """Cancelled before it came: it is queued and to be cancelled in one transaction."""
    ledger = Ledger(tmp_path, TOPICS)
    control = Control("cancel", "a", "c/jobs/0/1")
    assert ledger.note_control(control, "jobs", Source("c", "jobs", 0, 1))
    assert not ledger.note_control(control, "jobs", None)
    ledger.close()
    ledger = Ledger(tmp_path, TOPICS)
    ledger.accept(Source("c", "jobs", 0, 2), NewJob("a", "train", "{}", "h"))
    assert ledger.to_cancel() == [] and ledger.open_controls() == []
    ledger.mark_claimed([("a", 1)])
    assert ledger.to_cancel() == ["a"]
    ledger.close()


class Sharers(RuleBasedStateMachine):
    """Two mediators, messages and takeovers in any order: both always agree on the owner."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.pair = Pair(Path(self.folder.name))

    def teardown(self) -> None:
        """Close the ledgers."""
        for desk in self.pair.desks:
            desk.ledger.close()
        self.folder.cleanup()

    @rule(number=st.integers(0, 1))
    def message(self, number: int) -> None:
        """A copy of the message comes to a mediator."""
        self.pair.desks[number].give(train(job_id="a"))

    @rule(number=st.integers(0, 1))
    def publish(self, number: int) -> None:
        """A mediator sends what it owes."""
        self.pair.publish(number)

    @rule(number=st.integers(0, 1))
    def read(self, number: int) -> None:
        """A mediator reads to the end, and gives up what is not its own."""
        self.pair.read(number)
        ledger, owner = self.pair.desks[number].ledger, self.pair.owner(number)
        job, known = ledger.job("a"), self.pair.memories[number].known("a")
        if job is not None and known is not None and known.epoch >= job.epoch and owner != number:
            ledger.give_up("a")

    @rule(number=st.integers(0, 1))
    def take_over(self, number: int) -> None:
        """A mediator holds the other one for dead."""
        watched = self.pair.desks[number].ledger.watches()
        if watched and self.pair.owner(number) not in (None, number):
            self.pair.take_over(number)

    @invariant()
    def readers_agree(self) -> None:
        """Whoever has read everything gives the same answer."""
        if self.pair.taken[0] == self.pair.taken[1] == len(self.pair.log):
            assert self.pair.owner(0) == self.pair.owner(1)


Sharers.TestCase.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
TestSharers = Sharers.TestCase
