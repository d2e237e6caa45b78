"""Without a broker every call ends in time, with one line that names the address and the mend."""

import time
from collections.abc import Callable

import pytest
from confluent_kafka import KafkaError
from kafka_brokers import free_port

from kafka_utils.admin import ensure_topics, wait_for_broker
from kafka_utils.consumer import JobConsumer, TopicReader
from kafka_utils.errors import (
    BrokerUnreachableError,
    KafkaConsumeError,
    KafkaDeliveryError,
    KafkaTopicError,
)
from kafka_utils.producer import Producer
from kafka_utils.settings import KafkaSettings


@pytest.fixture
def down() -> KafkaSettings:
    return KafkaSettings(f"127.0.0.1:{free_port()}")


def one_line(call: Callable[[], object], kind: type[Exception], within_s: float) -> str:
    start_s = time.monotonic()
    with pytest.raises(kind) as caught:
        call()
    assert time.monotonic() - start_s < within_s
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_send_names_the_broker_and_the_reason(down):
    """A send gives up after its timeout and says that the connection was refused."""
    producer = Producer(down)
    text = one_line(
        lambda: producer.send("jobs", "k", b"x", timeout_s=1.0), KafkaDeliveryError, 2.0
    )
    assert down.bootstrap in text
    assert "Connection refused" in text
    producer.close(0.0)


def test_enqueued_messages_are_reported_failed(down):
    """After the delivery timeout each callback gets a reason, none is forgotten."""
    producer = Producer(down, delivery_timeout_s=0.5)
    answers: list[str | None] = []
    for _ in range(3):
        producer.enqueue("jobs", "k", b"x", on_delivery=answers.append)
    assert producer.flush(5.0) == 0
    assert len(answers) == 3
    assert all(answers)


def test_closing_reports_what_is_still_open(down):
    """A close without time to flush reports open messages failed instead of dropping them."""
    producer = Producer(down)
    answers: list[str | None] = []
    producer.enqueue("jobs", "k", b"x", on_delivery=answers.append)
    producer.close(0.0)
    assert len(answers) == 1
    assert answers[0]


def test_waiting_ends_at_its_deadline(down):
    """wait_for_broker gives up at the deadline with the mend."""
    text = one_line(
        lambda: wait_for_broker(down, time.monotonic() + 1.0), BrokerUnreachableError, 3.0
    )
    assert down.bootstrap in text
    assert "--broker" in text


def test_topics_and_readers_say_that_nothing_answers(down, monkeypatch):
    """ensure_topics and TopicReader end with the address."""
    monkeypatch.setattr("kafka_utils.admin._CREATE_S", 0.5)
    assert down.bootstrap in one_line(lambda: ensure_topics(down), BrokerUnreachableError, 3.0)
    assert down.bootstrap in one_line(
        lambda: TopicReader(down, "events", timeout_s=0.5), KafkaTopicError, 3.0
    )


@pytest.mark.parametrize(
    "code", [KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED]
)
def test_a_refusal_for_want_of_permission_is_named(down, code):
    """Broker, topic, reason and mend; the mediator logs it while it tries again."""
    consumer = JobConsumer(down, "group")
    text = one_line(lambda: consumer._on_message_error(KafkaError(code)), KafkaConsumeError, 1.0)
    assert down.bootstrap in text and down.jobs_topic in text and "permissions" in text
    consumer.close()


def test_a_consumer_polls_on_without_a_broker(down):
    """poll returns None in its time, so that the mediator's loop goes on."""
    with JobConsumer(down, "g") as consumer:
        start_s = time.monotonic()
        for _ in range(10):
            assert consumer.poll(0.05) is None
        assert time.monotonic() - start_s < 2.0
