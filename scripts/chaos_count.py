"""Counts what a chaos run came to: from the topics as they were read, the ledgers and the disk."""

import contextlib
import hashlib
import json
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos_mail import Mail

from kafka_utils.errors import KafkaUtilsError
from kafka_utils.message import Message
from kafka_utils.reader import TopicReader
from kafka_utils.settings import KafkaSettings
from mediator.events import EPOCH_STRIDE
from mediator.proc import tree_of
from mediator.records import ProcessIdentity
from mediator.states import ENDED, JobState

POLL_S = 0.05


class Collector:
    """Reads the status, event and dead-letter topics through every life of the broker.

    Attributes:
        terminal: per job, the terminal events seen: (sequence number, state).
        repeats: events published twice to one cluster: where each lies and where it lay first. Two
            mediators may both claim a job on the status topic, where the first claim holds; that
            one claims twice, or that anything comes twice on the event topic, is a repeat.
        letters: SHA-256 of the originals that were answered by a dead letter.
        duplicates: events that acknowledge a duplicate.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self.terminal: dict[str, set[tuple[int, str]]] = defaultdict(set)
        self.fenced: set[tuple[str, int]] = set()
        self.repeats: list[dict[str, Any]] = []
        self.letters: set[str] = set()
        self.duplicates = 0
        self._newest: dict[tuple[str, str], int] = {}
        self._seen: dict[tuple[str, str, int, str], Message] = {}
        self._read_already: set[tuple[str, str, int, int]] = set()
        self._stop = threading.Event()
        topics = (settings.status_topic, settings.events_topic, settings.dlq_topic)
        self._threads = [threading.Thread(target=self._read, args=(topic,)) for topic in topics]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Stop reading."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def answered(self, value: bytes, job_id: str | None) -> bool:
        """Tell whether a message has its outcome."""
        with self._lock:
            if job_id is not None:
                return job_id in self.terminal
            return hashlib.sha256(value).hexdigest() in self.letters

    def _read(self, topic: str) -> None:
        while not self._stop.is_set():
            try:
                with TopicReader(self._settings, topic, timeout_s=2.0) as reader:
                    self._follow(topic, reader)
            except KafkaUtilsError:
                self._stop.wait(0.2)

    def _follow(self, topic: str, reader: TopicReader) -> None:
        cluster = ""
        last: dict[int, int] = {}
        while not self._stop.is_set():
            message = reader.poll(POLL_S)
            if message is None:
                continue
            cluster = cluster or message.cluster_id
            if message.cluster_id != cluster or message.offset <= last.get(message.partition, -1):
                return
            last[message.partition] = message.offset
            place = (cluster, topic, message.partition, message.offset)
            with self._lock, contextlib.suppress(ValueError):
                if place not in self._read_already:
                    self._read_already.add(place)
                    self._take(message, json.loads(message.value or b"{}"))

    def _take(self, message: Message, record: dict[str, Any]) -> None:
        if message.topic == self._settings.dlq_topic:
            self.letters.add(record["original_sha256"])
            return
        self.duplicates += record.get("kind") == "duplicate"
        if record.get("kind") != "state":
            return
        job_id, seq, state = record["job_id"], record["seq"], record["state"]
        place = (message.cluster_id + message.topic, job_id, seq)
        told_again = bool(record["data"].get("told_again"))
        if not told_again:
            claimed = message.topic == self._settings.status_topic and state == JobState.QUEUED
            claimant = str(record["mediator"]) if claimed else ""
            first = self._seen.setdefault((*place, claimant), message)
            if first is not message:
                self.repeats.append({"event": record, "first": _where(first), **_where(message)})
            newest = self._newest.get(place[:2], 0)
            if seq < newest:
                self.fenced.add((job_id, seq))
                return
            self._newest[place[:2]] = seq
        if state in ENDED:
            self.terminal[job_id].add((seq, state))


def _where(message: Message) -> dict[str, Any]:
    headers = {name: (value or b"").decode(errors="replace") for name, value in message.headers}
    return {
        "cluster": message.cluster_id, "topic": message.topic, "partition": message.partition,
        "offset": message.offset, "timestamp_ms": message.timestamp_ms, "headers": headers,
    }  # fmt: skip


def rows(ledger: Path) -> list[sqlite3.Row]:
    """Give the jobs in a ledger."""
    uri = f"{ledger.resolve().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute("SELECT * FROM jobs").fetchall()


def zombie_rows(ledgers: list[Path]) -> int:
    """Count the jobs that a ledger holds for running while no process runs them."""
    zombies = 0
    for ledger in ledgers:
        for row in rows(ledger):
            if row["state"] == "running":
                known = row["pid"] is not None
                identity = (
                    ProcessIdentity(row["boot_id"], row["pid"], row["start_ticks"])
                    if known else None
                )  # fmt: skip
                zombies += not tree_of(identity, row["run_token"] or "-")
    return zombies


def slots_at_work(ledgers: list[Path], for_s: float) -> set[tuple[str, str]]:
    """Give the slots seen at work for a while, each with its ledger."""
    seen: set[tuple[str, str]] = set()
    until = time.monotonic() + for_s
    while time.monotonic() < until:
        for ledger in ledgers:
            seen |= {(str(ledger), r["slot"]) for r in rows(ledger) if r["state"] == "running"}
        time.sleep(POLL_S)
    return seen


def run_to_completion(log_roots: list[Path]) -> Counter[str]:
    """Count, per job, the attempts that left a result."""
    found: Counter[str] = Counter()
    for root in log_roots:
        for path in root.glob("*/**/result.json"):
            found[path.relative_to(root).parts[0]] += 1
    return found


def unfinished(ledgers: list[Path]) -> int:
    """Count the jobs that have not ended."""
    return sum(row["state"] not in ENDED for ledger in ledgers for row in rows(ledger))


@dataclass(frozen=True)
class Requested:
    """The jobs that somebody asked to cancel, and to run anew."""

    cancelled: frozenset[str]
    retried: frozenset[str]

    @staticmethod
    def of(mail: Sequence[Mail]) -> "Requested":
        """Give what some mail asks for."""
        asked = {op: {item.job_id or "" for item in mail if item.op == op}
                 for op in ("cancel", "retry")}  # fmt: skip
        return Requested(frozenset(asked["cancel"]), frozenset(asked["retry"]))


def verdict(
    collector: Collector, job_ids: list[str], ledgers: list[Path], requested: Requested
) -> dict[str, int]:
    """Count what was lost, told twice or run twice.

    A job that was asked to be cancelled may end as cancelled instead; one that was queued anew on
    request has one end an epoch, and may have been done with before it was cancelled.
    """
    ends = [(r["job_id"], r["state"]) for p in ledgers for r in rows(p)]
    succeeded = Counter(job_id for job_id, state in ends if state == "succeeded")
    cancelled = {job_id for job_id, state in ends if state == "cancelled"} & requested.cancelled
    completed = run_to_completion([ledger.parent for ledger in ledgers])
    told = collector.terminal

    def twice(job_id: str) -> bool:
        epochs = Counter((seq - 1) // EPOCH_STRIDE for seq, _ in told.get(job_id, ()))
        again = len(epochs) > 1 and job_id not in requested.retried
        return again or succeeded[job_id] > 1 or max(epochs.values(), default=0) > 1

    return {
        "lost": sum(not told.get(j) or (succeeded[j] == 0 and j not in cancelled) for j in job_ids),
        "double_terminal": sum(map(twice, job_ids)),
        "run_twice": sum(completed[j] > 1 + (j in requested.retried) for j in job_ids),
        "repeated_events": len(collector.repeats),
        "fenced_events": len(collector.fenced),
    }
