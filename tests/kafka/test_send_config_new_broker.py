"""scripts/send_config.py --wait where the embedded broker is killed and begins anew meanwhile."""

import json
import signal
from pathlib import Path

import pytest
from config_sending import SCRIPTS, FakeMediator, finish, start
from kafka_brokers import free_port, until

from kafka_utils.admin import ensure_topics
from kafka_utils.producer import Producer
from kafka_utils.settings import KafkaSettings

TRAIN = {"op": "train", "job_id": "t-1", "outer_steps": 10}
TOPIC = "send-anew"


def settings_of(address: str) -> KafkaSettings:
    settings = KafkaSettings(address, jobs_topic=TOPIC, embedded=True)
    ensure_topics(settings)
    return settings


@pytest.fixture
def lives(broker_process, tmp_path, closing):
    """Start a broker at one port again and again, each time with a mediator at it."""
    port = free_port()
    brokers = []

    def begin() -> FakeMediator:
        for broker in brokers:
            broker.kill()
        brokers.append(broker_process(folder=tmp_path / f"life{len(brokers)}", port=port))
        mediator = FakeMediator(settings_of(brokers[-1].address))
        closing(mediator.consumer)
        return mediator

    return begin


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "job.json"
    path.write_text(json.dumps(TRAIN))
    return path


def test_an_end_behind_the_kept_position_is_heard(lives, config):
    """Given three events in the old log and three in the new one, the new ones' end is found.

    What the new log repeats is not said again.
    """
    first = lives()
    process = start(first.settings, "--configPath", config, "--wait")
    first.take()
    first.event("t-1", "waiting", "queued", "no slot is free")
    first.event("t-1", "state", "running")
    assert process.stdout is not None
    until(lambda: "running" in process.stdout.readline(), 20.0, "the last event")
    process.send_signal(signal.SIGSTOP)  # when it looks again, the position is valid already
    second = lives()
    second.event("other", "state", "running")
    second.event("t-1", "waiting", "queued", "no slot is free")
    second.seq = 3
    second.event("t-1", "state", "succeeded")
    process.send_signal(signal.SIGCONT)
    output = finish(process, 0)
    assert "the broker began anew" in output and "succeeded" in output
    assert "no slot" not in output


def test_an_end_that_only_the_status_topic_tells_again_is_heard(lives, config):
    """The event went with the old log; the mediator tells where its jobs stand."""
    first = lives()
    process = start(first.settings, "--configPath", config, "--wait")
    first.take()
    assert process.stdout is not None
    until(lambda: "queued" in process.stdout.readline(), 20.0, "the last event")
    second = lives()
    told = {"job_id": "t-1", "seq": 4, "kind": "state", "state": "failed", "reason": "bad image",
            "data": {"told_again": True}}  # fmt: skip
    producer = Producer(second.settings)
    producer.send(second.settings.status_topic, "t-1", json.dumps(told).encode())
    assert "failed: bad image" in finish(process, 1)


def test_a_config_that_nobody_had_read_is_named(lives, config):
    """It may be lost with the old log; the sender is told to publish it again."""
    first = lives()
    process = start(first.settings, "--configPath", config, "--wait", "--timeout", "12")
    first.job()
    lives()
    output = finish(process, 4)
    assert "publish it again" in output and "t-1" in output


def test_a_broker_that_came_back_elsewhere_is_found(
    broker_process, closed_port, tmp_path, monkeypatch
):
    """By the discovery file, and read from its beginning."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import answer_topics

    monkeypatch.setattr(answer_topics, "WATCH_EVERY_S", 0.1)
    first = broker_process()
    with answer_topics.Answers(settings_of(first.address), first.state) as answers:
        first.kill()
        until(lambda: answers.poll(0.05) == [], 5.0, "silence")
        second = broker_process()
        assert second.address != first.address and second.state == first.state
        settings = settings_of(second.address)
        Producer(settings).send(settings.events_topic, "t-1", b"told before it was found")
        messages = until(lambda: answers.poll(0.05), 20.0, "the event")
        assert [message.value for message in messages] == [b"told before it was found"]
        assert (answers.lives, answers.cluster_id) == (2, second.cluster_id)
