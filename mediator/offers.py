"""Owns the form in which one mediator leaves a message to others, on the status topic.

A message left to one mediator has the key `offer/<source of the message>`, so each has one of its
own. It travels whole, with its place in the jobs topic, and is answered by whoever takes it as if
it had been read there. The message of an unfinished job that cannot be read from the jobs topic
again (`message/<job id>`) is left to all: whoever outlives the job's mediator goes on with it.
"""

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from configs import Job, canonical_json
from configs.parse import spec_hash
from kafka_utils.message import Message
from mediator.records import NewJob, Source
from mediator.text import utc_now

MESSAGE_LIMIT_BYTES = 600 * 1024  # as base64 it must fit a Kafka message of the default size
AS_READ = 0
TO_ALL = ""


@dataclass(frozen=True)
class Offer:
    """A message left to a mediator.

    Attributes:
        to: that mediator; `TO_ALL` where the job has an owner and this is in case it goes.
        job_id: the job it brings.
        epoch: the epoch under which it takes the job; `AS_READ` when nobody had the job before.
        attempt: attempts at the job so far.
        message: the message.
    """

    to: str
    job_id: str
    epoch: int
    attempt: int
    message: Message


def source_of(message: Message) -> Source:
    """Give where a message came from."""
    place = (message.cluster_id, message.topic, message.partition, message.offset)
    if message.timestamp_ms is None:
        return Source(*place)
    content = (str(message.timestamp_ms).encode(), message.key or b"", message.value or b"")
    return Source(*place, hashlib.sha256(b"/".join(content)).hexdigest()[:16])


def new_job(job: Job) -> NewJob:
    """Give a job that passed every check as the ledger takes it."""
    spec, digest = canonical_json(job), spec_hash(job)
    return NewJob(str(job.job_id), job.op, spec, digest, priority=job.priority)


def message_from_spec(source: Source, spec: str) -> Message:
    """Give a message that brings the same job, where the original was not kept."""
    place = (source.topic, source.partition, source.offset)
    return Message(*place, None, spec.encode(), (), None, source.cluster_id)


def pack(message: Message) -> bytes:
    """Give a message as JSON."""
    return json.dumps(
        {
            "source": vars(source_of(message)),
            "key": _encode(message.key),
            "headers": [[name, _encode(value)] for name, value in message.headers],
            "value": _encode(message.value),
            "timestamp_ms": message.timestamp_ms,
        }
    ).encode()


def offer_payload(offer: Offer, jobs_topic: str, mediator: str) -> bytes:
    """Give an offer as JSON.

    Args:
        offer: the offer.
        jobs_topic: the jobs topic its message lies in.
        mediator: who makes it.
    """
    kind = "message" if offer.to == TO_ALL else "offer"
    head = {"kind": kind, "time": utc_now(), "mediator": mediator, "jobs_topic": jobs_topic}
    rest = {"to": offer.to, "job_id": offer.job_id, "epoch": offer.epoch, "attempt": offer.attempt}
    return json.dumps({**head, **rest, "message": json.loads(pack(offer.message))}).encode()


def offer_of(record: dict[str, Any]) -> Offer | None:
    """Give the offer in a record of the status topic, or None where it holds none."""
    try:
        return Offer(
            str(record["to"]),
            str(record["job_id"]),
            int(record["epoch"]),
            int(record["attempt"]),
            _message_of(record["message"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def unpack(packed: bytes) -> Message:
    """Give the message that `pack` was given."""
    return _message_of(json.loads(packed))


def _message_of(record: dict[str, Any]) -> Message:
    source = record["source"]
    headers = tuple((str(name), _decode(value)) for name, value in record["headers"])
    return Message(
        str(source["topic"]),
        int(source["partition"]),
        int(source["offset"]),
        _decode(record["key"]),
        _decode(record["value"]),
        headers,
        record.get("timestamp_ms"),
        str(source["cluster_id"]),
    )


def _encode(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode("ascii")


def _decode(value: str | None) -> bytes | None:
    return None if value is None else base64.b64decode(value, validate=True)
