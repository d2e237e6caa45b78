"""Jobs whose message cannot be read from the jobs topic again, and what becomes of their requests.

The owner puts the message on the status topic; whoever outlives it goes on with the job.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from intake_desk import original_of, train
from two_ledgers import LEASE_S, Pair, tell_again

from configs import Roots
from mediator.adoption import Adoption
from mediator.intake import Outcome
from mediator.ledger import Ledger
from mediator.peers import MEDIATOR_KEY, SharedMemory
from mediator.records import Control, JobRecord
from mediator.settling import Settling
from mediator.sharing import Sharing
from mediator.states import JobState


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Give two mediators."""
    pair = Pair(tmp_path)
    yield pair
    for desk in pair.desks:
        desk.ledger.close()


def job_of(ledger: Ledger, job_id: str = "a") -> JobRecord:
    job = ledger.job(job_id)
    assert job is not None
    return job


def end(pair: Pair, state: JobState) -> None:
    """Let the first mediator's job begin and end, and tell the other one."""
    ledger = pair.desks[0].ledger
    ledger.move("a", JobState.RUNNING)
    ledger.move("a", state)
    pair.publish(0)
    pair.read(1)


def queued_anew(pair: Pair) -> None:
    """Let the first mediator's job fail and be queued anew on request."""
    pair.desks[0].give(train(job_id="a"))
    end(pair, JobState.FAILED)
    pair.desks[0].ledger.retry("a")
    pair.publish(0)
    pair.read(1)


def test_a_job_queued_anew_outlives_its_mediator(pair: Pair) -> None:
    """The other one never read its message, which was done with when the job first ended."""
    queued_anew(pair)
    other = pair.desks[1].ledger
    assert [watch.job.job_id for watch in other.watches()] == ["a"]
    assert pair.take_over(1)
    taken, first = job_of(other), job_of(pair.desks[0].ledger)
    assert (taken.epoch, taken.state) == (3, JobState.QUEUED)
    assert (taken.spec, taken.spec_sha256, taken.source) == (
        first.spec, first.spec_sha256, first.source,
    )  # fmt: skip


def test_its_message_goes_from_the_topic_with_its_end(pair: Pair) -> None:
    """A compacted topic keeps the last record of a key, so the last one is empty."""
    queued_anew(pair)
    end(pair, JobState.SUCCEEDED)
    kept = [value for key, value in pair.log if key == b"message/a"]
    assert json.loads(kept[0])["kind"] == "message" and kept[-1] == b"{}" and len(kept) == 2
    pair.taken[1] = 0
    pair.desks[1].ledger.unwatch("a")
    pair.read(1)  # as one that comes later does
    assert pair.desks[1].ledger.watches() == []


def test_an_unfinished_job_outlives_broker_and_mediator(pair: Pair) -> None:
    """The jobs topic lost its message with the broker's log."""
    pair.desks[0].give(train(job_id="a"))
    pair.publish(0)
    pair.log.clear()
    assert tell_again(pair.desks[0].ledger, "new") == 1
    pair.publish(0)
    pair.read(1)
    assert pair.take_over(1)
    assert job_of(pair.desks[1].ledger).epoch == 2


def test_a_request_to_cancel_means_the_job_before_it_was_queued_anew(pair: Pair) -> None:
    """One from before the retry is void after a take-over; one from after it holds."""
    queued_anew(pair)
    other = pair.desks[1].ledger
    other.note_control(Control("cancel", "a", "c/jobs/0/7", epoch=1), "jobs", None)
    assert pair.take_over(1)
    assert job_of(other).cancel_reason is None and other.open_controls("a") == []


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_request_to_cancel_outlives_the_mediator_of_its_job(pair: Pair, epoch: int) -> None:
    """Whether or not whoever read it knew of the job."""
    pair.desks[0].give(train(job_id="a"))
    pair.publish(0)
    pair.read(1)
    pair.desks[1].give(train(job_id="a"))
    other = pair.desks[1].ledger
    other.note_control(Control("cancel", "a", "c/jobs/0/7", epoch=epoch), "jobs", None)
    assert pair.take_over(1)
    assert job_of(other).cancel_reason == "cancelled by c/jobs/0/7"


def test_a_request_is_stamped_with_the_epoch_it_means(pair: Pair) -> None:
    """Also where the job is another mediator's; every mediator is told."""
    pair.desks[1].give({"op": "cancel", "job_id": "a"})
    queued_anew(pair)
    pair.desks[1].give({"op": "cancel", "job_id": "a"})
    epochs = [control.epoch for control in pair.desks[1].ledger.open_controls("a")]
    assert epochs == [0, 2]
    pair.publish(1)
    told = [one.control for one in pair.read(0) if one.control is not None]
    assert [control.epoch for control in told] == epochs
    pair.desks[1].ledger.close_cancels("a", 1)
    assert [control.epoch for control in pair.desks[1].ledger.open_controls("a")] == [2]


def test_of_two_specs_under_one_id_the_loser_gets_its_letter_once(pair: Pair) -> None:
    """Two messages at one moment on two partitions: the second claim is refused when it shows."""
    raws = [json.dumps(train(job_id="a", seed=seed), indent=1).encode() for seed in (1, 2)]
    for number, raw in enumerate(raws):
        assert pair.desks[number].give(raw) is Outcome.ACCEPTED
        pair.publish(number)
    pair.read(1)
    assert pair.owner(1) == 0
    ledger = pair.desks[1].ledger
    source = job_of(ledger).source
    for _ in range(2):
        ledger.note_lost_id("a")
    ledger.give_up("a")
    (letter,) = pair.desks[1].letters()
    assert letter["reason"] == (
        'job_id = "a": is taken by a job with another spec; choose another job_id'
    )
    assert letter["source"]["offset"] == source.offset
    assert original_of(letter) == raws[1]
    assert letter["original_sha256"] == hashlib.sha256(raws[1]).hexdigest()
    assert letter["headers"][0]["name"] == "who"


