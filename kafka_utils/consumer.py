"""Owns the group member that takes jobs and stores offsets by hand.

A job's offset is stored only when its ledger row is durable, so a crash before that gives the
message again. `TopicReader`, which belongs to no group, is found here too.
"""

import contextlib
import logging
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as RawMessage

from kafka_utils import wire
from kafka_utils.client_log import describe
from kafka_utils.discovery import first_address
from kafka_utils.errors import KafkaConsumeError
from kafka_utils.message import ConsumerClient, Message, message_of
from kafka_utils.reader import TopicReader
from kafka_utils.settings import KafkaSettings

__all__ = ["JobConsumer", "Message", "TopicReader"]

_REFUSALS = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.TOPIC_EXCEPTION,
}
_logger = logging.getLogger("kafka_utils")


class JobConsumer:
    """A member of the group that takes jobs from the jobs topic.

    Args:
        settings: where the broker is and which topic holds the jobs.
        group_id: the consumer group.
        instance_id: stable id of this member; a quick restart then keeps its partitions
            (external brokers only).
    """

    def __init__(
        self, settings: KafkaSettings, group_id: str, instance_id: str | None = None
    ) -> None:
        self._settings = settings
        self._group_id = group_id
        self._instance_id = instance_id
        self._pending: RawMessage | None = None
        self._client = self._subscribe()

    def _subscribe(self) -> ConsumerClient:
        config = self._settings.consumer_config(
            self._group_id, self._instance_id, plain=self._is_plain()
        )
        client = ConsumerClient("consumer", self._settings.bootstrap, config)

        def on_assign(_: Consumer, partitions: list[TopicPartition]) -> None:
            # A restarted broker knows no members, so every change of cluster ends here.
            client.log.stale = True
            _logger.info("Kafka partitions assigned: %s", _numbers(partitions))

        client.raw.subscribe(
            [self._settings.jobs_topic], on_assign=on_assign, on_revoke=_log_revoked
        )
        return client

    def _is_plain(self) -> bool:
        if not self._settings.embedded:
            return False
        answer = wire.probe(*first_address(self._settings.bootstrap))
        return answer is not None and answer.plain

    def poll(self, timeout_s: float) -> Message | None:
        """Return the next message, or None after `timeout_s`; call it always, even when busy.

        Args:
            timeout_s: longest wait, s, >= 0; a lost connection may add up to 2 s once.

        Raises:
            KafkaConsumeError: the broker refuses this client (permission, authentication).
        """
        if self._client.log.fatal:
            self._rebuild()
        raw = self._pending or self._client.raw.poll(timeout_s)
        self._pending = None
        if raw is None:
            return None
        if (error := raw.error()) is not None:
            self._on_message_error(error)
            return None
        cluster_id = self._client.cluster_id()
        if cluster_id is None:
            # Held back, not dropped: without the cluster's id its position would be ambiguous.
            self._pending = raw
            return None
        self._client.log.on_contact()
        return message_of(raw, cluster_id)

    def store(self, message: Message) -> bool:
        """Mark a message done, so that the next commit covers it.

        Args:
            message: from `poll`, its effects durable.

        Returns:
            False when the partition was taken away meanwhile, or the broker is another one now:
            the message will come again.
        """
        return self.store_offset(
            message.cluster_id, message.topic, message.partition, message.offset + 1
        )

    def store_offset(self, cluster_id: str, topic: str, partition: int, offset: int) -> bool:
        """Mark everything before an offset done, so that the next commit covers it.

        Returns:
            False when the partition was taken away meanwhile, or the broker is another one now.
        """
        if cluster_id != self._client.cluster_id():
            return False
        position = TopicPartition(topic, partition, offset)
        try:
            self._client.raw.store_offsets(offsets=[position])
        except KafkaException as error:
            # _STATE and _UNKNOWN_PARTITION: revoked since the poll; its next owner reads it again.
            if error.args[0].code() in {KafkaError._STATE, KafkaError._UNKNOWN_PARTITION}:
                return False
            raise KafkaConsumeError(f"offset not stored: {describe(error.args[0])}") from error
        return True

    def assigned_partitions(self) -> tuple[int, ...]:
        """Return the partitions of the jobs topic this member holds now."""
        return tuple(sorted(part.partition for part in self._client.raw.assignment()))

    def close(self) -> None:
        """Commit the stored offsets and leave the group."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _on_message_error(self, error: KafkaError) -> None:
        if error.code() in _REFUSALS:
            raise KafkaConsumeError(
                f"broker {self._settings.bootstrap} refuses topic {self._settings.jobs_topic}: "
                f"{describe(error)}; check the properties file and the topic's permissions"
            )
        self._client.log.on_error(error)

    def _rebuild(self) -> None:
        _logger.warning("Kafka consumer replaced: %s", self._client.log.last_error)
        self._pending = None
        with contextlib.suppress(KafkaException, RuntimeError):
            self._client.close()
        self._client = self._subscribe()


def _numbers(partitions: list[TopicPartition]) -> list[int]:
    return sorted(part.partition for part in partitions)


def _log_revoked(_: Consumer, partitions: list[TopicPartition]) -> None:
    _logger.info("Kafka partitions revoked: %s", _numbers(partitions))
