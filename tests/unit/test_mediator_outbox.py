"""What is owed is sent until the broker says that it has it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kafka_utils.errors import KafkaDeliveryError, KafkaQueueFullError
from kafka_utils.message import Message
from mediator.deferral import Deferral
from mediator.events import Topics
from mediator.ledger import Ledger
from mediator.outbox import Outbox
from mediator.records import NewJob, Source

Report = Callable[[str | None], None]


class Broker:
    """A broker that answers as its script says: "ok", "lost" (reports an error), "silent"."""

    def __init__(self) -> None:
        self.script: list[str] = []
        self.got: list[str | bytes | None] = []
        self.waiting: list[tuple[str, Report]] = []

    def enqueue(
        self,
        topic: str,
        key: str | bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]] | None = None,
        on_delivery: Report | None = None,
    ) -> None:
        """Take a message."""
        del topic, value, headers
        assert on_delivery is not None
        answer = self.script.pop(0) if self.script else "ok"
        if answer == "full":
            raise KafkaQueueFullError("full")
        if answer == "never":
            raise KafkaDeliveryError("too large")
        if answer == "ok":
            self.got.append(key)
        self.waiting.append((answer, on_delivery))

    def positions(self) -> dict[tuple[str, int], int]:
        """Know of no offsets."""
        return {}

    def poll(self, timeout_s: float = 0.0) -> int:
        """Answer everything that is not silent."""
        del timeout_s
        due = [w for w in self.waiting if w[0] != "silent"]
        self.waiting = [w for w in self.waiting if w[0] == "silent"]
        for answer, report in due:
            report(None if answer == "ok" else "no leader")
        return len(due)


@pytest.fixture
def ledger(tmp_path: Path):
    """Give a ledger that owes four messages: a, a, b, b."""
    ledger = Ledger(tmp_path, Topics("status", "events", "letters"))
    for number, name in enumerate("ab"):
        ledger.accept(Source("c", "t", 0, number), NewJob(name, "train", "{}", "h"))
        ledger.mark_claimed([(name, 1)])
    yield ledger
    ledger.close()


def test_everything_is_sent_in_order_and_once(ledger: Ledger) -> None:
    """After the confirmations nothing is owed."""
    broker = Broker()
    outbox = Outbox(ledger, broker)
    assert outbox.pump(0.0)
    assert outbox.pump(1.0)
    assert broker.got == ["a", "a", "b", "b"]
    assert ledger.unsent(0, 9) == []


def test_what_was_not_confirmed_is_sent_again(ledger: Ledger) -> None:
    """From the oldest unsent on, after a pause."""
    broker = Broker()
    broker.script = ["ok", "lost", "ok", "lost"]
    outbox = Outbox(ledger, broker)
    assert not outbox.pump(0.0)
    assert len(ledger.unsent(0, 9)) == 2
    assert not outbox.pump(0.1)
    assert outbox.pump(5.0)
    assert broker.got == ["a", "b", "a", "b"]


def test_nothing_overtakes_a_message_without_an_answer(ledger: Ledger) -> None:
    """After a failure, sending goes on only when nothing is in flight."""
    broker = Broker()
    broker.script = ["lost", "silent", "ok", "ok"]
    outbox = Outbox(ledger, broker)
    outbox.pump(0.0)
    outbox.pump(5.0)
    assert broker.got == ["b", "b"]
    ((_, report),) = broker.waiting
    broker.waiting = [("lost", report)]
    outbox.pump(6.0)
    assert outbox.pump(8.0)
    assert broker.got == ["b", "b", "a", "a"]


def test_a_broker_that_drops_acknowledgements_gets_it_twice_but_loses_nothing(
    ledger: Ledger, tmp_path: Path
) -> None:
    """Without a confirmation a new connection sends everything again."""
    deaf = Broker()
    deaf.script = ["silent"] * 4
    Outbox(ledger, deaf).pump(0.0)
    broker = Broker()
    assert Outbox(ledger, broker).pump(0.0)
    assert broker.got == ["a", "a", "b", "b"]


def test_a_full_queue_is_tried_again(ledger: Ledger) -> None:
    """The producer's own limit loses nothing."""
    broker = Broker()
    broker.script = ["ok", "full"]
    outbox = Outbox(ledger, broker)
    assert not outbox.pump(0.0)
    assert outbox.pump(0.1)
    assert broker.got == ["a", "a", "b", "b"]


def test_what_can_never_be_sent_does_not_block(ledger: Ledger) -> None:
    """It is given up with a log line."""
    broker = Broker()
    broker.script = ["never"]
    assert Outbox(ledger, broker).pump(0.0)
    assert broker.got == ["a", "b", "b"]


def message(partition: int, offset: int) -> Message:
    """Give a message at a position."""
    return Message("jobs", partition, offset, None, b"", (), None, "c")


def test_no_offset_passes_a_held_message() -> None:
    """A partition's offsets wait for its held message; another partition's do not."""
    deferral = Deferral()
    assert deferral.decided(message(0, 1)) == message(0, 1)
    deferral.hold(message(0, 2), 10.0)
    deferral.hold(message(0, 2), 11.0)
    assert deferral.decided(message(0, 3)) is None
    assert deferral.decided(message(1, 8)) == message(1, 8)
    assert deferral.held() == [(message(0, 2), 10.0)]
    assert deferral.decided(message(0, 2)) == message(0, 3)
    assert len(deferral) == 0
