"""Owns the JSON of the events on the status, event and dead-letter topics.

An event's key is the job id. `seq` counts a job's events from 1 without gaps. State events go to
the status topic (compacted: the last one is where the job stands) and to the event topic; all
others to the event topic only. When a job goes to another mediator, or is run anew on request, its
`epoch` rises by one and `seq` goes on at (epoch - 1) * EPOCH_STRIDE + 1: an event whose `seq` is
below one seen before is void. `seq` 0 is a word of a mediator that does not own the job.

The status topic also holds what mediators tell each other, under keys that no job can have:
`mediator/<id>`, `control/<op>/<job id>`, `offer/<message>` and `message/<job id>`.
"""

import base64
import dataclasses
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mediator.records import Control, Source
from mediator.states import JobState
from mediator.text import finite, one_line, utc_now

EVENT_DATA_LIMIT_BYTES = 512 * 1024
LETTER_LIMIT_BYTES = 900 * 1024
LETTER_EXCERPT_BYTES = 64 * 1024
SOURCE_HEADER = "skyline-source"
ENTRY_HEADER = "skyline-entry"
EPOCH_STRIDE = 10**9


class EventKind(StrEnum):
    """What an event tells."""

    STATE = "state"
    PROGRESS = "progress"
    ARTIFACT = "artifact"
    VIEWER_READY = "viewer_ready"
    CHECKPOINT = "checkpoint"
    METRICS = "metrics"
    DUPLICATE = "duplicate"
    CONTROL = "control"
    WAITING = "waiting"


@dataclass(frozen=True)
class Topics:
    """The topics the mediator writes to, and the one that jobs come from."""

    status: str
    events: str
    dead_letters: str
    jobs: str = ""

    def of(self, kind: EventKind) -> tuple[str, ...]:
        """Give the topics an event of this kind goes to."""
        return (self.status, self.events) if kind is EventKind.STATE else (self.events,)


@dataclass(frozen=True)
class Owner:
    """What the status topic tells of a job besides its state, for other mediators."""

    mediator: str
    jobs_topic: str
    spec_sha256: str
    source: str
    anew_epoch: int


@dataclass(frozen=True)
class Event:
    """One event of a job; `data` is any JSON object."""

    job_id: str
    seq: int
    kind: EventKind
    state: JobState
    op: str
    attempt: int
    reason: str | None
    data: dict[str, Any]
    epoch: int = 1

    def status_payload(self, owner: Owner) -> bytes:
        """Give the event for the status topic: with its owner, without the whole spec."""
        slim = {name: value for name, value in self.data.items() if name != "spec"}
        return dataclasses.replace(self, data=slim).payload(vars(owner))

    def payload(self, more: Mapping[str, str | int] | None = None) -> bytes:
        """Give the event as JSON; data over the limit is replaced by a note of its size."""
        data = json.dumps(finite(self.data))
        if len(data) > EVENT_DATA_LIMIT_BYTES:
            data = json.dumps({"omitted": f"{len(data)} bytes; read the job's folder"})
        head = {
            "job_id": self.job_id,
            "seq": self.seq,
            "time": utc_now(),
            "kind": self.kind,
            "state": self.state,
            "op": self.op,
            "attempt": self.attempt,
            "epoch": self.epoch,
            "reason": self.reason,
            **(more or {}),
        }
        return (json.dumps(head)[:-1] + ', "data": ' + data + "}").encode()


@dataclass(frozen=True)
class FieldProblem:
    """One field of a refused message: its dotted name, its value as text, and what is wrong."""

    field: str
    value: str
    message: str

    def __str__(self) -> str:
        return f"{self.field} = {self.value}: {self.message}"


def taken_by_other_spec(job_id: str) -> FieldProblem:
    """Give what is wrong with a message under the id of a job with another spec."""
    return FieldProblem(
        "job_id",
        json.dumps(job_id),
        "is taken by a job with another spec; choose another job_id",
    )


@dataclass(frozen=True)
class DeadLetter:
    """A message that was refused, with everything needed to mend and send it again.

    Attributes:
        source: where the message came from; also a header, to tell repeats apart.
        reason: one line.
        problems: the fields that are wrong.
        value: the original bytes (None for a Kafka tombstone).
        key: the original key.
        headers: the original headers.
        job_id: the job id when the message had a valid one.
    """

    source: Source
    reason: str
    problems: Sequence[FieldProblem]
    value: bytes | None
    key: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    job_id: str | None

    @property
    def sha256(self) -> str:
        """The SHA-256 of the original, in hex."""
        return hashlib.sha256(self.value or b"").hexdigest()

    def payload(self) -> bytes:
        """Give the letter as JSON.

        An original that would not fit a message is compressed; if it does not fit then either, it
        is cut and marked.
        """
        if self.value is None:
            return self._encode(None)
        whole = self._encode(_text_or_base64(self.value))
        if len(whole) > LETTER_LIMIT_BYTES:
            whole = self._encode(_compressed(self.value))
        if len(whole) <= LETTER_LIMIT_BYTES:
            return whole
        return self._encode(_text_or_base64(self.value[:LETTER_EXCERPT_BYTES]), cut=True)

    def kafka_headers(self) -> tuple[tuple[str, str], ...]:
        """Give the headers the letter is sent with."""
        return ((SOURCE_HEADER, str(self.source)),)

    def _encode(self, original: dict[str, str] | None, *, cut: bool = False) -> bytes:
        value = self.value or b""
        letter = {
            "time": utc_now(),
            "reason": one_line(self.reason),
            "errors": [
                {"field": p.field, "value": p.value, "message": one_line(p.message)}
                for p in list(self.problems)[:100]
            ],
            "job_id": self.job_id,
            "source": {
                "cluster_id": self.source.cluster_id,
                "topic": self.source.topic,
                "partition": self.source.partition,
                "offset": self.source.offset,
            },
            "key": None if self.key is None else _text_or_base64(self.key[:1024]),
            "headers": [
                {"name": name, "value": None if value is None else _text_or_base64(value[:4096])}
                for name, value in list(self.headers)[:50]
            ],
            "original": original,
            "original_bytes": None if self.value is None else len(value),
            "original_sha256": self.sha256,
            "original_cut": cut,
        }
        return json.dumps(letter).encode()


def control_payload(control: Control, jobs_topic: str, mediator: str) -> bytes:
    """Give a request to cancel or retry as every mediator reads it on the status topic."""
    record = {"kind": "control", "time": utc_now(), "mediator": mediator}
    return json.dumps({**record, "jobs_topic": jobs_topic, **vars(control)}).encode()


def _compressed(raw: bytes) -> dict[str, str]:
    packed = base64.b64encode(zlib.compress(raw)).decode("ascii")
    return {"encoding": "zlib+base64", "content": packed}


def _text_or_base64(raw: bytes) -> dict[str, str]:
    try:
        return {"encoding": "utf-8", "content": raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {"encoding": "base64", "content": base64.b64encode(raw).decode("ascii")}
