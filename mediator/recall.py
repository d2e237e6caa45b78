"""Owns looking for what a crash left in doubt: entries the broker may or may not have.

Between the broker's confirmation and its note in the ledger lies a moment; whoever dies there does
not know what was published. Each message carries its ledger and entry as a header, so the topic
itself knows: it is read from where the ledger was last sure, and what is found is not sent again.
"""

import logging

from kafka_utils.reader import TopicReader
from kafka_utils.settings import KafkaSettings
from mediator.events import ENTRY_HEADER
from mediator.ledger import Ledger

READ_S = 20.0
_log = logging.getLogger("mediator")


def settle_in_doubt(ledger: Ledger, settings: KafkaSettings, cluster_id: str) -> int:
    """Mark as sent what the broker has already.

    Args:
        ledger: open for writing; nothing of its outbox is in flight.
        settings: a broker that answers, with its topics.
        cluster_id: its cluster.

    Returns:
        The number of entries found.

    Raises:
        KafkaTopicError: a topic cannot be read now.
    """
    found: set[int] = set()
    positions: dict[tuple[str, int], int] = {}
    owed = ledger.unsent_topics()
    for topic in (settings.status_topic, settings.events_topic, settings.dlq_topic):
        starts = ledger.reached(cluster_id, topic)
        # An embedded broker that began anew was never noted, yet a client that outlived its
        # predecessor may have sent there what it had in flight.
        from_end = not starts and not settings.embedded
        with TopicReader(settings, topic, starts=starts, from_end=from_end) as reader:
            if topic in owed and not from_end:
                for message in reader.read_all(READ_S):
                    found |= _own_entries(message.headers, ledger.mediator)
            positions |= {(topic, part): end for part, end in reader.ends.items()}
    ledger.mark_sent(found, cluster_id, positions)
    if found:
        _log.info("%d events were published just before the last end; not sent again", len(found))
    return len(found)


def _own_entries(headers: tuple[tuple[str, bytes | None], ...], mediator: str) -> set[int]:
    entries = set()
    for name, value in headers:
        owner, _, entry = (value or b"").decode("ascii", "replace").partition("/")
        if name == ENTRY_HEADER and owner == mediator and entry.isdigit():
            entries.add(int(entry))
    return entries
