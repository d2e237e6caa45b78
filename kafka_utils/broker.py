"""The embedded broker: `python -m kafka_utils.broker [--port 9092] [--state FILE]`.

Owns one process that serves any Kafka client on this machine from memory, for people without a
Kafka of their own. It keeps 5 MiB or 100,000 batches a partition, drops the oldest silently, and
forgets everything when it ends. A message over 2.5 MiB is refused. SIGTERM and SIGINT end it
cleanly and remove the discovery file.
Exit codes: 0 ended by a signal, 1 could not start, 3 another broker already answers at the port.
"""

import argparse
import asyncio
import contextlib
import datetime
import errno
import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

from kafka_utils import wire
from kafka_utils.discovery import DISCOVERY_NAME, LOOPBACK, remove_discovery, write_discovery
from kafka_utils.errors import BrokerStartError, KafkaUtilsError
from kafka_utils.front import Front
from kafka_utils.mock_cluster import MockCluster
from kafka_utils.settings import DEFAULT_PORT

EXIT_FAILED, EXIT_ANOTHER_ANSWERS = 1, 3

_SELF_TEST_S = 5.0
_CAPPED_JOIN_GROUP = 5
_logger = logging.getLogger("kafka_utils.broker")


class _AnotherBrokerError(KafkaUtilsError):
    """A broker already answers at the wanted port."""


class _RunningBroker:
    """A cluster with its front, ready to serve."""

    def __init__(self, front: Front, port: int, cluster_id: str, stop: Callable[[], None]) -> None:
        self.front = front
        self.port = port
        self.cluster_id = cluster_id
        self.stop_cluster = stop

    async def close(self) -> None:
        await self.front.close()
        self.stop_cluster()


async def _listen(front: Front, port: int) -> int:
    try:
        return await front.listen(port)
    except OSError as error:
        if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
            raise BrokerStartError(f"cannot listen on {LOOPBACK}:{port}: {error}") from error
        if await asyncio.to_thread(wire.probe, LOOPBACK, port) is not None:
            raise _AnotherBrokerError(
                f"a broker already answers on {LOOPBACK}:{port}; use it, or choose --port"
            ) from error
        _logger.warning("port %d is taken by another program; using a free one", port)
        return await front.listen(0)


async def _start_full(port: int) -> _RunningBroker:
    cluster = MockCluster()
    front = Front(cluster.port, cluster.create_topic)
    try:
        bound = await _listen(front, port)
        cluster.advertise(LOOPBACK, bound)
        own = await asyncio.to_thread(wire.probe, LOOPBACK, cluster.port)
        if own is None or not own.cluster_id:
            raise BrokerStartError("the cluster does not answer")
        cluster_id = f"{wire.FULL_ID_PREFIX}{uuid.uuid4().hex}{uuid.uuid4().hex}"[
            : len(own.cluster_id)
        ]
        front.replace_cluster_id(own.cluster_id, cluster_id)
        await asyncio.to_thread(_self_test, bound, cluster_id)
    except (KafkaUtilsError, OSError):
        await front.close()
        cluster.close()
        raise
    return _RunningBroker(front, bound, cluster_id, cluster.close)


async def _start_plain(port: int) -> _RunningBroker:
    # Imported here because it takes most of the start time and is needed on this way only.
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    holder = [AdminClient({"test.mock.num.brokers": 1, "log_level": 2})]
    try:
        described = await asyncio.to_thread(holder[0].list_topics, timeout=_SELF_TEST_S)
    except KafkaException as error:
        raise BrokerStartError(f"the cluster does not answer: {error}") from error
    upstream = next(iter(described.brokers.values()))
    front = Front(upstream.port, None)
    bound = await _listen(front, port)
    return _RunningBroker(front, bound, described.cluster_id or wire.PLAIN_ID_PREFIX, holder.clear)


def _self_test(port: int, cluster_id: str) -> None:
    """Check through the front that what foreign clients need is there.

    Raises:
        BrokerStartError: it is not; this librdkafka behaves differently.
    """
    try:
        with wire.WireClient(LOOPBACK, port, _SELF_TEST_S) as client:
            newest, older = client.versions(3), client.versions(2)
            answer = client.cluster()
    except (OSError, wire.MalformedFrameError) as error:
        raise BrokerStartError(f"self-test: {error}") from error
    if newest.error != wire.ERROR_UNSUPPORTED_VERSION or older.error != 0:
        raise BrokerStartError(f"self-test: ApiVersions gave {newest.error} and {older.error}")
    most_join = older.ranges.get(wire.JOIN_GROUP, (0, 0))[1]
    if wire.CREATE_TOPICS not in older.ranges or most_join != _CAPPED_JOIN_GROUP:
        raise BrokerStartError(f"self-test: API versions are {older.ranges}")
    if answer.cluster_id != cluster_id or answer.brokers != ((LOOPBACK, port),):
        raise BrokerStartError(f"self-test: the cluster describes itself as {answer}")


async def _start(port: int, *, plain: bool) -> _RunningBroker:
    if not plain:
        try:
            return await _start_full(port)
        except BrokerStartError as error:
            _logger.warning(
                "%s; starting the plain way: the address given to clients is a random port, and "
                "kafka-python 3 and Java clients are not served",
                error,
            )
    return await _start_plain(port)


async def _serve(port: int, state: Path, *, plain: bool) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    running = await _start(port, plain=plain)
    address = f"{LOOPBACK}:{running.port}"
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    try:
        write_discovery(state, address, running.cluster_id, started)
        _logger.info(
            "embedded Kafka broker at %s (cluster %s, pid %d, discovery file %s); "
            "it keeps messages in memory only",
            address, running.cluster_id, os.getpid(), state,
        )  # fmt: skip
        await ended.wait()
    finally:
        remove_discovery(state)
        await running.close()
    _logger.info("embedded Kafka broker at %s ended", address)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m kafka_utils.broker", description="The embedded Kafka broker."
    )
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="port on 127.0.0.1; 0 for any free one"
    )
    parser.add_argument(
        "--state", type=Path, default=Path("logs") / DISCOVERY_NAME, help="discovery file"
    )
    parser.add_argument(
        "--plain", action="store_true", help="use librdkafka's public interface only"
    )
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.port <= 65535:
        parser.error(f"--port {arguments.port} is not 0 to 65535")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Run the broker until a signal ends it; return the exit code."""
    arguments = _arguments(argv)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(levelname)s %(message)s"
    )
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_serve(arguments.port, arguments.state, plain=arguments.plain))
    except _AnotherBrokerError as error:
        _logger.error("%s", error)
        return EXIT_ANOTHER_ANSWERS
    except (KafkaUtilsError, OSError) as error:
        _logger.error("the embedded broker cannot start: %s", error)
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
