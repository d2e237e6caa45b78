"""Jobs that build on a job of another mediator, with log roots that are shared and that are not."""

import os
import signal

from mediator_bench import Bench, end, wait_for
from two_mediators import Two, base, ends, repeats

KEYS = tuple(f"key {number}" for number in range(6))


def evaluate(job_id: str, does: str = "work") -> dict[str, object]:
    """Give an eval job that builds on job `site`."""
    return base(job_id, does, op="eval", checkpoint_path="site", tto="0")


def waits(bench: Bench, job_id: str) -> list[str]:
    """Give the reasons told why a job waits for a mediator that has gone."""
    return [e["reason"] for e in bench.read_json(job_id) if e["kind"] == "waiting"]


def test_evals_run_at_both_where_the_log_roots_are_shared(two: Two) -> None:
    """The checkpoint is linked to the other one; the original stays as it was."""
    two.start(slots=4)
    two.one.send(base("site", "work"), key="site")
    trained = two.wait_owner("site", "succeeded")
    index = trained.logs / "site/checkpoints/index.json"
    before = (index.read_text(), index.stat().st_mtime_ns, index.stat().st_ino)
    names = [f"e{number}" for number in range(len(KEYS))]
    for name, key in zip(names, KEYS, strict=True):
        two.one.send(evaluate(name), key=key)
    owners = [two.wait_owner(name, "succeeded") for name in names]
    assert {bench.logs for bench in owners} == {bench.logs for bench in two.both}
    other = two.other(trained)
    assert (other.logs / "site/checkpoints/index.json").read_text() == index.read_text()
    assert other.job("site") is None and other.runs("site") == []
    assert (index.read_text(), index.stat().st_mtime_ns, index.stat().st_ino) == before


def test_evals_go_to_the_mediator_that_has_the_checkpoint(apart: Two) -> None:
    """Whatever partition they lie in; they wait there for a train job that still runs."""
    apart.start(slots=4)
    go = apart.one.project / "go"
    apart.one.send(base("site", f"hold:{go}"), key="site")
    trains = apart.wait_owner("site", "running")
    names = [f"e{number}" for number in range(len(KEYS))]
    for name, key in zip(names, KEYS, strict=True):
        apart.one.send(evaluate(name), key=key)
    wait_for("there", lambda: all(trains.job(name) for name in names))
    assert all(trains.runs(name) == [] for name in names)
    go.write_text("")
    assert all(apart.wait_owner(name, "succeeded") is trains for name in names)
    late = [f"late{number}" for number in range(len(KEYS))]
    for name, key in zip(late, KEYS, strict=True):
        apart.one.send(evaluate(name), key=key)
    assert all(apart.wait_owner(name, "succeeded") is trains for name in late)
    assert "left to mediator" in apart.other(trains).log()
    wait_for("told", lambda: all(ends(trains, name) for name in names + late))
    assert repeats(trains) == []


def _lose_owner(two: Two, go: object) -> tuple[Bench, Bench]:
    """Train at one mediator, give it an eval at work and one that waits, and kill -9 it."""
    mediators = two.start(max_attempts=9)
    two.one.send(base("site", "work"), key="site")
    lost = two.wait_owner("site", "succeeded")
    for name in ("runs", "waits"):
        two.one.send(evaluate(name, f"hold:{go}"), key="site")
    first = lost.wait_runs("runs")
    wait_for("accepted", lambda: lost.job("waits"))
    end(mediators[two.both.index(lost)], signal.SIGKILL)
    os.kill(first, signal.SIGKILL)
    return lost, two.other(lost)


def test_evals_of_a_mediator_that_vanished_run_elsewhere_on_shared_storage(two: Two) -> None:
    """With the checkpoint that they build on."""
    go = two.one.project / "go"
    _, kept = _lose_owner(two, go)
    go.write_text("")
    for name in ("runs", "waits"):
        wait_for("done", lambda name=name: kept.state_is(name, "succeeded"), 40)
        wait_for("told", lambda name=name: ends(kept, name))
        assert ends(kept, name) == ["succeeded"]
    assert (kept.logs / "site/checkpoints/index.json").is_file()


