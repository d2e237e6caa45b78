"""Owns what the mediator owes the broker: entries, which of them are sent, and how far it got.

An entry may be held: it is not sent, and told to nobody, until it is released.

`reached` holds, per partition of a cluster, the offset up to which every entry is known to be
confirmed or absent. What a crash left in doubt lies beyond it and is looked for there before
anything is sent again, so no entry is published twice.
"""

import json
from collections.abc import Iterable, Mapping, Sequence

from mediator.ledger_base import LedgerBase
from mediator.records import OutboxEntry
from mediator.text import utc_now

Positions = Mapping[tuple[str, int], int]


class OutboxTable(LedgerBase):
    """The outbox's part of the ledger."""

    def unsent(self, after: int, limit: int) -> list[OutboxEntry]:
        """Give entries owed to the broker, oldest first, with an id greater than `after`."""
        rows = self._rows(
            "SELECT entry_id, topic, key, payload, headers FROM outbox"
            " WHERE sent_at IS NULL AND held=0 AND entry_id > ? ORDER BY entry_id LIMIT ?",
            (after, limit),
        )
        return [
            OutboxEntry(
                row["entry_id"],
                row["topic"],
                row["key"],
                row["payload"],
                tuple((name, value) for name, value in json.loads(row["headers"])),
            )
            for row in rows
        ]

    def backlog(self, limit: int) -> int:
        """Give the number of entries owed to the broker, counted up to a limit."""
        rows = self._rows(
            "SELECT COUNT(*) AS n FROM"
            " (SELECT 1 FROM outbox WHERE sent_at IS NULL AND held=0 LIMIT ?)",
            (limit,),
        )
        return int(rows[0]["n"])

    def unsent_topics(self) -> set[str]:
        """Give the topics that something is owed to."""
        rows = self._rows("SELECT DISTINCT topic FROM outbox WHERE sent_at IS NULL AND held=0")
        return {row["topic"] for row in rows}

    def mark_sent(
        self, entry_ids: Iterable[int], cluster_id: str = "", positions: Positions | None = None
    ) -> None:
        """Note that the broker has confirmed these entries; what is sent need not be kept whole.

        Args:
            entry_ids: the entries.
            cluster_id: the cluster that confirmed them.
            positions: offset after the last confirmed message, by topic and partition.
        """
        # a power cut that takes this back leaves it in doubt, and it is looked for like the rest
        with self.transaction(lasting=False):
            self._connection.executemany(
                "UPDATE outbox SET sent_at=?, payload=x'' WHERE entry_id=?",
                [(utc_now(), entry_id) for entry_id in entry_ids],
            )
            self.note_reached(cluster_id, positions or {})

    def note_reached(self, cluster_id: str, positions: Positions) -> None:
        """Note that nothing before these offsets is in doubt."""
        with self.transaction():
            self._connection.executemany(
                "INSERT OR REPLACE INTO reached VALUES (?,?,?,?)",
                [(cluster_id, *place, offset) for place, offset in positions.items()],
            )

    def reached(self, cluster_id: str, topic: str) -> dict[int, int]:
        """Give the offsets from which entries may be in doubt, by partition."""
        rows = self._rows(
            "SELECT partition, offset FROM reached WHERE cluster_id=? AND topic=?",
            (cluster_id, topic),
        )
        return {row["partition"]: row["offset"] for row in rows}

    def retract(self, job_id: str) -> None:
        """Take back every event of a job that was not sent: another mediator tells of it now."""
        with self.transaction():
            self._connection.execute(
                "DELETE FROM outbox WHERE job_id=? AND sent_at IS NULL AND topic<>?",
                (job_id, self._topics.dead_letters),
            )

    def _release(self, job_id: str) -> None:
        """Let a job's held entries go, in their order, behind everything that is owed already."""
        self._connection.execute(
            "INSERT INTO outbox (job_id, seq, topic, key, headers, payload)"
            " SELECT job_id, seq, topic, key, headers, payload FROM outbox"
            " WHERE job_id=? AND held=1 ORDER BY entry_id",
            (job_id,),
        )
        self._connection.execute("DELETE FROM outbox WHERE job_id=? AND held=1", (job_id,))

    def _owe(
        self,
        topic: str,
        key: str | None,
        payload: bytes,
        *,
        job_id: str | None = None,
        seq: int | None = None,
        headers: Sequence[tuple[str, str]] = (),
        held: bool = False,
    ) -> None:
        self._connection.execute(
            "INSERT INTO outbox (job_id, seq, topic, key, headers, payload, held)"
            " VALUES (?,?,?,?,?,?,?)",
            (job_id, seq, topic, key, json.dumps(headers), payload, held),
        )
