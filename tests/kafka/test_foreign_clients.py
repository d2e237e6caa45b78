"""Clients that are not ours, through the embedded broker: kcat, aiokafka, kafka-python 3.

Each publishes what our consumer gets, and reads in a group of its own what our producer sent.
"""

import asyncio
import subprocess

import pytest
from kafka_brokers import fresh_settings, missing, next_message

from kafka_utils.admin import ensure_topics
from kafka_utils.consumer import JobConsumer
from kafka_utils.producer import Producer

COUNT = 20
GROUP_S = 20


@pytest.fixture
def settings(embedded_settings):
    ensure_topics(embedded_settings)
    return embedded_settings


def check_received(settings, closing, take) -> None:
    """Our consumer got COUNT messages with the key `job` in order."""
    messages = take(closing(JobConsumer(settings, "ours")), COUNT)
    assert [message.value for message in messages] == [f"{n}".encode() for n in range(COUNT)]
    assert {message.key for message in messages} == {b"job"}


def send_all(settings) -> list[bytes]:
    producer = Producer(settings)
    for number in range(COUNT):
        producer.enqueue(settings.jobs_topic, f"k{number}", f"{number}".encode(), [("h", b"1")])
    assert producer.flush(10) == 0
    return [f"{number}".encode() for number in range(COUNT)]


def run(command: list[str], text: str = "") -> str:
    finished = subprocess.run(command, input=text, capture_output=True, text=True, timeout=GROUP_S)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_kcat_publishes_a_file_as_one_message(settings, closing, kcat, tmp_path):
    """`kcat -P FILE`, the way a person publishes a job, arrives byte for byte."""
    job = tmp_path / "train.json"
    job.write_text('{\n  "op": "train"\n}\n')
    run([kcat, "-b", settings.bootstrap, "-P", "-t", settings.jobs_topic, str(job)])
    message = next_message(closing(JobConsumer(settings, "ours")))
    assert message.value == job.read_bytes()
    assert message.key is None


def test_kcat_reads_in_a_group(settings, kcat):
    """kcat as a group member gets every message once."""
    expected = send_all(settings)
    command = [
        kcat, "-b", settings.bootstrap, "-G", "kcat-group", "-q", "-c", str(COUNT),
        "-X", "auto.offset.reset=earliest", settings.jobs_topic,
    ]  # fmt: skip
    assert sorted(run(command).encode().split()) == sorted(expected)


def test_kcat_headers_that_are_not_text_do_no_harm(settings, closing, kcat, take):
    """Given header names that are not UTF-8, the messages still come, without their headers.

    Many of them, since the client's fault showed only after the interpreter had specialised calls.
    """
    publish = [kcat, "-b", settings.bootstrap, "-P", "-t", settings.jobs_topic]
    bad = [*publish, "-H", "fine=0", "-H", b"\xff\xfe=1"]
    subprocess.run(bad, input=b"job\n" * 50, check=True, timeout=GROUP_S)
    subprocess.run([*publish, "-H", "a=1"], input=b"job", check=True, timeout=GROUP_S)
    headers = [message.headers for message in take(closing(JobConsumer(settings, "ours")), 51)]
    assert sorted(headers) == [()] * 50 + [(("a", b"1"),)]


def test_aiokafka_publishes(settings, closing, take):
    """aiokafka, idempotent, is confirmed and received in order."""
    aiokafka = client_module("aiokafka")

    async def publish() -> None:
        producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=settings.bootstrap, enable_idempotence=True
        )
        await producer.start()
        for number in range(COUNT):
            await producer.send_and_wait(settings.jobs_topic, f"{number}".encode(), key=b"job")
        await producer.stop()

    asyncio.run(asyncio.wait_for(publish(), GROUP_S))
    check_received(settings, closing, take)


def test_aiokafka_reads_in_a_group(settings):
    """aiokafka as a group member gets every message once and commits."""
    aiokafka = client_module("aiokafka")
    expected = send_all(settings)

    async def read() -> list[bytes]:
        consumer = aiokafka.AIOKafkaConsumer(
            settings.jobs_topic,
            bootstrap_servers=settings.bootstrap,
            group_id="aiokafka-group",
            auto_offset_reset="earliest",
        )
        await consumer.start()
        values = [(await consumer.getone()).value for _ in range(COUNT)]
        await consumer.commit()
        await consumer.stop()
        return values

    assert sorted(asyncio.run(asyncio.wait_for(read(), GROUP_S))) == sorted(expected)


def test_kafka_python_publishes(settings, closing, take):
    """kafka-python 3 is confirmed and received in order."""
    kafka = client_module("kafka")
    producer = kafka.KafkaProducer(bootstrap_servers=settings.bootstrap)
    for number in range(COUNT):
        producer.send(settings.jobs_topic, f"{number}".encode(), key=b"job").get(timeout=GROUP_S)
    producer.close()
    check_received(settings, closing, take)


def test_kafka_python_publishes_without_confirmation(settings, closing, take):
    """With acks=0 the client gets no answers, which would break its connection, yet all arrive."""
    kafka = client_module("kafka")
    producer = kafka.KafkaProducer(bootstrap_servers=settings.bootstrap, acks=0)
    for number in range(COUNT):
        producer.send(settings.jobs_topic, f"{number}".encode(), key=b"job").get(timeout=GROUP_S)
    assert producer.partitions_for(settings.jobs_topic) == {0, 1, 2, 3}
    producer.close()
    check_received(settings, closing, take)


def test_kafka_python_reads_in_a_group(settings):
    """kafka-python 3 as a group member gets every message once, though it joins at once."""
    kafka = client_module("kafka")
    expected = send_all(settings)
    consumer = kafka.KafkaConsumer(
        settings.jobs_topic,
        bootstrap_servers=settings.bootstrap,
        group_id="kafka-python-group",
        auto_offset_reset="earliest",
        consumer_timeout_ms=GROUP_S * 1000,
    )
    values = [next(consumer).value for _ in range(COUNT)]
    consumer.commit()
    consumer.close()
    assert sorted(values) == sorted(expected)


def test_kafka_python_creates_topics(embedded_address):
    """Creating a topic answers as Kafka does: made, exists already, bad name."""
    kafka = client_module("kafka")
    admin_module = client_module("kafka.admin")
    errors = client_module("kafka.errors")
    settings = fresh_settings(embedded_address)
    admin = kafka.KafkaAdminClient(bootstrap_servers=settings.bootstrap)
    try:
        admin.create_topics([admin_module.NewTopic(settings.jobs_topic, 7, 1)])
        assert settings.jobs_topic in admin.list_topics()
        with pytest.raises(errors.TopicAlreadyExistsError):
            admin.create_topics([admin_module.NewTopic(settings.jobs_topic, 7, 1)])
        with pytest.raises(errors.InvalidTopicError):
            admin.create_topics([admin_module.NewTopic("no spaces", 1, 1)])
    finally:
        admin.close()
    producer = kafka.KafkaProducer(bootstrap_servers=settings.bootstrap)
    assert producer.partitions_for(settings.jobs_topic) == set(range(7))
    producer.close()


def client_module(name: str):
    """Import a client, or treat it as a missing tool."""
    try:
        return __import__(name, fromlist=["_"])
    except ImportError:
        missing(f"{name} is not installed: pip install -e .[dev]")