def test_a_message_is_kept_only_until_the_claim_has_held(pair: Pair) -> None:
    """It stands in the ledger twice else."""
    ledger = pair.desks[0].ledger
    pair.desks[0].give(train(job_id="a"))
    kept = "SELECT COUNT(*) AS n FROM jobs WHERE message IS NOT NULL"
    assert ledger._rows(kept)[0]["n"] == 1
    ledger.mark_claimed([("a", 1)])
    assert ledger._rows(kept)[0]["n"] == 0


def test_a_topic_made_anew_brings_new_messages(pair: Pair) -> None:
    """The same place with another content is another message; the same one is not."""
    desk = pair.desks[0]
    for name, outcome in (("a", Outcome.ACCEPTED), ("a", Outcome.SEEN_BEFORE),
                          ("b", Outcome.ACCEPTED), ("b", Outcome.SEEN_BEFORE)):  # fmt: skip
        desk.offset = 0
        assert desk.give(train(job_id=name)) is outcome


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_refusal_never_moves_another_mediators_good_job(
    pair: Pair, order: tuple[int, int]
) -> None:
    """Not in a later epoch either, in whatever order they come; whoever refused gives the id up."""
    pair.desks[0].give(train(job_id="a"))
    for sed in (1, 2):
        pair.desks[1].give(train(job_id="a", sed=sed))
    assert job_of(pair.desks[1].ledger).epoch == 2
    for number in order:
        pair.publish(number)
    for number in order:
        pair.read(number)
        assert pair.owner(number) == 0
        sharing_of(pair, number)._settle_claims({"a": None})
    assert job_of(pair.desks[0].ledger).state is JobState.QUEUED
    assert pair.desks[1].ledger.job("a") is None
    assert pair.desks[0].letters() == []


def sharing_of(pair: Pair, number: int) -> Sharing:
    """Give what a mediator does about others, without a supervisor."""
    desk = pair.desks[number]
    return Sharing(
        desk.ledger, pair.memories[number], desk.intake, pair.adoptions[number],
        Relinquishing(),  # type: ignore[arg-type]
    )  # fmt: skip


def test_waiting_for_the_others_outlives_a_restart(pair: Pair) -> None:
    """Who dies before the others have told a forgetful broker their jobs waits on afterwards."""
    ledger, other = pair.desks[0].ledger, pair.memories[1].me

    def begun_again() -> tuple[Settling, SharedMemory]:
        memory = SharedMemory(ledger.mediator, "jobs")
        memory.expect(other)
        settling = Settling(ledger, memory)
        settling.begin("new/status")
        return settling, memory

    settling, memory = begun_again()
    for _ in range(2):
        settling, memory = begun_again()
        tell_again(ledger, "new/status")
        settling.look("new/status", "new", LEASE_S)
        assert not settling.settled
    beat = {"kind": "mediator", "mediator": other, "jobs_topic": "jobs", "cluster_id": "new"}
    memory.read(f"{MEDIATOR_KEY}{other}".encode(), json.dumps(beat).encode())
    settling.look("new/status", "new", LEASE_S)
    assert settling.settled
    assert begun_again()[0].settled


class Relinquishing:
    """In place of the supervisor: gives up jobs that do not run."""

    may_start = True

    def relinquish(self, job_id: str) -> None:
        """Nothing runs."""

    def wake(self) -> None:
        """Nothing waits."""


def test_many_orphans_are_adopted_a_few_at_a_time(pair: Pair) -> None:
    """Between them the others are heard, who would else seem silent for as long as it takes."""
    names = [f"j{number}" for number in range(6)]
    for name in names:
        pair.desks[0].give(train(job_id=name))
    pair.publish(0)
    pair.read(1)
    for name in names:
        pair.desks[1].give(train(job_id=name))
    now = [0.0]

    def clock() -> float:
        now[0] += 0.05
        return now[0]

    desk = pair.desks[1]
    roots = Roots.below(desk.project)
    adoption = Adoption(desk.ledger, pair.memories[1], desk.intake.placement, roots, clock)
    pair.memories[1].is_gone = lambda mediator, lease_s: True  # type: ignore[method-assign]
    rounds = 1
    while not adoption.look_after(LEASE_S):
        assert len(desk.ledger.watches()) < len(names)
        rounds += 1
    assert rounds > 1 and desk.ledger.watches() == []
    assert all(desk.ledger.job(name) is not None for name in names)


def test_a_cancel_outlives_two_mediators_in_a_row(pair: Pair) -> None:
    """Whoever took the job over first vanished before it ended it."""
    pair.desks[0].give(train(job_id="a"))
    pair.publish(0)
    for number in (1, 0):
        pair.read(number)
        if number:
            pair.desks[number].give(train(job_id="a"))
        else:
            pair.desks[0].ledger.give_up("a")
        ledger = pair.desks[number].ledger
        ledger.note_control(Control("cancel", "a", f"c/jobs/0/{number}", epoch=1), "jobs", None)
        assert pair.take_over(number)
        pair.publish(number)
        pair.read(number)
    job = job_of(pair.desks[0].ledger)
    assert (job.epoch, job.cancel_reason) == (3, "cancelled by c/jobs/0/0")
