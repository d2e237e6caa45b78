"""Owns the memory that mediators share: what the status topic says of jobs and of each other.

A job's records have one order, the same for everyone, and that decides whose it is: the higher
epoch, and within an epoch whoever was first. Reading the topic from its beginning gives every
mediator the same answer, without a protocol between them.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from kafka_utils.message import Message
from mediator.offers import Offer, offer_of
from mediator.records import Control
from mediator.states import ENDED, JobState

MEDIATOR_KEY = "mediator/"


@dataclass(frozen=True, slots=True)
class Known:
    """A job as the status topic has it."""

    epoch: int
    mediator: str
    state: JobState
    attempt: int
    spec_sha256: str
    source: str
    seq: int
    anew_epoch: int
    op: str

    @property
    def ended(self) -> bool:
        """Whether it has come to its end."""
        return self.state in ENDED


@dataclass(frozen=True)
class Told:
    """What one record of the status topic says.

    Attributes:
        job_id: the job it changed the memory of, or None.
        control: a request about a job, or None.
        offer: a message that is left to this mediator, or None.
        kept: the message of another mediator's job, in case that one goes, or None.
    """

    job_id: str | None = None
    control: Control | None = None
    offer: Offer | None = None
    kept: Offer | None = None


@dataclass
class _Peer:
    heard_at: float  # or when it got its lease anew
    word_at: float = float("-inf")
    left: bool = False
    ready_on: str = ""
    answered: dict[int, tuple[int, int]] = field(default_factory=dict)
    log_root: str = ""
    host: str = ""


class SharedMemory:
    """What is known of the jobs of one jobs topic, and of the mediators that serve it.

    Args:
        me: this mediator's id.
        jobs_topic: the topic; records about other topics' jobs are left alone.
        clock: monotonic seconds.
    """

    def __init__(
        self, me: str, jobs_topic: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.me = me
        self._topic = jobs_topic
        self._clock = clock
        self._jobs: dict[str, Known] = {}
        self._peers: dict[str, _Peer] = {}
        self.own_word_at: float | None = None

    def renew_leases(self) -> None:
        """Give every peer a new lease, after a time in which none could have been heard.

        The jobs stay: reading records again changes nothing, and a broker that lost its log must
        not make this mediator forget what it has read.
        """
        now = self._clock()
        self._peers = {name: replace(peer, heard_at=now) for name, peer in self._peers.items()}

    def known(self, job_id: str) -> Known | None:
        """Give a job as the topic has it."""
        return self._jobs.get(job_id)

    def peers(self) -> tuple[str, ...]:
        """Give the other mediators that have not said goodbye."""
        return tuple(name for name, peer in self._peers.items() if not peer.left)

    def is_gone(self, mediator: str, lease_s: float) -> bool:
        """Tell whether a mediator said goodbye or was silent for longer than its lease."""
        peer = self._peers.setdefault(mediator, _Peer(self._clock()))
        return peer.left or self._clock() - peer.heard_at > lease_s

    def has_left(self, mediator: str) -> bool:
        """Tell whether a mediator said goodbye, and was not heard since."""
        peer = self._peers.get(mediator)
        return peer is not None and peer.left

    def is_heard_since(self, mediator: str, asked_at: float) -> bool:
        """Tell whether a mediator has said anything since it was asked (monotonic seconds)."""
        peer = self._peers.get(mediator)
        return peer is not None and not peer.left and peer.word_at > asked_at

    def is_silent_since(self, mediator: str, asked_at: float, lease_s: float) -> bool:
        """Tell whether a mediator did not answer for a lease; an idle one has nothing to say else.

        Args:
            mediator: its id.
            asked_at: when it was asked, monotonic seconds.
            lease_s: silence after which it is gone, s.
        """
        peer = self._peers.setdefault(mediator, _Peer(self._clock()))
        return peer.left or self._clock() - max(asked_at, peer.heard_at) > lease_s

    def is_ready_on(self, mediator: str, cluster_id: str) -> bool:
        """Tell whether a mediator has told its jobs to this cluster."""
        peer = self._peers.get(mediator)
        return peer is not None and (peer.left or peer.ready_on == cluster_id)

    def is_answered(self, message: Message) -> bool:
        """Tell whether another mediator read a message before and told all there is to tell of it.

        A message that is younger than its word lies in a topic that was made anew.
        """
        for peer in self._peers.values():
            offset, time_ms = peer.answered.get(message.partition, (0, 0))
            if peer.ready_on != message.cluster_id or message.timestamp_ms is None:
                continue
            if message.offset < offset and message.timestamp_ms <= time_ms:
                return True
        return False

    def log_root_of(self, mediator: str) -> str:
        """Give where a mediator says that its log root is; an empty text where it did not."""
        peer = self._peers.get(mediator)
        return "" if peer is None else peer.log_root

    def describe(self, mediator: str) -> str:
        """Give a mediator in words: its id, its log root and its machine as far as it told them."""
        peer = self._peers.get(mediator)
        if peer is None or not peer.log_root:
            return f"mediator {mediator}"
        host = f" on {peer.host}" if peer.host else ""
        return f"mediator {mediator} (log root {peer.log_root}{host})"

    def expect(self, mediator: str) -> None:
        """Know of a mediator before it is heard."""
        self._peers.setdefault(mediator, _Peer(self._clock()))

    def read(self, key: bytes | None, value: bytes | None) -> Told:
        """Take the next record of the status topic."""
        record = _object(value)
        if record is None or record.get("jobs_topic") != self._topic:
            return Told()
        sender = str(record.get("mediator"))
        if sender != self.me:
            self._hear(sender, record)
        elif record.get("kind") == "mediator":
            self.own_word_at = self._clock()
        kind = record.get("kind")
        if kind == "control":
            return Told(control=_control(record))
        if kind == "offer":
            offer = offer_of(record) if record.get("to") == self.me else None
            return Told(offer=offer)
        if kind == "message":
            return Told(kept=None if sender == self.me else offer_of(record))
        if kind != "state" or key is None:
            return Told()
        return Told(job_id=self._learn(str(record.get("job_id")), sender, record))

    def _hear(self, sender: str, record: dict[str, Any]) -> None:
        peer = self._peers.setdefault(sender, _Peer(self._clock()))
        peer.heard_at = peer.word_at = self._clock()
        if record.get("kind") == "mediator":
            peer.left = bool(record.get("left"))
            peer.ready_on = str(record.get("cluster_id"))
            peer.answered = _answered(record)
            peer.log_root = str(record.get("log_root") or "")
            peer.host = str(record.get("host") or "")

    def _learn(self, job_id: str, sender: str, record: dict[str, Any]) -> str | None:
        try:
            new = Known(
                int(record["epoch"]),
                sender,
                JobState(record["state"]),
                int(record["attempt"]),
                str(record["spec_sha256"]),
                str(record["source"]),
                int(record["seq"]),
                int(record.get("anew_epoch", record["epoch"])),
                str(record["op"]),
            )
        except (KeyError, TypeError, ValueError):
            return None
        old = self._jobs.get(job_id)
        if old is not None and not _prevails(new, old):
            return job_id if sender == self.me else None
        self._jobs[job_id] = new
        return job_id


def _answered(record: dict[str, Any]) -> dict[int, tuple[int, int]]:
    """Give, by partition, up to which offset a mediator answered, and when (Unix time, ms)."""
    try:
        places = record.get("answered", {}).items()
        return {int(part): (int(offset), int(time_ms)) for part, (offset, time_ms) in places}
    except (AttributeError, TypeError, ValueError):
        return {}


def _prevails(new: Known, old: Known) -> bool:
    refused = (new.state is JobState.REJECTED, old.state is JobState.REJECTED)
    # What is refused was never anybody's: a good job of the same id comes first, in any epoch.
    if new.mediator != old.mediator and refused[0] != refused[1]:
        return refused[1]
    if new.epoch != old.epoch:
        return new.epoch > old.epoch
    if new.mediator == old.mediator:
        return new.seq >= old.seq
    if all(refused):
        return False
    # Only the first may go beyond waiting, so a record that does shows who was first where the
    # broker has dropped the beginning of the topic.
    waiting = (JobState.QUEUED, JobState.RECEIVED)
    return old.state in waiting and new.state not in waiting


def _control(record: dict[str, Any]) -> Control | None:
    op, job_id, source = (record.get(name) for name in ("op", "job_id", "source"))
    epoch = record.get("epoch", 0)
    if op in ("cancel", "retry") and isinstance(job_id, str) and isinstance(source, str):
        return Control(op, job_id, source, epoch if isinstance(epoch, int) else 0)
    return None


def _object(value: bytes | None) -> dict[str, Any] | None:
    try:
        record = json.loads(value or b"null")
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
