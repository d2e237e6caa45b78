"""Owns whether new jobs may be taken from a broker that may have forgotten old ones.

An embedded broker that is killed loses its log, and with it who had which job. Until every other
mediator known within the last week has told it its jobs (`retelling`), or was silent for a lease,
a copy of one of those jobs would look like a new one. That they have is written down, by cluster:
a mediator that dies while it waits goes on waiting when it is back.
"""

from mediator.ledger import Ledger
from mediator.peers import SharedMemory


class Settling:
    """Waits for the others to tell a cluster their jobs.

    Args:
        ledger: open for writing.
        memory: what the status topic says.
    """

    def __init__(self, ledger: Ledger, memory: SharedMemory) -> None:
        self._ledger = ledger
        self._memory = memory
        self.settled = True

    def begin(self, cluster: str) -> None:
        """Begin with a cluster; the ledger knows whether it was settled before.

        A mediator that has never met any other has nobody to wait for.
        """
        known = self._ledger.settled_cluster() == cluster
        self.settled = known or not self._memory.peers()

    def look(self, cluster: str, cluster_id: str, lease_s: float) -> None:
        """See whether the others have told their jobs, and write down that they have.

        Args:
            cluster: what the ledger remembers the cluster by.
            cluster_id: its id.
            lease_s: silence after which a mediator is gone, s.
        """
        if not self.settled:
            peers = self._memory.peers()
            self.settled = all(self._has_told(peer, cluster_id, lease_s) for peer in peers)
        if self.settled and self._ledger.settled_cluster() != cluster:
            self._ledger.set_settled_cluster(cluster)

    def _has_told(self, mediator: str, cluster_id: str, lease_s: float) -> bool:
        ready = self._memory.is_ready_on(mediator, cluster_id)
        return ready or self._memory.is_gone(mediator, lease_s)
