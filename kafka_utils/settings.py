"""Owns the connection settings and the librdkafka properties made from them.

Precedence, weakest first: our defaults, the user's properties file, what correctness demands
(manual offset store, acknowledgement by all replicas), the address given on the command line.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from kafka_utils.errors import KafkaSettingsError

DEFAULT_PORT = 9092
DEFAULT_BOOTSTRAP = f"localhost:{DEFAULT_PORT}"
DEFAULT_JOBS_TOPIC = "nerfConfigs"
STATUS_TOPIC = "nerfJobs.status"
EVENTS_TOPIC = "nerfJobs.events"
LONGEST_JOBS_TOPIC = 249 - len(".status")
MAX_MESSAGE_BYTES = 16 * 1024 * 1024

_TOPIC_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,249}")
_ADDRESS_PATTERN = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:,\[\]]+):(\d{1,5})")
_MAX_PORT = 65535

_CONNECTION: dict[str, Any] = {
    "reconnect.backoff.ms": 100,
    "reconnect.backoff.max.ms": 2000,
    "socket.connection.setup.timeout.ms": 5000,
    "client.id": "skyline",
    "log.connection.close": False,
    "log_level": 2,
}


def check_topic(name: str) -> str:
    """Return the topic name if Kafka allows it, else raise KafkaSettingsError."""
    if not _TOPIC_PATTERN.fullmatch(name) or name in {".", ".."}:
        raise KafkaSettingsError(
            f"topic {name!r} is not a Kafka topic name; use 1 to 249 of A-Z a-z 0-9 . _ -"
        )
    return name


def check_bootstrap(address: str) -> str:
    """Return `host:port[,host:port...]` if it is well formed, else raise KafkaSettingsError."""
    for part in address.split(","):
        match = _ADDRESS_PATTERN.fullmatch(part.strip())
        if match is None or not 0 < int(match[2]) <= _MAX_PORT:
            raise KafkaSettingsError(
                f"broker address {address!r} is not host:port[,host:port]; "
                f"write for example {DEFAULT_BOOTSTRAP}"
            )
    return address


class Topics(TypedDict):
    """The four topic names as keyword arguments of KafkaSettings."""

    jobs_topic: str
    status_topic: str
    events_topic: str
    dlq_topic: str


def topics_for(jobs_topic: str) -> Topics:
    """Return the topic names that belong to a jobs topic, for `KafkaSettings(..., **topics)`.

    Each jobs topic has topics of its own, so that the same job id in two of them names two jobs.
    `nerfConfigs` has `nerfJobs.status` and `nerfJobs.events`; any other topic T has `T.status` and
    `T.events`. Dead letters of T go to `T.dlq`.

    Raises:
        KafkaSettingsError: the name is not a Kafka topic name, or too long to add to.
    """
    check_topic(jobs_topic)
    if len(jobs_topic) > LONGEST_JOBS_TOPIC:
        raise KafkaSettingsError(
            f"topic {jobs_topic!r} has {len(jobs_topic)} characters; at most {LONGEST_JOBS_TOPIC}, "
            f"since {jobs_topic[:8]}....status must be a topic name too"
        )
    default = jobs_topic == DEFAULT_JOBS_TOPIC
    return Topics(
        jobs_topic=jobs_topic,
        status_topic=STATUS_TOPIC if default else f"{jobs_topic}.status",
        events_topic=EVENTS_TOPIC if default else f"{jobs_topic}.events",
        dlq_topic=f"{jobs_topic}.dlq",
    )


def load_properties(path: Path) -> dict[str, str]:
    """Read a librdkafka `.properties` file (`key=value` lines; `#` and `!` start a comment).

    Args:
        path: the file, for example with `security.protocol`, `sasl.username`, `ssl.ca.location`.

    Returns:
        The properties as strings. Values may be secrets: they are never logged or shown in errors.

    Raises:
        KafkaSettingsError: the file cannot be read or a line is not `key=value`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KafkaSettingsError(f"properties file {path} cannot be read: {error}") from error
    properties: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped[0] in "#!":
            continue
        key, separator, value = stripped.partition("=")
        if not separator or not key.strip():
            raise KafkaSettingsError(f"properties file {path} line {number} is not key=value")
        properties[key.strip()] = value.strip()
    return properties


