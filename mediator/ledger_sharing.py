"""Owns what a ledger remembers because other mediators exist.

- watches: jobs that another mediator owns, or is to own because what they build on is there, and
  whose message lies in a partition this one reads; if the owner vanishes, this mediator takes them
  over.
- controls: requests to cancel or retry a job, each kept until it was applied. A request to cancel
  a job that is not here yet is a tombstone: the job ends as soon as it comes.
- peers: mediators heard of lately.
"""

import json
import time
from collections.abc import Mapping

from mediator.events import control_payload
from mediator.ledger_outbox import OutboxTable
from mediator.records import Control, NewJob, Source, Watch
from mediator.states import ENDED
from mediator.text import utc_now

TOMBSTONE_KEPT_S = 7 * 24 * 3600.0
PEER_KEPT_S = 7 * 24 * 3600.0
OPEN_AND_TOLD = 2
ENDED_MARKS = ",".join(f"'{state}'" for state in sorted(ENDED))


class SharingTables(OutboxTable):
    """The part of the ledger that speaks of other mediators."""

    # --- messages ---------------------------------------------------------------------------

    def has_seen(self, source: Source) -> bool:
        """Tell whether this very message was dealt with before.

        One at the same place with another content is another one: its topic was made anew.
        """
        rows = self._rows(
            "SELECT digest FROM sources WHERE cluster_id=? AND topic=? AND partition=?"
            " AND offset=?",
            (source.cluster_id, source.topic, source.partition, source.offset),
        )
        digests = {row["digest"] for row in rows}
        return bool(digests & {source.digest, ""} or (digests and not source.digest))

    def note_source(self, source: Source, job_id: str | None, outcome: str) -> None:
        """Note what became of a message."""
        with self.transaction():
            self._note_source(source, job_id, outcome)

    def _note_source(self, source: Source, job_id: str | None, outcome: str) -> None:
        place = (source.cluster_id, source.topic, source.partition, source.offset)
        # of a topic that was made anew since
        self._connection.execute(
            "DELETE FROM sources WHERE cluster_id=? AND topic=? AND partition=? AND offset=?"
            " AND digest<>'' AND ?<>'' AND digest<>?",
            (*place, source.digest, source.digest),
        )
        self._connection.execute(
            "INSERT INTO sources (cluster_id, topic, partition, offset, job_id, outcome, digest)"
            " VALUES (?,?,?,?,?,?,?)",
            (*place, job_id, outcome, source.digest),
        )

    def open_offsets(self, cluster_id: str, topic: str) -> dict[int, int]:
        """Give, by partition, the lowest offset whose job has not ended.

        Beyond it nothing is committed, so that whoever gets the partition reads those jobs again.
        """
        rows = self._rows(
            "SELECT source_partition AS part, MIN(source_offset) AS low FROM ("
            " SELECT source_partition, source_offset FROM jobs"
            f"  WHERE state NOT IN ({ENDED_MARKS}) AND source_cluster=:c AND source_topic=:t"
            " UNION ALL SELECT source_partition, source_offset FROM watches"
            "  WHERE source_cluster=:c AND source_topic=:t) GROUP BY source_partition",
            {"c": cluster_id, "t": topic},  # type: ignore[arg-type]
        )
        return {row["part"]: row["low"] for row in rows}

    def open_topics(self) -> set[str]:
        """Give the jobs topics of the jobs that have not ended, and of those watched."""
        rows = self._rows(
            f"SELECT source_topic AS topic FROM jobs WHERE state NOT IN ({ENDED_MARKS})"
            " AND source_topic <> '' UNION SELECT source_topic FROM watches"
        )
        return {row["topic"] for row in rows}

    def undecided_offsets(self, cluster_id: str, topic: str) -> dict[int, int]:
        """Give, by partition, the lowest offset whose message may yet have to be refused.

        That is so while a claim may be lost, and while a job is being left to another mediator.
        """
        rows = self._rows(
            "SELECT source_partition AS part, MIN(source_offset) AS low FROM ("
            " SELECT source_partition, source_offset FROM jobs WHERE claimed=0"
            f"  AND state NOT IN ({ENDED_MARKS}) AND source_cluster=:c AND source_topic=:t"
            " UNION ALL SELECT source_partition, source_offset FROM watches"
            "  WHERE message IS NOT NULL AND source_cluster=:c AND source_topic=:t)"
            " GROUP BY source_partition",
            {"c": cluster_id, "t": topic},  # type: ignore[arg-type]
        )
        return {row["part"]: row["low"] for row in rows}

    # --- jobs of others ---------------------------------------------------------------------

    def watch(
        self, source: Source, job: NewJob, *, seen: bool = False, message: bytes | None = None
    ) -> None:
        """Remember a job that another mediator owns or is to own.

        Args:
            source: the message it came with.
            job: the job.
            seen: the message's outcome is noted already.
            message: the message itself, as it is left to the mediator that is to own the job; None
                when the job has an owner.
        """
        with self.transaction():
            if not seen:
                self._note_source(source, job.job_id, "elsewhere")
            self._connection.execute(
                "INSERT OR IGNORE INTO watches VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                (job.job_id, job.op, job.spec, job.spec_sha256, job.priority, job.waits_for,
                 source.cluster_id, source.topic, source.partition, source.offset, message),
            )  # fmt: skip

    def watches(self) -> list[Watch]:
        """Give the jobs of others, oldest first."""
        return [
            Watch(
                NewJob(
                    row["job_id"], row["op"], row["spec"], row["spec_sha256"],
                    row["waits_for"], row["priority"],
                ),
                Source(
                    row["source_cluster"], row["source_topic"],
                    row["source_partition"], row["source_offset"],
                ),
                row["message"],
            )
            for row in self._rows("SELECT * FROM watches ORDER BY rowid")
        ]  # fmt: skip

    def watched_spec(self, job_id: str) -> str | None:
        """Give the hash of a watched job's spec; None when the job is not watched."""
        rows = self._rows("SELECT spec_sha256 FROM watches WHERE job_id=?", (job_id,))
        return rows[0]["spec_sha256"] if rows else None

    def unwatch(self, job_id: str) -> None:
        """Forget a job of another mediator: it has ended, or is this one's now."""
        with self.transaction():
            self._connection.execute("DELETE FROM watches WHERE job_id=?", (job_id,))

    # --- requests ---------------------------------------------------------------------------

    def note_control(self, control: Control, jobs_topic: str, source: Source | None) -> bool:
        """Write a request down.

        Args:
            control: the request.
            jobs_topic: the jobs topic whose job it names.
            source: the message it came with, told to every mediator; None when it was one of them
                that told it.

        Returns:
            False when it was known.
        """
        with self.transaction():
            if source is not None:
                self._note_source(source, control.job_id, control.op)
            known = self._rows("SELECT 1 FROM controls WHERE source=?", (control.source,))
            if known:
                return False
            self._connection.execute(
                "INSERT INTO controls (source, op, job_id, received_at, epoch) VALUES (?,?,?,?,?)",
                (control.source, control.op, control.job_id, utc_now(), control.epoch),
            )
            if source is not None:
                key = f"control/{control.op}/{control.job_id}"
                payload = control_payload(control, jobs_topic, self.mediator)
                self._owe(self._topics.status, key, payload)
            return True

    def open_controls(self, job_id: str | None = None) -> list[Control]:
        """Give the requests not applied yet, of one job or of all, oldest first."""
        where = "" if job_id is None else " AND job_id=?"
        rows = self._rows(
            f"SELECT op, job_id, source, epoch FROM controls WHERE open{where} ORDER BY rowid",
            () if job_id is None else (job_id,),
        )
        return [Control(row["op"], row["job_id"], row["source"], row["epoch"]) for row in rows]

    def knows_control(self, source: str) -> bool:
        """Tell whether a request was heard of, here or from another mediator."""
        return bool(self._rows("SELECT 1 FROM controls WHERE source=?", (source,)))

    def has_read(self, source: str) -> bool:
        """Tell whether a message (its source as text) was read from the jobs topic here."""
        cluster_id, topic, partition, offset = source.rsplit("/", 3)
        return self.has_seen(Source(cluster_id, topic, int(partition), int(offset)))

    def told_controls(self) -> set[str]:
        """Give the open requests of which it was told that they wait."""
        rows = self._rows("SELECT source FROM controls WHERE open=?", (OPEN_AND_TOLD,))
        return {row["source"] for row in rows}

    def note_told(self, source: str) -> None:
        """Note that it was told what a request waits for."""
        with self.transaction():
            self._connection.execute(
                "UPDATE controls SET open=? WHERE source=? AND open", (OPEN_AND_TOLD, source)
            )

    def close_cancels(self, job_id: str, epoch: int) -> None:
        """Note that another mediator's job has ended in an epoch: what was to cancel it is void."""
        with self.transaction():
            self._connection.execute(
                "UPDATE controls SET open=0 WHERE open AND op='cancel' AND job_id=? AND epoch<=?",
                (job_id, epoch),
            )

    def close_control(self, source: str) -> None:
        """Note that a request was applied or is void."""
        with self.transaction():
            self._connection.execute("UPDATE controls SET open=0 WHERE source=?", (source,))

    def drop_old_controls(self) -> None:
        """Forget tombstones of jobs that never came."""
        with self.transaction():
            self._connection.execute(
                "UPDATE controls SET open=0 WHERE open"
                " AND unixepoch('now') - unixepoch(received_at) > ?",
                (TOMBSTONE_KEPT_S,),
            )

    # --- mediators --------------------------------------------------------------------------

    def note_peers(self, seen_at: Mapping[str, float]) -> None:
        """Note when other mediators were last heard of (Unix time, s); not lasting."""
        with self.transaction(lasting=False):
            self._connection.executemany(
                "INSERT OR REPLACE INTO peers VALUES (?,?)", list(seen_at.items())
            )

    def late_peers(self) -> set[str]:
        """Give the mediators heard of within the last week."""
        rows = self._rows(
            "SELECT mediator FROM peers WHERE seen_at > ?", (time.time() - PEER_KEPT_S,)
        )
        return {row["mediator"] for row in rows}

    def cluster(self) -> str | None:
        """Give the cluster whose status topic holds this ledger's jobs; None before the first."""
        return self._fact("cluster")

    def set_cluster(self, cluster: str) -> None:
        """Note that a cluster's status topic holds all of this ledger's jobs."""
        self._set_fact("cluster", cluster)

    def settled_cluster(self) -> str | None:
        """Give the cluster whose status topic held the jobs of all mediators known then."""
        return self._fact("settled")

    def set_settled_cluster(self, cluster: str) -> None:
        """Note that a cluster's status topic holds the jobs of all mediators known."""
        self._set_fact("settled", cluster)

    def _fact(self, name: str) -> str | None:
        rows = self._rows("SELECT value FROM facts WHERE name=?", (name,))
        return None if not rows else json.loads(rows[0]["value"])

    def _set_fact(self, name: str, value: str) -> None:
        with self.transaction():
            self._connection.execute(
                "INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value))
            )
