"""Two mediators: requests, forgetful brokers and ids taken twice, beside kill -9, over the wire."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from mediator_bench import Bench, end, running_broker, wait_for
from two_mediators import Two, base, ends

from mediator.events import Topics
from mediator.ledger import Ledger

TAKEN_S = 40


def kill(bench: Bench, mediator: subprocess.Popen[str], *jobs: str) -> None:
    """Let a mediator and the runners of some jobs vanish."""
    end(mediator, signal.SIGKILL)
    for pid in (pid for job_id in jobs for pid in bench.runs(job_id)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_job_queued_anew_and_then_orphaned_runs_elsewhere(two: Two) -> None:
    """Nor is it cancelled by the request that ended it before it was queued anew."""
    mediators = dict(zip((id(b) for b in two.both), two.start(), strict=True))
    go = two.one.project / "go"
    two.one.send(base("first", f"hold:{go}"), key="k")
    owner = two.wait_owner("first", "running")
    owner.send(base("x", f"hold:{go}"), key="k")
    wait_for("x", lambda: owner.state_is("x", "queued"))
    owner.send({"op": "cancel", "job_id": "x"}, key="k")
    wait_for("cancelled", lambda: owner.state_is("x", "cancelled"))
    owner.send({"op": "cancel", "job_id": "first"}, key="k")
    wait_for("cancelled", lambda: owner.state_is("first", "cancelled"))
    # now nothing holds the partition's offset back, so whoever gets it begins behind the messages
    wait_for("told", lambda: ends(two.one, "first") and ends(two.one, "x"))
    owner.send({"op": "retry", "job_id": "x"}, key="k")
    wait_for("running", lambda: owner.state_is("x", "running"))
    other = two.other(owner)
    wait_for("watched", lambda: _watches(other, "x"))
    kill(owner, mediators[id(owner)], "x")
    wait_for("taken over", lambda: other.state_is("x", "running"), TAKEN_S)
    go.write_text("")
    wait_for("done", lambda: other.state_is("x", "succeeded"))
    wait_for("told", lambda: ends(two.one, "x")[-1:] == ["succeeded"])
    assert ends(two.one, "x") == ["cancelled", "succeeded"]
    job = other.job("x")
    assert job is not None and job.epoch == 3


def test_a_request_about_a_lost_mediators_job_is_answered_and_done_when_it_is_back(
    two: Two,
) -> None:
    """The job has ended there, so nobody takes it over; who asks is told what it waits for."""
    mediators = dict(zip((id(b) for b in two.both), two.start(), strict=True))
    go = two.one.project / "go"
    two.one.send(base("x", f"hold:{go}"))
    owner = two.wait_owner("x", "running")
    owner.send({"op": "cancel", "job_id": "x"})
    wait_for("told", lambda: ends(two.one, "x") == ["cancelled"])
    kill(owner, mediators[id(owner)])
    go.write_text("")
    two.one.send({"op": "retry", "job_id": "x"})
    other = two.other(owner)
    wait_for("read", lambda: "request to retry" in other.log(), TAKEN_S)
    kill(other, mediators[id(other)])  # what it heard is lost, what it is to answer is not
    two.start_one(other)
    wait_for("answered", lambda: _waiting(two.one, "x"), TAKEN_S)
    (event,) = _waiting(two.one, "x")
    assert "request to retry" in event["reason"] and str(owner.logs) in event["reason"]
    two.start_one(owner)
    wait_for("done", lambda: owner.state_is("x", "succeeded"), TAKEN_S)
    assert two.one.letters() == []


def test_jobs_outlive_the_broker_and_then_their_mediator(tmp_path: Path) -> None:
    """The broker's log is lost with it, and with the log the messages of the unfinished jobs."""
    with contextlib.ExitStack() as stack:
        address, broker = stack.enter_context(running_broker(tmp_path))
        two = Two(tmp_path, address)
        for bench in two.both:
            stack.callback(bench.close)
        mediators = dict(zip((id(b) for b in two.both), two.start(), strict=True))
        go = tmp_path / "go"
        names = [f"q{number}" for number in range(3)]
        for name in names:
            two.one.send(base(name, f"hold:{go}"), key="k")
        owner = two.wait_owner("q0", "running")
        wait_for("queued", lambda: all(owner.job(name) for name in names))
        broker.kill()
        broker.wait()
        (tmp_path / "again").mkdir()
        port = int(address.rpartition(":")[2])
        stack.enter_context(running_broker(tmp_path / "again", port))
        other = two.other(owner)
        wait_for("watched", lambda: all(_watches(other, name) for name in names), TAKEN_S)
        kill(owner, mediators[id(owner)], "q0")
        wait_for("taken over", lambda: all(other.job(name) for name in names), TAKEN_S)
        go.write_text("")
        wait_for("done", lambda: all(other.state_is(n, "succeeded") for n in names), TAKEN_S)


def test_what_lies_behind_a_long_job_is_answered_once_when_its_partition_goes(two: Two) -> None:
    """Refused messages and requests long done with are read again by who takes the job over."""
    mediators = dict(zip((id(b) for b in two.both), two.start(), strict=True))
    go = two.one.project / "go"
    two.one.send(base("long", f"hold:{go}"))
    owner = two.wait_owner("long", "running")
    for number in range(5):
        two.one.send(f"garbage {number}".encode())
    two.one.send(base("long", "another spec"))
    two.one.send(base("x", f"hold:{go}"))
    wait_for("queued", lambda: owner.state_is("x", "queued"))
    two.one.send({"op": "cancel", "job_id": "x"})
    wait_for("cancelled", lambda: owner.state_is("x", "cancelled"))
    wait_for("letters", lambda: len(two.one.letters()) == 6)
    end(mediators[id(owner)], signal.SIGTERM)
    other = two.other(owner)
    wait_for("taken over", lambda: other.state_is("long", "running"), TAKEN_S)
    wait_for("read", lambda: other.log().count("answered by another mediator before") == 6)
    two.one.send(b"fresh garbage")
    wait_for("answered", lambda: len(two.one.letters()) == 7)
    assert ends(two.one, "x") == ["cancelled"]
    go.write_text("")
    wait_for("done", lambda: other.state_is("long", "succeeded"), TAKEN_S)


def test_of_two_specs_under_one_id_at_one_moment_one_is_refused(two: Two) -> None:
    """Whichever mediator reads them, each message has one outcome."""
    two.start()
    names = [f"c{number}" for number in range(8)]
    for name in names:
        for number in range(4):
            two.one.send(base(name, "work", batch_rays=1024 + number), key=f"key {number}")
    wait_for("run", lambda: all(two.state(name) == "succeeded" for name in names), TAKEN_S)
    wait_for("letters", lambda: len(two.one.letters()) == 3 * len(names))
    assert all("another spec" in letter["reason"] for letter in two.one.letters())
    assert all(ends(two.one, name) == ["succeeded"] for name in names)


def _waiting(bench: Bench, job_id: str) -> list[dict[str, Any]]:
    return [event for event in bench.events(job_id) if event["kind"] == "waiting"]


def _watches(bench: Bench, job_id: str) -> bool:
    ledger = Ledger(bench.logs, Topics("s", "e", "d"), read_only=True)
    try:
        return any(watch.job.job_id == job_id for watch in ledger.watches())
    finally:
        ledger.close()
