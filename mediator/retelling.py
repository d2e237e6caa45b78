"""Owns telling a cluster that remembers nothing where every job of this ledger stands.

A broker that lost its log, or another one than before, is told of all jobs: the unfinished first,
for they are claims, each with its message, which the jobs topic has lost too; then the ended, so
that a copy of an old message is known everywhere for what it is. It goes in batches, each only when
the outbox has room, so that neither memory nor the loop suffers from a ledger of any size. A
mediator that dies meanwhile begins again.
"""

from mediator.ledger import Ledger

BATCH = 250
MOST_OWED = 1000


class Retelling:
    """Tells one cluster.

    Args:
        ledger: open for writing.
        cluster: what the ledger remembers the cluster by.
    """

    def __init__(self, ledger: Ledger, cluster: str) -> None:
        self._ledger = ledger
        self._cluster = cluster
        self._ended = False
        self._after = 0
        self.told = 0
        self.done = False

    def step(self) -> bool:
        """Owe the cluster one batch more, if there is room; tell whether that was all."""
        if self.done or self._ledger.backlog(MOST_OWED) >= MOST_OWED:
            return self.done
        with self._ledger.transaction():
            if not self._ended and not self._after:
                self._ledger.tell_controls_again()
            told = self._ledger.tell_again(ended=self._ended, after=self._after, limit=BATCH)
            self.told += len(told)
            last = len(told) < BATCH
            if last and self._ended:
                self._ledger.set_cluster(self._cluster)
        self._after = 0 if last else told[-1]
        self.done = last and self._ended
        self._ended = self._ended or last
        return self.done
