"""Over the wire: messages in, fake runners at work, events and dead letters out."""

import json

from mediator_bench import Bench, end, wait_for

from mediator.proc import tree_of
from mediator.states import ENDED


def states(events: list[dict]) -> list[str]:
    """Give the states told, in order."""
    return [e["state"] for e in events if e["kind"] == "state"]


def test_a_job_runs_and_everything_is_told(bench: Bench) -> None:
    """From the topic to its artifacts, with events without gaps and one end."""
    bench.start_and_listen()
    bench.train("a", "sleep:0.2+garbage")
    bench.wait_state("a", "succeeded")
    wait_for("events", lambda: "succeeded" in states(bench.events("a")))
    events = bench.events("a")
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    assert states(events) == ["queued", "running", "succeeded"]
    assert events[-1]["data"]["artifacts"] == ["checkpoints/step2"]
    kinds = [e["kind"] for e in events]
    assert kinds.count("checkpoint") == 1 and "progress" in kinds
    assert events[kinds.index("progress")]["data"]["loss"] is None
    assert (bench.logs / "a/runner.log").read_text() == "fake runner at work\n"
    assert len(bench.runs("a")) == 1
    assert json.loads((bench.logs / "a/job.json").read_text())["job_id"] == "a"
    assert end(bench.mediators[0]) == 0


def test_garbage_is_answered_and_the_mediator_goes_on(bench: Bench) -> None:
    """Every refusal has its letter; the job after them runs."""
    bench.start_and_listen()
    bench.send(b"{broken", key="k")
    bench.send(b"\xff\x00")
    bench.send(b"[" * 50_000)
    bench.train("../x")
    bench.train("b", nonsense=1)
    bench.train("c", mask_dirname="none")
    bench.send({"op": "delete"})
    bench.train("good")
    bench.wait_state("good", "succeeded")
    wait_for("letters", lambda: len(bench.letters()) == 7)
    letters = bench.letters()
    assert all(letter["reason"] and letter["original"] for letter in letters)
    assert {letter["job_id"] for letter in letters} == {None, "b", "c"}
    assert states(bench.events("b")) == ["rejected"]
    assert bench.log().count("refused") == 7
    assert {p.name for p in bench.logs.iterdir() if p.is_dir()} == {"good"}


def test_duplicates_run_once(bench: Bench) -> None:
    """Sent five times, while it waits, runs and is done; another spec is refused."""
    bench.start_and_listen()
    for _ in range(3):
        bench.train("a", "sleep:0.3")
    bench.wait_runs("a")
    bench.train("a", "sleep:0.3")
    bench.train("a", "sleep:9")
    bench.wait_state("a", "succeeded")
    bench.train("a", "sleep:0.3")
    bench.train("last")
    bench.wait_state("last", "succeeded")
    wait_for("events", lambda: len(bench.events("a")) >= 10)
    events = bench.events("a")
    assert len(bench.runs("a")) == 1
    assert sum(e["kind"] == "duplicate" for e in events) == 5
    assert sum(s in ENDED for s in states(events)) == 1
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    assert len(bench.letters()) == 1


def test_one_slot_one_job_at_a_time_in_order(bench: Bench) -> None:
    """A view job has its own slot; a dependent job starts after its checkpoint is there."""
    bench.start_and_listen()
    bench.train("t", f"hold:{bench.project / 'go'}")
    bench.wait_runs("t")
    base = {"data_dirname": "city", "mask_dirname": "g22", "checkpoint_path": "t"}
    bench.send({**base, "op": "eval", "job_id": "e", "dataset": "work"})
    bench.train("u", "work")
    (bench.logs / "example/checkpoints").mkdir(parents=True)
    (bench.logs / "example/checkpoints/index.json").write_text("{}")
    view = {**base, "checkpoint_path": "example", "op": "view", "job_id": "v", "dataset": "work"}
    bench.send(view)
    bench.wait_state("v", "succeeded")
    assert bench.job("e").state == bench.job("u").state == "queued"
    (bench.project / "go").write_text("")
    for name in ("t", "e", "u"):
        bench.wait_state(name, "succeeded")
    begun = [bench.job(name).started_at for name in ("t", "e", "u")]
    ended = [bench.job(name).ended_at for name in ("t", "e", "u")]
    assert ended[0] <= min(begun[1:]) and len(set(begun)) == 3
    assert (bench.logs / "t/runs.txt").exists()


def test_a_view_that_does_not_share_takes_the_slot_for_as_long_as_its_lease(bench: Bench) -> None:
    """Told so by its job: it waits for the training, and the next training waits for its end."""
    bench.start_and_listen()
    (bench.logs / "example/checkpoints").mkdir(parents=True)
    (bench.logs / "example/checkpoints/index.json").write_text("{}")
    bench.train("t", f"hold:{bench.project / 'go'}")
    bench.wait_runs("t")
    view = {"op": "view", "data_dirname": "city", "mask_dirname": "g22",
            "checkpoint_path": "example", "dataset": "sleep:60"}  # fmt: skip
    bench.send({**view, "job_id": "alone", "share_slot": False})
    bench.train("u")
    bench.send({**view, "job_id": "beside"})
    bench.wait_runs("beside")
    assert bench.state_is("alone", "queued") and bench.runs("alone") == []
    (bench.project / "go").write_text("")
    bench.wait_runs("alone")
    assert bench.job("alone").slot == bench.job("t").slot
    assert bench.state_is("u", "queued")
    bench.send({"op": "cancel", "job_id": "alone"})
    bench.wait_state("alone", "cancelled")
    bench.wait_state("u", "succeeded")
    assert bench.state_is("beside", "running")


def test_the_order_of_partitions_does_not_matter(bench: Bench) -> None:
    """An eval job published before its train job waits for it; one without is refused."""
    bench.start_and_listen()
    base = {"op": "eval", "data_dirname": "city", "mask_dirname": "g22", "dataset": "work"}
    bench.send({**base, "job_id": "e", "checkpoint_path": "t"})
    bench.send({**base, "job_id": "lonely", "checkpoint_path": "nobody"})
    bench.train("t")
    bench.wait_state("e", "succeeded")
    assert bench.job("e").waits_for == "t"
    bench.wait_state("lonely", "rejected")
    assert "no job or folder" in bench.job("lonely").reason


def test_a_failed_job_tells_why_and_takes_its_dependents_along(bench: Bench) -> None:
    """The runner's words, its exit code, and the reason of the one that waited."""
    bench.start_and_listen()
    bench.train("t", "sleep:0.5+fail")
    bench.wait_runs("t")
    base = {"op": "eval", "data_dirname": "city", "mask_dirname": "g22"}
    bench.send({**base, "job_id": "e", "checkpoint_path": "t"})
    failed = bench.wait_state("t", "failed")
    assert (failed.reason, failed.exit_code) == ("image 7 is missing", 11)
    assert "job t ended as failed" in bench.wait_state("e", "failed").reason
    bench.train("x", "exit:14")
    assert "memory" in bench.wait_state("x", "failed").reason


def test_a_slot_is_free_only_when_the_tree_is_gone(bench: Bench) -> None:
    """What a runner leaves behind is ended before the next job starts."""
    bench.start_and_listen()
    bench.train("messy", "grandchild+escapee")
    bench.wait_state("messy", "succeeded")
    bench.train("next")
    bench.wait_state("next", "succeeded")
    token = bench.job("messy").run_token
    assert token and tree_of(None, token) == []
