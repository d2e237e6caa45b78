"""Owns librdkafka's built-in cluster, reached through ctypes in the library confluent-kafka ships.

The functions are marked experimental upstream: the client's version is pinned, a missing function
or a failing call raises BrokerStartError, and the broker then goes its plain way.
"""

import contextlib
import ctypes
import importlib.util
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kafka_utils import wire
from kafka_utils.errors import BrokerStartError

BROKER_ID = 1

# Later versions of these requests make kafka-python 3 and the Java client 4 fail.
_VERSION_CAPS = {
    wire.JOIN_GROUP: 5,
    wire.SYNC_GROUP: 3,
    wire.HEARTBEAT: 3,
    wire.LEAVE_GROUP: 2,
}
# kafka-python joins before it knows the topic's partitions and would get none of them at once.
_FIRST_JOIN_MS = 300
_PROMPT_S = 0.003
_RD_KAFKA_PRODUCER = 0
_CONF_OK = 0
_ERROR_TEXT_BYTES = 512


def library_path() -> Path:
    """Return the librdkafka that the confluent-kafka package carries.

    Raises:
        BrokerStartError: the package has none (a build against a system library).
    """
    spec = importlib.util.find_spec("confluent_kafka")
    if spec is None or spec.origin is None:
        raise BrokerStartError("confluent-kafka is not installed; pip install confluent-kafka")
    package = Path(spec.origin).parent
    folders = (package.parent / "confluent_kafka.libs", package / ".dylibs")
    for folder in folders:
        for path in sorted(folder.glob("librdkafka*")):
            return path
    raise BrokerStartError(f"confluent-kafka at {package} carries no librdkafka; use its wheel")


class MockCluster:
    """A one-broker cluster inside this process, until `close`.

    Attributes:
        port: its real loopback port, a random one.
    """

    def __init__(self) -> None:
        path = library_path()
        try:
            self._library = _declare(ctypes.CDLL(str(path)))
        except (OSError, AttributeError) as error:
            raise BrokerStartError(f"librdkafka at {path} can not be used: {error}") from error
        self._client = self._new_client()
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, 1)
        if not self._cluster:
            self._library.rd_kafka_destroy(self._client)
            raise BrokerStartError("librdkafka could not start its cluster")
        self.port = self._real_port()
        self._caller = ThreadPoolExecutor(1)
        self._tune()

    def _new_client(self) -> int:
        text = ctypes.create_string_buffer(_ERROR_TEXT_BYTES)
        conf = self._library.rd_kafka_conf_new()
        for name, value in (
            ("client.id", "skyline-broker"),
            ("log_level", "3"),
            ("receive.message.max.bytes", str(wire.MAX_FRAME_BYTES)),
        ):
            if self._library.rd_kafka_conf_set(
                conf, name.encode(), value.encode(), text, len(text)
            ) != _CONF_OK:  # fmt: skip
                raise BrokerStartError(f"librdkafka refuses {name}={value}: {text.value.decode()}")
        client = self._library.rd_kafka_new(_RD_KAFKA_PRODUCER, conf, text, len(text))
        if not client:
            raise BrokerStartError(f"librdkafka does not start: {text.value.decode()}")
        return client

    def _tune(self) -> None:
        library, cluster = self._library, self._cluster
        for key, most in _VERSION_CAPS.items():
            if self._order(library.rd_kafka_mock_set_apiversion, cluster, key, 0, most) != 0:
                self.close()
                raise BrokerStartError(f"librdkafka's cluster can not cap request {key} at {most}")
        self._order(library.rd_kafka_mock_set_controller_id, cluster, BROKER_ID)
        self._order(library.rd_kafka_mock_group_initial_rebalance_delay_ms, cluster, _FIRST_JOIN_MS)

    def _order(self, function: Callable[..., int], *arguments: object) -> int:
        """Have the cluster's thread do something and return its answer.

        That thread can miss an order that follows another at once, and would then sleep on for up
        to a second; a connection to it ends its sleep.
        """
        answer = self._caller.submit(function, *arguments)
        while True:
            with contextlib.suppress(TimeoutError):
                return answer.result(_PROMPT_S)
            socket.create_connection(("127.0.0.1", self.port)).close()

    def _real_port(self) -> int:
        bootstraps = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        return int(bootstraps.split(",")[0].rpartition(":")[2])

    def advertise(self, host: str, port: int) -> None:
        """Tell clients to reach the broker at this address instead of the real one."""
        self._library.rd_kafka_mock_broker_set_host_port(
            self._cluster, BROKER_ID, host.encode(), port
        )

    def create_topic(self, name: str, partitions: int) -> int:
        """Create a topic and return Kafka's error code (0 done, 36 exists already)."""
        create = self._library.rd_kafka_mock_topic_create
        return self._order(create, self._cluster, name.encode(), partitions, 1)

    def close(self) -> None:
        """Stop the cluster; all its messages are gone."""
        self._caller.shutdown()
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, text, i16, i32 = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int16, ctypes.c_int32
    number, size = ctypes.c_int, ctypes.c_size_t
    signatures = {
        "rd_kafka_conf_new": (pointer, []),
        "rd_kafka_conf_set": (number, [pointer, text, text, text, size]),
        "rd_kafka_new": (pointer, [number, pointer, text, size]),
        "rd_kafka_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_new": (pointer, [pointer, number]),
        "rd_kafka_mock_cluster_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_bootstraps": (text, [pointer]),
        "rd_kafka_mock_set_apiversion": (number, [pointer, i16, i16, i16]),
        "rd_kafka_mock_set_controller_id": (None, [pointer, i32]),
        "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [pointer, i32]),
        "rd_kafka_mock_broker_set_host_port": (None, [pointer, i32, text, number]),
        "rd_kafka_mock_topic_create": (number, [pointer, text, number, number]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library
