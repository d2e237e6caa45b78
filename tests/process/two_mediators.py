"""Two mediators with log roots of their own on one topic, for tests over the wire."""

import json
import subprocess
from pathlib import Path

from mediator_bench import Bench, wait_for

LEASE_S = 4


class Two:
    """Two benches on one topic: each has its own log root, both see the same data.

    Args:
        folder: where all lies.
        address: the broker's.
        shared: the log roots lie side by side, so each can read the other's.
    """

    def __init__(self, folder: Path, address: str, *, shared: bool = True) -> None:
        roots = [folder / "fleet/one", folder / ("fleet" if shared else "away") / "two"]
        self.one = Bench(folder / "one", address, roots[0])
        self.two = Bench(folder / "two", address, roots[1])
        self.two.settings = self.one.settings

    @property
    def both(self) -> tuple[Bench, Bench]:
        """Both."""
        return self.one, self.two

    def start(self, **options: object) -> list[subprocess.Popen[str]]:
        """Start both and wait until they know of each other."""
        mediators = [self.start_one(bench, **options) for bench in self.both]
        for bench in self.both:
            wait_for("company", lambda bench=bench: "serves topic" in bench.log())
            wait_for("part", lambda bench=bench: _partitions(bench.log()) in (1, 2, 3))
        return mediators

    def start_one(self, bench: Bench, **options: object) -> subprocess.Popen[str]:
        """Start one of them and wait until it takes messages."""
        return bench.start_and_listen(lease_s=LEASE_S, logs=bench.logs, **options)

    def other(self, bench: Bench) -> Bench:
        """Give the other one."""
        return self.two if bench is self.one else self.one

    def owner(self, job_id: str) -> Bench | None:
        """Give the bench whose ledger has the job."""
        return next((b for b in self.both if b.job(job_id) is not None), None)

    def state(self, job_id: str) -> str:
        """Give a job's state, wherever it is."""
        owner = self.owner(job_id)
        job = None if owner is None else owner.job(job_id)
        return "" if job is None else str(job.state)

    def wait_owner(self, job_id: str, state: str) -> Bench:
        """Wait until a job is in a state somewhere; give where."""
        wait_for(f"{job_id} {state}", lambda: self.state(job_id) == state, 40)
        owner = self.owner(job_id)
        assert owner is not None
        return owner


def base(job_id: str, does: str, **more: object) -> dict[str, object]:
    """Give a train job, unless `more` makes it another."""
    return {"op": "train", "data_dirname": "city", "mask_dirname": "g22", "job_id": job_id,
            "dataset": does, **more}  # fmt: skip


def ends(bench: Bench, job_id: str) -> list[str]:
    """Give the ends told of a job."""
    ended = ("succeeded", "failed", "cancelled", "timed_out")
    events = [e for e in bench.events(job_id) if e["kind"] == "state" and e["seq"]]
    return [e["state"] for e in events if e["state"] in ended]


def repeats(bench: Bench) -> list[tuple[str, int]]:
    """Give what the events topic holds more than once: job and sequence number."""
    seen: set[tuple[str, int]] = set()
    found = []
    for message in bench.read_events():
        event = json.loads(message.value or b"{}")
        place = (event["job_id"], event["seq"])
        if event["seq"] and place in seen:
            found.append(place)
        seen.add(place)
    return found


def _partitions(log: str) -> int:
    """Give how many of the topic's partitions a mediator has, by its log."""
    held: set[int] = set()
    for line in log.splitlines():
        if "partitions assigned: [" in line or "partitions revoked: [" in line:
            numbers = set(json.loads(line[line.index("[") :]))
            held = held | numbers if "assigned" in line else held - numbers
    return len(held)
