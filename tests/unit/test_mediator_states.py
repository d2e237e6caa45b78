"""The state table, alone and as the ledger keeps it."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mediator.errors import TransitionError
from mediator.events import EPOCH_STRIDE, DeadLetter, Topics
from mediator.ledger import Ledger
from mediator.records import NewJob, Source
from mediator.states import ENDED, TRANSITIONS, JobState, check_transition

STATES = st.sampled_from(list(JobState))


def test_every_state_has_its_row() -> None:
    """No state is forgotten in the table."""
    assert set(TRANSITIONS) == set(JobState)


@given(STATES, STATES)
def test_only_listed_changes_are_allowed(old: JobState, new: JobState) -> None:
    """A change is refused by name unless the table lists it."""
    if new in TRANSITIONS[old]:
        check_transition("j", old, new)
    else:
        with pytest.raises(TransitionError, match=f"job j: {old} -> {new}"):
            check_transition("j", old, new)


def test_an_end_is_an_end() -> None:
    """Success is final; the other ends can only be left by beginning anew."""
    assert TRANSITIONS[JobState.SUCCEEDED] == frozenset()
    for state in ENDED - {JobState.SUCCEEDED}:
        assert TRANSITIONS[state] == {JobState.RECEIVED}


def test_every_state_can_reach_an_end() -> None:
    """No job can be stuck by the table."""
    for start in JobState:
        reached = {start}
        while more := {new for old in reached for new in TRANSITIONS[old]} - reached:
            reached |= more
        assert reached & ENDED


class JobLife(RuleBasedStateMachine):
    """Random asks for changes: the ledger allows what the table allows and tells of each."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.ledger = Ledger(Path(self.folder.name), Topics("s", "e", "d"))
        self.ledger.accept(Source("c", "t", 0, 0), NewJob("j", "train", "{}", "h"))
        self.told = [JobState.QUEUED]
        self.epoch = 1

    def teardown(self) -> None:
        """Remove the ledger."""
        self.ledger.close()
        self.folder.cleanup()

    @rule(state=STATES)
    def ask(self, state: JobState) -> None:
        """Ask for any change."""
        if state is JobState.RECEIVED:
            return  # only a new message or a request to retry begins a job
        if state in TRANSITIONS[self.told[-1]]:
            self.ledger.move("j", state, reason="because")
            self.told.append(state)
        else:
            with pytest.raises(TransitionError):
                self.ledger.move("j", state)

    @rule()
    def retry(self) -> None:
        """Ask to run it anew: only a job that ended without success begins another epoch."""
        if self.told[-1] in ENDED - {JobState.SUCCEEDED}:
            self.ledger.retry("j")
            self.told.append(JobState.QUEUED)
            self.epoch += 1
        else:
            with pytest.raises(TransitionError):
                self.ledger.retry("j")

    @rule()
    def refuse_something_else(self) -> None:
        """A refused message under the same id disturbs nothing."""
        before = self.ledger.state_of("j")
        source = Source("c", "t", 1, self.ledger.unsent(0, 10**6)[-1].entry_id)
        letter = DeadLetter(source, "no", [], b"x", None, [], "j")
        self.ledger.note_conflict(source, letter, "j")
        assert self.ledger.state_of("j") == before

    @invariant()
    def told_exactly_what_happened(self) -> None:
        """Events count without gaps; at most one tells an end; the last is the ledger's state."""
        self.ledger.mark_claimed([("j", self.epoch)])
        entries = [e for e in self.ledger.unsent(0, 10**6) if e.topic == "e"]
        events = [json.loads(e.payload) for e in entries]
        for epoch in range(1, self.epoch + 1):
            numbers = [e["seq"] for e in events if e["epoch"] == epoch]
            first = (epoch - 1) * EPOCH_STRIDE + 1
            assert numbers == list(range(first, first + len(numbers)))
            states = [e["state"] for e in events if (e["kind"], e["epoch"]) == ("state", epoch)]
            assert sum(state in ENDED for state in states) <= 1
        assert [e["state"] for e in events if e["kind"] == "state"] == self.told
        assert [row["state"] for row in self.ledger.history("j")] == self.told
        assert self.ledger.state_of("j") == self.told[-1]


JobLife.TestCase.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
TestJobLife = JobLife.TestCase
