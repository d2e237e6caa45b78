"""Owns reading what mediators answer: events and dead letters, through every life of the broker.

An embedded broker that was killed begins anew: with an empty log, under another cluster id, perhaps
at another address. A position kept from before may be valid there and yet lie behind what was
missed. So all is then read from the beginning, the status topic too: there mediators tell again
where the jobs stand whose end was lost with the old log.
"""

import contextlib
import dataclasses
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from kafka_utils.consumer import Message, TopicReader
from kafka_utils.discovery import find_broker
from kafka_utils.errors import KafkaTopicError
from kafka_utils.settings import KafkaSettings

WATCH_EVERY_S = 2.0


class Answers:
    """The events and dead letters that come after this call.

    Attributes:
        cluster_id: the cluster they are read from.
        lives: how many clusters were read from so far.

    Args:
        settings: where the broker is.
        discovery_file: tells where an embedded broker that does not answer any more is now; None
            where the user named the broker.

    Raises:
        KafkaTopicError: the broker did not describe a topic in time.
    """

    def __init__(self, settings: KafkaSettings, discovery_file: Path | None) -> None:
        self._settings = settings
        self._discovery_file = discovery_file
        topics = (settings.events_topic, settings.dlq_topic)
        self._readers = _open(settings, topics, from_end=True)
        cluster_id = self._readers[0].cluster_id()
        if cluster_id is None:
            self.close()
            raise KafkaTopicError(
                f"broker {settings.bootstrap} no longer answers; check that it runs"
            )
        self.cluster_id = cluster_id
        self.lives = 1
        self._next_watch_s = time.monotonic() + WATCH_EVERY_S

    def poll(self, timeout_s: float) -> list[Message]:
        """Return at most one new message of each topic; after a new start also of the status topic.

        Args:
            timeout_s: longest wait, s, >= 0; a lost connection may add a few seconds.
        """
        if time.monotonic() >= self._next_watch_s:
            self._watch()
            self._next_watch_s = time.monotonic() + WATCH_EVERY_S
        first, *others = self._readers
        messages = [first.poll(timeout_s), *(reader.poll(0.0) for reader in others)]
        return [message for message in messages if message is not None]

    def close(self) -> None:
        """Give the connections back."""
        for reader in self._readers:
            reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _watch(self) -> None:
        """Begin again where the broker has."""
        settings, cluster_id = self._look()
        if cluster_id in (None, self.cluster_id):
            return
        topics = (settings.events_topic, settings.dlq_topic, settings.status_topic)
        # one that has gone again meanwhile is looked for at the next watch
        with contextlib.suppress(KafkaTopicError):
            readers = _open(settings, topics, from_end=False)
            self.close()
            self._readers, self._settings, self.cluster_id = readers, settings, cluster_id
            self.lives += 1

    def _look(self) -> tuple[KafkaSettings, str | None]:
        """Return where the broker is and its cluster id, None while it does not answer."""
        if not self._settings.embedded:
            return self._settings, self._readers[0].cluster_id()
        file = self._discovery_file
        found = find_broker(self._settings.bootstrap, file or Path())
        if (found is None or found.cluster_id is None) and file is not None:
            found = find_broker(None, file)
        if found is None:
            return self._settings, None
        moved = dataclasses.replace(
            self._settings, bootstrap=found.bootstrap, embedded=found.embedded
        )
        return moved, found.cluster_id


def _open(settings: KafkaSettings, topics: tuple[str, ...], *, from_end: bool) -> list[TopicReader]:
    with contextlib.ExitStack() as opened:
        readers = [
            opened.enter_context(TopicReader(settings, topic, from_end=from_end))
            for topic in topics
        ]
        opened.pop_all()
    return readers