@dataclass(frozen=True)
class KafkaSettings:
    """Where the broker is, what the topics are called, and how to talk to it.

    Attributes:
        bootstrap: `host:port[,host:port...]`.
        jobs_topic: job specs come in here.
        status_topic: latest state of each job, key = job id (compacted).
        events_topic: every event of each job, key = job id.
        dlq_topic: what was refused. These three, left empty, are what `topics_for` gives.
        properties: librdkafka properties of the user (TLS, SASL); not part of the repr.
        embedded: the broker is this package's own, so group timings may be short.
    """

    bootstrap: str
    jobs_topic: str = DEFAULT_JOBS_TOPIC
    status_topic: str = ""
    events_topic: str = ""
    dlq_topic: str = ""
    properties: Mapping[str, str] = field(default_factory=dict, repr=False)
    embedded: bool = False

    def __post_init__(self) -> None:
        for name, topic in topics_for(self.jobs_topic).items():
            if not getattr(self, name):
                object.__setattr__(self, name, topic)
        check_bootstrap(self.bootstrap)
        for topic in self.topics:
            check_topic(topic)

    @property
    def topics(self) -> tuple[str, ...]:
        """Every topic the service uses, the jobs topic first."""
        return (self.jobs_topic, self.status_topic, self.events_topic, self.dlq_topic)

    def client_config(self) -> dict[str, Any]:
        """Return librdkafka properties common to producers, consumers and admin clients."""
        return {**_CONNECTION, **self.properties, "bootstrap.servers": self.bootstrap}

    def producer_config(self, delivery_timeout_s: float) -> dict[str, Any]:
        """Return librdkafka properties of a producer that confirms or reports every message.

        Args:
            delivery_timeout_s: a message not confirmed after this long is reported failed, s, > 0.
        """
        return {
            "linger.ms": 0,
            "message.max.bytes": MAX_MESSAGE_BYTES,
            "compression.type": "none",
            **self.client_config(),
            "enable.idempotence": True,
            "acks": "all",
            "delivery.timeout.ms": max(1, round(delivery_timeout_s * 1000)),
        }

    def consumer_config(
        self, group_id: str, instance_id: str | None = None, *, plain: bool = False
    ) -> dict[str, Any]:
        """Return librdkafka properties of a group member that stores offsets by hand.

        Args:
            group_id: the consumer group.
            instance_id: stable member id; left out with the embedded broker, which gives a
                returning static member no quick way back.
            plain: the embedded broker was started the plain way: it lets a group's first member
                wait for 3 s and forgets it if its session is shorter.
        """
        embedded_session_ms = 4000 if plain else 2000
        timing: dict[str, Any] = {
            "session.timeout.ms": embedded_session_ms if self.embedded else 45000,
            "heartbeat.interval.ms": 500 if self.embedded else 3000,
            "fetch.wait.max.ms": 5 if self.embedded else 500,
            "partition.assignment.strategy": "cooperative-sticky",
            "auto.offset.reset": "earliest",
            "auto.commit.interval.ms": 1000,
            # A restarted embedded broker has no topics: ask often, and so have this one made.
            "topic.metadata.refresh.interval.ms": 1000 if self.embedded else 30000,
            "allow.auto.create.topics": self.embedded,
        }
        if instance_id is not None and not self.embedded:
            timing["group.instance.id"] = instance_id
        return {
            **timing,
            **self.client_config(),
            "group.id": group_id,
            "enable.auto.offset.store": False,
            "enable.auto.commit": True,
            "enable.partition.eof": False,
        }

    def reader_config(self) -> dict[str, Any]:
        """Return librdkafka properties of a reader that belongs to no group and commits nothing."""
        return {
            "fetch.wait.max.ms": 5 if self.embedded else 100,
            "auto.offset.reset": "earliest",
            **self.client_config(),
            "group.id": "skyline-reader",
            "enable.auto.offset.store": False,
            "enable.auto.commit": False,
        }
