"""The ledger survives kill -9 at any moment: whole transactions or none."""

import random
import signal
import subprocess
import sys
from pathlib import Path

from mediator_bench import wait_for

from mediator.events import Topics
from mediator.ledger import Ledger
from mediator.ledger_file import hold_lock
from mediator.records import NewJob, Source
from mediator.states import JobState

WRITER = """
import sys
from pathlib import Path
from mediator.events import Topics
from mediator.ledger import Ledger
from mediator.ledger_file import hold_lock
from mediator.records import NewJob, Source

with hold_lock(Path(sys.argv[1])):
    ledger = Ledger(Path(sys.argv[1]), Topics("s", "e", "d"))
    for n in range(int(sys.argv[2]), 10**6):
        ledger.accept(Source("c", "t", 0, n), NewJob(f"j{n}", "train", "{}", "h"))
        print(n, flush=True)
"""

HALF_WAY = """
import sys, time
from pathlib import Path
from mediator.events import Topics
from mediator.ledger import Ledger
from mediator.records import NewJob, Source

ledger = Ledger(Path(sys.argv[1]), Topics("s", "e", "d"))
with ledger.transaction():
    ledger._note_source(Source("c", "t", 0, 77), "half", "accepted")
    ledger._write_received(NewJob("half", "train", "{}", "h"))
    print("inside", flush=True)
    time.sleep(60)
"""


def writer(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a program that writes the ledger."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_kill_inside_a_transaction_leaves_nothing_of_it(tmp_path: Path) -> None:
    """And the ledger opens as if it had never begun."""
    Ledger(tmp_path, Topics("s", "e", "d")).close()
    process = writer(HALF_WAY, tmp_path)
    assert process.stdout is not None and process.stdout.readline() == "inside\n"
    process.kill()
    process.wait()
    process.stdout.close()
    ledger = Ledger(tmp_path, Topics("s", "e", "d"))
    assert ledger.jobs() == []
    assert not ledger.has_seen(Source("c", "t", 0, 77))
    ledger.accept(Source("c", "t", 0, 77), NewJob("half", "train", "{}", "h"))
    ledger.close()


def test_random_kills_lose_nothing_that_was_confirmed(tmp_path: Path) -> None:
    """Each confirmed job is there whole; the lock never outlives its holder."""
    chance = random.Random(0)
    confirmed = -1
    for _ in range(6):
        process = writer(WRITER, tmp_path, confirmed + 2)
        assert process.stdout is not None
        for _ in range(chance.randrange(1, 60)):
            confirmed = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
        confirmed = max([confirmed, *map(int, rest)])
        process.stdout.close()
        process.wait()
        with hold_lock(tmp_path):
            ledger = Ledger(tmp_path, Topics("s", "e", "d"))
            _check_whole(ledger, confirmed)
            ledger.close()


def _check_whole(ledger: Ledger, confirmed: int) -> None:
    jobs = {job.job_id for job in ledger.jobs(JobState.QUEUED)}
    assert f"j{confirmed}" in jobs
    claims = [entry.key for entry in ledger.unsent(0, 10**6)]
    assert jobs <= set(claims)
    ledger.mark_claimed([(name, 1) for name in jobs])
    owed = [entry.key for entry in ledger.unsent(0, 10**6)]
    for name in jobs:
        assert ledger.has_seen(Source("c", "t", 0, int(name[1:])))
        assert owed.count(name) == 2


def test_the_lock_is_free_after_a_kill(tmp_path: Path) -> None:
    """The kernel drops it with the process."""
    process = writer(WRITER, tmp_path, 0)
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()

    def free() -> bool:
        with hold_lock(tmp_path):
            return True

    assert wait_for("lock", free)
