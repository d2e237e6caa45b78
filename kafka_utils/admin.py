"""Owns topics: waiting for a broker, and creating what the service needs."""

import time
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from kafka_utils.client_log import ConnectionLog, describe, describe_refusal
from kafka_utils.errors import BrokerUnreachableError, KafkaTopicError
from kafka_utils.settings import KafkaSettings

JOBS_PARTITIONS = 4
_REQUEST_S = 2.0
_CREATE_S = 10.0
_INTERVAL_S = 0.2


def _client(settings: KafkaSettings) -> tuple[AdminClient, ConnectionLog]:
    log = ConnectionLog("admin", settings.bootstrap)
    # Its type stub knows no callbacks.
    config: dict[str, Any] = {**settings.client_config(), "error_cb": log.on_error}
    try:
        return AdminClient(config), log
    except KafkaException as error:
        raise BrokerUnreachableError(
            f"broker {settings.bootstrap}: the client cannot start: "
            f"{describe_refusal(error.args[0], settings.properties)}; check the properties file"
        ) from error


def wait_for_broker(settings: KafkaSettings, deadline: float) -> str:
    """Return the cluster's id as soon as the broker answers.

    Args:
        settings: where the broker is.
        deadline: reading of `time.monotonic()` after which it is given up; at least one attempt
            is made.

    Raises:
        BrokerUnreachableError: no answer before the deadline.
    """
    client, log = _client(settings)
    while True:
        left_s = deadline - time.monotonic()
        try:
            answer = client.list_topics(timeout=min(_REQUEST_S, max(0.2, left_s)))
        except KafkaException as error:
            reason = log.last_error or describe(error.args[0])
            if time.monotonic() + _INTERVAL_S >= deadline:
                raise BrokerUnreachableError(
                    f"no Kafka broker answers at {settings.bootstrap}: {reason}; start one, or "
                    "name another with --broker"
                ) from error
            client.poll(_INTERVAL_S)
        else:
            return answer.cluster_id or ""


def ensure_topics(settings: KafkaSettings) -> None:
    """Create the service's topics that do not exist yet.

    The status topic is compacted. Where the broker cannot create topics on request but makes them
    when they are first asked for (an embedded broker started the plain way), asking is enough.

    Raises:
        KafkaTopicError: a topic is missing and could not be created; names the reason.
        BrokerUnreachableError: the broker does not answer.
    """
    client, log = _client(settings)
    try:
        existing = set(client.list_topics(timeout=_CREATE_S).topics)
    except KafkaException as error:
        raise BrokerUnreachableError(
            f"no Kafka broker answers at {settings.bootstrap}: "
            f"{log.last_error or describe(error.args[0])}; start one, or name another with --broker"
        ) from error
    missing = [topic for topic in settings.topics if topic not in existing]
    if not missing:
        return
    wait_s = _REQUEST_S if settings.embedded else _CREATE_S
    futures = client.create_topics(
        [_definition(settings, topic) for topic in missing], request_timeout=wait_s
    )
    for topic, future in futures.items():
        reason = _outcome(future)
        if reason is not None and not _exists(client, topic):
            raise KafkaTopicError(
                f"topic {topic} at broker {settings.bootstrap} is missing and could not be "
                f"created: {reason}; create it, or give this user the permission"
            )


def _definition(settings: KafkaSettings, topic: str) -> NewTopic:
    if topic == settings.jobs_topic:
        return NewTopic(topic, num_partitions=JOBS_PARTITIONS, replication_factor=-1)
    if topic == settings.status_topic:
        return NewTopic(
            topic,
            num_partitions=1,
            replication_factor=-1,
            config={"cleanup.policy": "compact"},
        )
    return NewTopic(topic, num_partitions=1, replication_factor=-1)


def _outcome(future: "Future[None]") -> str | None:
    try:
        future.result()
    except KafkaException as error:
        failure = error.args[0]
        if failure.code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return None
        return describe(failure)
    return None


def _exists(client: AdminClient, topic: str) -> bool:
    try:
        described = client.list_topics(topic, timeout=_REQUEST_S)
    except KafkaException:
        return False
    return described.topics[topic].error is None
