"""Owns looking for what a crash left in doubt: entries the broker may or may not have.

Between the broker's confirmation and its note in the ledger lies a moment; whoever dies there does
not know what was published. Each message carries its ledger and entry as a header, so the topic
itself knows: it is read from where the ledger was last sure, and what is found is not sent again.
What a killed client had sent may still lie in the broker's socket and arrive after the first look,
so it is looked again until a quiet moment has brought nothing more; the moment is the longer, the
slower the broker answers.
"""

import logging
import time
from collections.abc import Mapping

from kafka_utils.reader import TopicReader
from kafka_utils.settings import KafkaSettings
from mediator.events import ENTRY_HEADER
from mediator.ledger import Ledger

READ_S = 20.0
LEAST_QUIET_S = 0.5
QUIET_LOOKS = 2.0  # length of the quiet moment, in times that a look takes
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
    topics = (settings.status_topic, settings.events_topic, settings.dlq_topic)
    starts = {topic: ledger.reached(cluster_id, topic) for topic in topics}
    owed = ledger.unsent_topics()
    began = time.monotonic()
    found, ends = _look(ledger.mediator, settings, owed, starts)
    quiet_s = max(LEAST_QUIET_S, QUIET_LOOKS * (time.monotonic() - began))
    while owed and time.monotonic() < began + READ_S:
        time.sleep(quiet_s)
        more, ends = _look(ledger.mediator, settings, owed, ends)
        if not more:
            break
        found |= more
    positions = {(topic, part): end for topic in topics for part, end in ends[topic].items()}
    ledger.mark_sent(found, cluster_id, positions)
    if found:
        _log.info("%d events were published just before the last end; not sent again", len(found))
    return len(found)


def _look(
    mediator: str, settings: KafkaSettings, owed: set[str], starts: Mapping[str, Mapping[int, int]]
) -> tuple[set[int], dict[str, dict[int, int]]]:
    """Give this mediator's entries beyond these offsets, and the offsets where the topics end."""
    found: set[int] = set()
    ends: dict[str, dict[int, int]] = {}
    for topic, begin in starts.items():
        # An embedded broker that began anew was never noted, yet a client that outlived its
        # predecessor may have sent there what it had in flight.
        from_end = not begin and not settings.embedded
        with TopicReader(settings, topic, starts=begin, from_end=from_end) as reader:
            if topic in owed and not from_end:
                for message in reader.read_all(READ_S):
                    found |= _own_entries(message.headers, mediator)
            ends[topic] = reader.ends
    return found, ends


def _own_entries(headers: tuple[tuple[str, bytes | None], ...], mediator: str) -> set[int]:
    entries = set()
    for name, value in headers:
        owner, _, entry = (value or b"").decode("ascii", "replace").partition("/")
        if name == ENTRY_HEADER and owner == mediator and entry.isdigit():
            entries.add(int(entry))
    return entries
