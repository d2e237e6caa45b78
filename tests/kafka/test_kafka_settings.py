"""Settings: malformed names are refused by name, secrets stay out of sight, correctness wins."""

import time

import pytest

from kafka_utils.admin import wait_for_broker
from kafka_utils.errors import KafkaSettingsError, KafkaUtilsError
from kafka_utils.producer import Producer
from kafka_utils.reader import TopicReader
from kafka_utils.settings import (
    KafkaSettings,
    check_bootstrap,
    check_topic,
    load_properties,
    topics_for,
)


@pytest.mark.parametrize("address", ["localhost:9092", "a:1,b:65535", "[::1]:9092", "10.0.0.1:1"])
def test_addresses_that_are_fine(address):
    assert check_bootstrap(address) == address


@pytest.mark.parametrize(
    "address",
    ["", "localhost", ":9092", "a:0", "a:65536", "a:x", "a:1,,b:1", "a b:1", "http://a:1"],
)
def test_addresses_that_are_not(address):
    with pytest.raises(KafkaSettingsError, match="host:port"):
        check_bootstrap(address)


@pytest.mark.parametrize("topic", ["", ".", "..", "a b", "a/b", "ä", "x" * 250, "a\nb"])
def test_topics_that_kafka_refuses(topic):
    with pytest.raises(KafkaSettingsError, match="topic"):
        check_topic(topic)


def test_each_jobs_topic_has_topics_of_its_own():
    """Two jobs topics share none, so the same job id in both names two jobs."""
    names = ("mine", "mine.status", "mine.events", "mine.dlq")
    assert tuple(topics_for("mine").values()) == names
    assert KafkaSettings("a:1", jobs_topic="mine").topics == names
    assert KafkaSettings("a:1", **topics_for("mine")).topics == names
    assert KafkaSettings("a:1", jobs_topic="mine", dlq_topic="x").dlq_topic == "x"
    assert KafkaSettings("a:1").topics == (
        "nerfConfigs", "nerfJobs.status", "nerfJobs.events", "nerfConfigs.dlq",
    )  # fmt: skip


def test_a_jobs_topic_leaves_room_for_the_names_made_from_it():
    assert len(topics_for("x" * 242)["status_topic"]) == 249
    with pytest.raises(KafkaSettingsError, match="243 characters; at most 242"):
        topics_for("x" * 243)


def test_a_properties_file_is_read_with_comments_and_equals_signs(tmp_path):
    path = tmp_path / "client.properties"
    path.write_text("# TLS\n! too\n\nsecurity.protocol = SASL_SSL\nsasl.password=a=b#c\n")
    assert load_properties(path) == {"security.protocol": "SASL_SSL", "sasl.password": "a=b#c"}


def test_a_bad_line_is_named_by_number_and_not_shown(tmp_path):
    """The line may be a secret pasted without its key."""
    path = tmp_path / "client.properties"
    path.write_text("a=b\nhunter2\n")
    with pytest.raises(KafkaSettingsError, match="line 2") as caught:
        load_properties(path)
    assert "hunter2" not in str(caught.value)


def test_a_missing_properties_file_is_named(tmp_path):
    with pytest.raises(KafkaSettingsError, match=r"absent\.properties"):
        load_properties(tmp_path / "absent.properties")


def test_secrets_are_not_part_of_the_repr():
    settings = KafkaSettings("a:1", properties={"sasl.password": "hunter2"})
    assert "hunter2" not in repr(settings)
    assert settings.client_config()["sasl.password"] == "hunter2"


def test_properties_change_timings_but_not_delivery():
    """A user may tune a session; auto-offset-store and weak acks are not theirs to set."""
    loose = {
        "session.timeout.ms": "9000",
        "enable.auto.offset.store": "true",
        "acks": "0",
        "enable.idempotence": "false",
        "bootstrap.servers": "elsewhere:1",
    }
    settings = KafkaSettings("a:1", properties=loose)
    consumer, producer = settings.consumer_config("g"), settings.producer_config(30.0)
    assert consumer["session.timeout.ms"] == "9000"
    assert consumer["enable.auto.offset.store"] is False
    assert consumer["bootstrap.servers"] == "a:1"
    assert (producer["acks"], producer["enable.idempotence"]) == ("all", True)


def test_the_embedded_broker_gets_short_sessions_and_no_static_members():
    embedded = KafkaSettings("a:1", embedded=True).consumer_config("g", "member-1")
    external = KafkaSettings("a:1").consumer_config("g", "member-1")
    assert (embedded["session.timeout.ms"], external["session.timeout.ms"]) == (2000, 45000)
    assert "group.instance.id" not in embedded
    assert external["group.instance.id"] == "member-1"


@pytest.mark.parametrize(
    "start",
    [
        lambda settings: wait_for_broker(settings, time.monotonic()),
        Producer,
        lambda settings: TopicReader(settings, "t"),
    ],
)
def test_a_secret_on_the_wrong_line_is_not_shown(start):
    """librdkafka quotes a value that it does not know."""
    settings = KafkaSettings("127.0.0.1:1", properties={"security.protocol": "hunter2"})
    with pytest.raises(
        KafkaUtilsError, match=r"security\.protocol.*check the properties file"
    ) as caught:
        start(settings)
    assert "hunter2" not in str(caught.value)
