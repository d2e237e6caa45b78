"""Twenty thousand messages of every kind: nothing crashes, each has exactly one outcome."""

import json
import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from intake_desk import Desk, evaluate, train
from test_mediator_intake import desk, near_jobs, values

from mediator.intake import Outcome

EXAMPLES, BATCH = 200, 100
COUNTED = Counter[str]()
CONTROLS = st.builds(
    lambda op, job: json.dumps({"op": op, "job_id": job}).encode(),
    st.sampled_from(["cancel", "retry", "cancle"]),
    st.sampled_from(["a", "b", "../x", "A" * 65, None]),
)
SEEDS = st.lists(
    st.binary(max_size=60) | near_jobs | CONTROLS | values.map(lambda v: json.dumps(v).encode()),
    min_size=3,
    max_size=6,
)
PIECES = (b"{", b"}", b"[", b'"', b":", b",", b"\x00", b"\xff", b"NaN", b"1e999", b"\\ud800",
          b'"op"', b'"train"', b"null", "\u202e".encode(), b"../", b"-", b"9" * 30)  # fmt: skip

assert desk  # the fixture


def mutated(raw: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Cut, join, repeat and spoil bytes of messages."""
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(raw) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            raw = raw[:at] + rng.choice(PIECES) + raw[at:]
        elif kind == 1:
            raw = raw[:at] + raw[at + rng.randrange(1, 9) :]
        elif kind == 2:
            raw = raw[:at] + rng.choice(others)[rng.randrange(5) :]
        elif kind == 3 and raw:
            raw = raw[: at - 1] + bytes([rng.randrange(256)]) + raw[at:]
        else:
            raw = raw[:at] + raw[max(0, at - 20) : at] * rng.randrange(3) + raw[at:]
    return raw


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(SEEDS, st.integers(0, 2**32))
def test_every_message_has_one_outcome(desk: Desk, seeds: list[bytes], number: int) -> None:
    """One row for each message, one letter for each refusal, and a reason in every letter."""
    rng = random.Random(number)
    base = [*seeds, json.dumps(train(job_id="a")).encode(), json.dumps(evaluate()).encode()]
    before = Counter(row[0] for row in sources(desk))
    last = max((e.entry_id for e in desk.ledger.unsent(0, 10**6)), default=0)
    with desk.ledger.transaction():
        outcomes = [desk.give(mutated(rng.choice(base), base, rng)) for _ in range(BATCH)]
    after = Counter(row[0] for row in sources(desk)) - before
    assert after.total() == BATCH
    refused = sum(o in (Outcome.REFUSED, Outcome.CONFLICT) for o in outcomes)
    assert after["refused"] + after["conflict"] == refused
    entries = desk.ledger.unsent(last, 10**6)
    letters = [json.loads(e.payload) for e in entries if e.topic == "letters"]
    assert len(letters) == refused
    assert all(x["reason"] and "unforeseen" not in x["reason"] for x in letters)
    desk.ledger.mark_sent([e.entry_id for e in entries])
    COUNTED.update(outcomes)


@pytest.mark.skipif("not COUNTED", reason="the fuzz test did not run")
def test_there_were_enough_of_them() -> None:
    """And of every kind."""
    assert sum(COUNTED.values()) >= EXAMPLES * BATCH
    for kind in (Outcome.ACCEPTED, Outcome.REFUSED, Outcome.DUPLICATE, Outcome.CONTROL):
        assert COUNTED[kind] > 10


def sources(desk: Desk) -> list:
    """Give the outcome of every message."""
    return desk.ledger._rows("SELECT outcome FROM sources")