def test_without_shared_storage_they_wait_for_it_and_can_be_cancelled(apart: Two) -> None:
    """Why is said once, in the log and as an event; when it comes back, they run there."""
    go = apart.one.project / "go"
    lost, kept = _lose_owner(apart, go)
    wait_for("said", lambda: all(waits(kept, name) for name in ("runs", "waits")), 40)
    kept.send({"op": "cancel", "job_id": "waits"}, key="site")
    wait_for("cancelled", lambda: ends(kept, "waits"), 40)
    assert ends(kept, "waits") == ["cancelled"] and kept.state_is("waits", "cancelled")
    apart.one.send(evaluate("new"), key="site")
    wait_for("read", lambda: "job new: left to mediator" in kept.log())
    said = waits(kept, "runs")
    assert len(said) == 1 and kept.log().count("job runs: its mediator has gone") == 1
    assert "job site is at mediator" in said[0] and str(lost.logs) in said[0]
    apart.start_one(lost, max_attempts=9)
    go.write_text("")
    for name in ("runs", "new"):
        wait_for("done", lambda name=name: lost.state_is(name, "succeeded"), 40)
        wait_for("told", lambda name=name: ends(kept, name))
        assert ends(kept, name) == ["succeeded"]
    assert ends(kept, "waits") == ["cancelled"]


def test_a_mediator_that_said_goodbye_is_named_in_the_refusal(apart: Two) -> None:
    """With its log root and the mend; nothing waits for it."""
    mediators = apart.start()
    apart.one.send(base("site", "work"), key="site")
    lost = apart.wait_owner("site", "succeeded")
    kept = apart.other(lost)
    assert end(mediators[apart.both.index(lost)]) == 0
    kept.send(evaluate("e"), key="site")
    reason = kept.wait_state("e", "rejected", 40).reason or ""
    assert "job site is at mediator" in reason and str(lost.logs) in reason
    assert "start that mediator again" in reason and "side by side" in reason


def test_the_same_job_id_in_two_topics_names_two_jobs(two: Two) -> None:
    """Each topic has a status and an events topic of its own."""
    two.two.settings = type(two.two.settings)(
        two.one.address, jobs_topic=f"{two.one.settings.jobs_topic}-b", embedded=True
    )
    for bench in two.both:
        two.start_one(bench)
        bench.send(base("same", "work" if bench is two.one else "fail"))
    two.one.wait_state("same", "succeeded")
    two.two.wait_state("same", "failed")
    for bench, state in ((two.one, "succeeded"), (two.two, "failed")):
        wait_for("told", lambda bench=bench: ends(bench, "same"))
        assert ends(bench, "same") == [state]
        assert "serves topic" not in bench.log() and bench.letters() == []


def test_a_log_root_with_open_jobs_of_another_topic_is_refused(two: Two) -> None:
    """Their events would go to the wrong topics; the message names topic and mend."""
    mediator = two.start_one(two.one)
    two.one.send(base("a", "sleep:60"))
    two.one.wait_runs("a")
    assert end(mediator) == 0
    first = two.one.settings.jobs_topic
    two.one.settings = type(two.one.settings)(two.one.address, jobs_topic="other", embedded=True)
    assert two.one.start(logs=two.one.logs).wait(20) == 1
    assert f"holds unfinished jobs of topic {first};" in two.one.stderr.read_text()


def test_a_request_to_retry_a_job_that_nobody_knows_is_answered(two: Two) -> None:
    """By a letter with the reason; no job comes of it, and one of that id may still come."""
    two.start()
    two.one.send({"op": "retry", "job_id": "ghost"}, key="ghost")
    wait_for("letter", two.one.letters)
    (letter,) = two.one.letters()
    assert "no mediator knows such a job" in letter["reason"]
    assert letter["errors"][0]["field"] == "job_id" and two.owner("ghost") is None
    two.one.send(base("ghost", "work"), key="ghost")
    two.wait_owner("ghost", "succeeded")
