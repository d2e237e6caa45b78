"""Owns the mediator's connection to the broker: finding, awaiting, watching and rebuilding it.

Without a broker the mediator still runs the jobs it has: `tick` tries again and says why it waits.
An embedded broker forgets everything when it ends: one that began anew gets new clients and its
topics, and one that has gone is started again if the user named no broker.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kafka_utils.admin import ensure_topics, wait_for_broker
from kafka_utils.consumer import JobConsumer
from kafka_utils.discovery import BrokerAddress, ensure_broker, find_broker
from kafka_utils.errors import BrokerUnreachableError, KafkaSettingsError, KafkaUtilsError
from kafka_utils.producer import Producer
from kafka_utils.reader import TopicReader
from kafka_utils.settings import KafkaSettings, topics_for
from mediator.ledger import Ledger
from mediator.outbox import Outbox
from mediator.recall import settle_in_doubt

ATTEMPT_S = 1.0
COMPLAIN_EVERY_S = 5.0
WATCH_EVERY_S = 2.0
_log = logging.getLogger("mediator")


@dataclass(frozen=True)
class BrokerWish:
    """Which broker to use and how.

    Attributes:
        address: `host:port` given by the user, or None to find or start one.
        jobs_topic: where jobs come from.
        group_id: the consumer group.
        discovery_file: where an embedded broker announces itself.
        properties: librdkafka properties of the user.
        wait_s: give up after this long without a broker, s; None waits for ever.
    """

    address: str | None
    jobs_topic: str
    group_id: str
    discovery_file: Path
    properties: Mapping[str, str] = field(default_factory=dict, repr=False)
    wait_s: float | None = None


@dataclass(frozen=True)
class Line:
    """A working connection.

    Attributes:
        settings: where the broker is.
        cluster_id: which cluster it is.
        consumer: takes messages.
        producer: sends.
        outbox: sends what the ledger owes.
        status: reads the status topic from its beginning.
    """

    settings: KafkaSettings
    cluster_id: str
    consumer: JobConsumer
    producer: Producer
    outbox: Outbox
    status: TopicReader


class BrokerLink:
    """Keeps a connection as far as there is a broker.

    Args:
        wish: which broker.
        ledger: what the outbox sends from.
        clock: monotonic seconds.
    """

    def __init__(
        self, wish: BrokerWish, ledger: Ledger, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._wish = wish
        self._ledger = ledger
        self._clock = clock
        self._line: Line | None = None
        self._embedded = False
        self._cluster_id: str | None = None
        self._unanswered = 0
        self._down_since = clock()
        self._next_try = 0.0
        self._next_complaint = 0.0
        self._next_watch = 0.0

    def line(self) -> Line | None:
        """Give the connection, trying for about a second to make it if there is none.

        Raises:
            BrokerUnreachableError: none for longer than the wish allows.
            KafkaSettingsError: the wish is malformed.
        """
        now = self._clock()
        if self._line is not None and self._embedded and now >= self._next_watch:
            self._watch(now, self._line.settings.bootstrap)
        if self._line is None and now >= self._next_try:
            self._try(now)
        return self._line

    @property
    def line_in_use(self) -> Line | None:
        """The connection as it is, without trying to make one."""
        return self._line

    def drop(self, reason: str) -> None:
        """Take the connection down after an error; `line` makes a new one."""
        self._complain(reason)
        self._take_down()

    def _take_down(self) -> None:
        self.close()
        self._down_since = self._clock()
        self._next_try = self._clock() + ATTEMPT_S

    def close(self) -> None:
        """Commit the stored offsets, leave the group and forget the connection."""
        line, self._line = self._line, None
        if line is not None:
            line.consumer.close()
            line.producer.close(timeout_s=0.0)
            line.status.close()

    def _try(self, now: float) -> None:
        try:
            self._line = self._connect()
        except KafkaSettingsError:
            raise
        except KafkaUtilsError as error:
            self._complain(str(error))
            self._next_try = self._clock() + ATTEMPT_S
            limit_s = self._wish.wait_s
            if limit_s is not None and now - self._down_since >= limit_s:
                raise BrokerUnreachableError(f"{error} (waited {limit_s:g} s)") from None

    def _connect(self) -> Line:
        address = ensure_broker(self._wish.address, self._wish.discovery_file)
        settings = KafkaSettings(
            address.bootstrap,
            **topics_for(self._wish.jobs_topic),
            properties=self._wish.properties,
            embedded=address.embedded,
        )
        cluster_id = wait_for_broker(settings, time.monotonic() + ATTEMPT_S)
        if address.cluster_id is None:
            # it came up only now: ask again what kind of broker it is
            address = find_broker(address.bootstrap, self._wish.discovery_file) or address
            settings = dataclasses.replace(settings, embedded=address.embedded)
        ensure_topics(settings)
        settle_in_doubt(self._ledger, settings, cluster_id)
        status = TopicReader(settings, settings.status_topic)
        producer = Producer(settings)

        def settle() -> None:
            settle_in_doubt(self._ledger, settings, cluster_id)

        line = Line(
            settings,
            cluster_id,
            JobConsumer(settings, self._group_for(settings, cluster_id)),
            producer,
            Outbox(self._ledger, producer, cluster_id, settle),
            status,
        )
        self._embedded = address.embedded
        self._cluster_id = cluster_id
        self._unanswered = 0
        self._next_watch = self._clock() + WATCH_EVERY_S
        self._announce(address)
        return line

    def _group_for(self, settings: KafkaSettings, cluster_id: str) -> str:
        # An embedded broker that began anew counts offsets from 0, and a client that outlives it
        # commits its old offsets there: in a group of the old cluster's name they skip nothing.
        return f"{self._wish.group_id}-{cluster_id}" if settings.embedded else self._wish.group_id

    def _announce(self, address: BrokerAddress) -> None:
        kind = "embedded broker" if address.embedded else "broker"
        how = {
            "explicit": "as told",
            "localhost": "found on localhost",
            "discovery": f"found by {self._wish.discovery_file}",
            "started": "started here; any Kafka client on this machine can use it",
        }[address.source]
        _log.info("Kafka %s at %s (%s)", kind, address.bootstrap, how)
        _log.info("listening on topic %s (group %s)", self._wish.jobs_topic, self._wish.group_id)

    def _watch(self, now: float, bootstrap: str) -> None:
        """Notice an embedded broker that ended or began anew, without its topics."""
        self._next_watch = now + WATCH_EVERY_S
        found = find_broker(bootstrap, self._wish.discovery_file)
        gone = found is None or found.cluster_id is None
        self._unanswered = self._unanswered + 1 if gone else 0
        if self._unanswered >= 2 and self._wish.address is None:
            _log.warning("the embedded broker has gone; it is started again")
            self._take_down()
        elif found is not None and found.cluster_id not in (None, self._cluster_id):
            _log.warning("the embedded broker began anew; connecting again")
            self._take_down()

    def _complain(self, reason: str) -> None:
        if self._clock() >= self._next_complaint:
            _log.warning("waiting for the broker: %s", reason)
            self._next_complaint = self._clock() + COMPLAIN_EVERY_S
