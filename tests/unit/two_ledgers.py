"""Two mediators' ledgers and intakes, and the status topic between them, without a broker."""

from pathlib import Path

from intake_desk import Desk

from configs import Roots
from mediator.adoption import Adoption
from mediator.intake import Intake
from mediator.ledger import Ledger
from mediator.peers import SharedMemory, Told
from mediator.retelling import BATCH, MOST_OWED, Retelling

LEASE_S = 10.0


class Pair:
    """Two ledgers and one status topic that both have read to its end."""

    def __init__(self, folder: Path) -> None:
        self.log: list[tuple[bytes | None, bytes]] = []
        self.desks: list[Desk] = []
        self.adoptions: list[Adoption] = []
        self.memories: list[SharedMemory] = []
        self.taken = [0, 0]
        for number in range(2):
            (folder / str(number)).mkdir()
            desk = Desk(folder / str(number))
            memory = SharedMemory(desk.ledger.mediator, "jobs")
            roots = Roots.below(desk.project)
            desk.intake = Intake(desk.ledger, roots, memory)
            self.adoptions.append(Adoption(desk.ledger, memory, desk.intake.placement, roots))
            self.desks.append(desk)
            self.memories.append(memory)

    def publish(self, number: int) -> None:
        """Send what a ledger owes the status topic; nobody reads it yet."""
        ledger = self.desks[number].ledger
        entries = ledger.unsent(0, 10**6)
        self.log += [((e.key or "").encode(), e.payload) for e in entries if e.topic == "status"]
        ledger.mark_sent([e.entry_id for e in entries])

    def read(self, number: int) -> list[Told]:
        """Let a mediator read to the end; give what it was told."""
        new = self.log[self.taken[number] :]
        self.taken[number] = len(self.log)
        told = [self.memories[number].read(key, value) for key, value in new]
        for kept in (one.kept for one in told if one.kept is not None):
            self.adoptions[number].keep(kept)
        return told

    def take_over(self, number: int, job_id: str = "a") -> bool:
        """Let a mediator take over a job that it watches, its owner having gone."""
        watches = self.desks[number].ledger.watches()
        (watch,) = [watch for watch in watches if watch.job.job_id == job_id]
        known = self.memories[number].known(job_id)
        return self.adoptions[number].adopt(watch, known, LEASE_S)

    def owner(self, number: int, job_id: str = "a") -> int | None:
        """Give whose a job is, as a mediator sees it."""
        known = self.memories[number].known(job_id)
        ids = [memory.me for memory in self.memories]
        return None if known is None else ids.index(known.mediator)


def tell_again(ledger: Ledger, cluster: str) -> int:
    """Tell a cluster everything; give the number of jobs."""
    retelling = Retelling(ledger, cluster)
    while not retelling.step():
        owed = ledger.backlog(MOST_OWED + 2 * BATCH)
        assert owed < MOST_OWED + 2 * BATCH
        if owed >= MOST_OWED:
            ledger.mark_sent([entry.entry_id for entry in ledger.unsent(0, 300)])
    return retelling.told
