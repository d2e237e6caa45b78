"""What the transport tests share: an embedded broker as a process, fresh topics, deadlines."""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from kafka_utils import discovery
from kafka_utils.consumer import JobConsumer, Message
from kafka_utils.settings import KafkaSettings, topics_for

START_S = 10.0


def missing(reason: str) -> NoReturn:
    """Fail where CI is set, else skip: a test must not vanish unseen."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    """Return a loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(condition: Callable[[], object], timeout_s: float, what: str) -> object:
    """Return the condition's first true value; fail after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.01)
    return value


class BrokerProcess:
    """An embedded broker run as its users run it, in a folder of its own."""

    def __init__(self, folder: Path, port: int = 0, *options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.state = folder / "broker.json"
        self.log = folder / "broker.log"
        started_s = time.monotonic()
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kafka_utils.broker", "--port", str(port),
                 "--state", str(self.state), *options],
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        until(self._is_ready, START_S, f"broker start ({self.log})")
        self.start_s = time.monotonic() - started_s
        record = discovery.read_discovery(self.state)
        assert record is not None
        self.address = str(record["address"])
        self.port = int(self.address.rpartition(":")[2])
        self.cluster_id = str(record["cluster_id"])

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        record = discovery.read_discovery(self.state)
        return record is not None and record["pid"] == self.process.pid

    def stop(self) -> int:
        """End it as the system does and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(5)

    def kill(self) -> None:
        """End it without notice."""
        self.process.kill()
        self.process.wait(5)


def fresh_settings(address: str, **properties: str) -> KafkaSettings:
    """Return settings with topics that no other test uses, and some librdkafka properties."""
    mark = uuid.uuid4().hex[:10]
    topics = topics_for(f"jobs-{mark}")
    found = discovery.find_broker(address, Path("unused"))
    assert found is not None
    named = {name.replace("_", "."): value for name, value in properties.items()}
    return KafkaSettings(found.bootstrap, embedded=found.embedded, properties=named, **topics)


def next_message(consumer: JobConsumer, timeout_s: float = 15.0) -> Message:
    """Return the consumer's next message; fail if none comes."""
    message = until(lambda: consumer.poll(0.05), timeout_s, "a message")
    assert isinstance(message, Message)
    return message
