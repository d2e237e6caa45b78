"""Two mediators with log roots of their own on one topic, over the wire."""

import os
import shutil
import signal
from collections import Counter

import pytest
from mediator_bench import alive, end, wait_for
from two_mediators import LEASE_S, Two, base, ends, repeats


def test_jobs_are_shared_and_copies_run_once(two: Two) -> None:
    """Each job goes to one mediator, even when copies of it lie in several partitions."""
    two.start(slots=2)
    names = [f"j{number}" for number in range(16)]
    for number, name in enumerate(names):
        keys = (name, f"copy {name}", None) if number < 6 else (name,)
        for key in keys:
            two.one.send(base(name, "work"), key=key)
    wait_for("all", lambda: all(two.state(name) == "succeeded" for name in names), 60)
    runs = Counter({name: sum(len(bench.runs(name)) for bench in two.both) for name in names})
    assert set(runs.values()) == {1}
    assert all(bench.runs(name) for bench in two.both for name in names if bench.job(name))
    assert all(any(bench.job(name) for name in names) for bench in two.both)
    wait_for("told", lambda: all(ends(two.one, name) for name in names))
    assert repeats(two.one) == []


@pytest.mark.parametrize("disk", ["kept", "lost"])
def test_jobs_of_a_mediator_that_vanished_run_elsewhere(two: Two, disk: str) -> None:
    """Running and queued ones; when it comes back, with or without its disk, it gives way.

    From the last checkpoint where it can be reached.
    """
    mediators = two.start(max_attempts=9)
    names = [f"j{number}" for number in range(6)]
    go = two.one.project / "go"
    for name in names:
        two.one.send(base(name, f"saves+hold:{go}"), key=name)
    wait_for("accepted", lambda: all(two.owner(name) for name in names))
    lost, kept = two.both
    theirs = [name for name in names if lost.job(name)]
    wait_for("running", lambda: any(lost.runs(name) for name in theirs))
    end(mediators[0], signal.SIGKILL)
    for name in theirs:
        for pid in lost.runs(name):
            os.kill(pid, signal.SIGKILL)
    begun = [name for name in theirs if lost.runs(name)]
    if disk == "lost":
        shutil.rmtree(lost.logs)
    wait_for("taken over", lambda: all(kept.job(name) for name in theirs), 40)
    lost.start_and_listen(lease_s=LEASE_S, logs=lost.logs, max_attempts=9)
    if disk == "kept":
        wait_for("gave way", lambda: lost.log().count("given up here") >= len(theirs), 40)
    go.write_text("")
    wait_for("done", lambda: all(kept.state_is(name, "succeeded") for name in names), 60)
    wait_for("told", lambda: all(ends(two.one, name) for name in names), 30)
    assert all(ends(two.one, name) == ["succeeded"] for name in names)
    assert all(kept.job(name).epoch == (2 if name in theirs else 1) for name in names)
    for name in names:
        went_on = "going on from" in (kept.logs / name / "runner.log").read_text()
        assert went_on == (disk == "kept" and name in begun)


def test_a_mediator_cut_off_for_long_is_fenced(two: Two) -> None:
    """Stopped beyond its lease while its runner works on: the other one's word counts."""
    mediators = two.start()
    go = two.one.project / "go"
    two.one.send(base("a", f"hold:{go}"), key="a")
    wait_for("running", lambda: two.state("a") == "running")
    old = two.owner("a")
    assert old is not None
    new = two.two if old is two.one else two.one
    stopped = mediators[two.both.index(old)]
    first = old.wait_runs("a")
    stopped.send_signal(signal.SIGSTOP)
    new.wait_runs("a")
    stopped.send_signal(signal.SIGCONT)
    wait_for("fenced", lambda: "given up here" in old.log(), 30)
    wait_for("ended", lambda: not alive(first))
    go.write_text("")
    new.wait_state("a", "succeeded")
    wait_for("told", lambda: ends(new, "a"))
    assert old.job("a") is None and ends(new, "a") == ["succeeded"]


def test_mediators_that_found_the_same_broker_by_chance_share_its_jobs(two: Two) -> None:
    """Whatever their log roots and groups: each job runs once, and each log says who is there."""
    for number, bench in enumerate(two.both):
        bench.start_and_listen(lease_s=LEASE_S, logs=bench.logs, group=f"group {number}")
    for bench, other in (two.both, two.both[::-1]):
        wait_for("company", lambda bench=bench: "give one of the two another" in bench.log())
        assert f"log root {other.logs}" in bench.log()
    names = [f"j{number}" for number in range(8)]
    for name in names:
        two.one.send(base(name, "work"), key=name)
    wait_for("all", lambda: all(two.state(name) == "succeeded" for name in names), 60)
    assert all(sum(len(bench.runs(name)) for bench in two.both) == 1 for name in names)


def test_a_clean_stop_hands_over_at_once(two: Two) -> None:
    """Goodbye is said: nobody waits for the lease."""
    mediators = two.start()
    names = [f"j{number}" for number in range(8)]
    go = two.one.project / "go"
    for name in names:
        two.one.send(base(name, f"hold:{go}"), key=name)
    wait_for("accepted", lambda: all(two.owner(name) for name in names))
    assert end(mediators[0]) == 0
    go.write_text("")
    wait_for("done", lambda: all(two.two.state_is(name, "succeeded") for name in names), 60)


def test_a_cancel_reaches_the_mediator_that_has_the_job(two: Two) -> None:
    """Whatever partition the request lies in."""
    two.start()
    two.one.send(base("a", "sleep:60"), key="a")
    wait_for("running", lambda: two.state("a") == "running")
    for key in ("one", "two", "three", "four"):
        two.one.send({"op": "cancel", "job_id": "a"}, key=key)
    wait_for("cancelled", lambda: two.state("a") == "cancelled")
    owner = two.owner("a")
    assert owner is not None
    wait_for("told", lambda: ends(owner, "a"))
    assert ends(owner, "a") == ["cancelled"]
