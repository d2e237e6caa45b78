"""Cancel and retry at each stage of a job's life, limits, draining and leaving runners alone."""

import os
import signal

import pytest
from mediator_bench import Bench, alive, end, wait_for

from mediator.proc import tree_of


def cancel(bench: Bench, job_id: str) -> None:
    """Publish a request to cancel, in order with the jobs."""
    bench.send({"op": "cancel", "job_id": job_id})


def ends(bench: Bench, job_id: str) -> list[str]:
    """Give the ends told of a job."""
    told = [e["state"] for e in bench.events(job_id) if e["kind"] == "state"]
    return [s for s in told if s in ("succeeded", "failed", "cancelled", "timed_out")]


@pytest.mark.parametrize("stage", ["before", "queued", "running", "deaf", "across a restart"])
def test_cancelled_at_any_stage_it_ends_once(bench: Bench, stage: str) -> None:
    """One end, no process left, and the slot serves the next job."""
    mediator = bench.start_and_listen()
    if stage == "before":
        cancel(bench, "a")
    if stage == "queued":
        bench.train("first", f"hold:{bench.project / 'go'}")
    bench.train("a", "deaf+grandchild+sleep:60" if stage == "deaf" else "grandchild+sleep:60")
    if stage == "queued":
        wait_for("queued", lambda: bench.job("a"))
    elif stage != "before":
        bench.wait_runs("a")
    if stage == "across a restart":
        end(mediator, signal.SIGKILL)
    if stage != "before":
        cancel(bench, "a")
    if stage == "across a restart":
        bench.start_and_listen()
    job = bench.wait_state("a", "cancelled", 40)
    (bench.project / "go").write_text("")
    assert "cancelled by" in (job.reason or "")
    assert not job.run_token or tree_of(None, job.run_token) == []
    bench.train("next")
    bench.wait_state("next", "succeeded")
    wait_for("told", lambda: ends(bench, "a"))
    assert ends(bench, "a") == ["cancelled"]
    assert len(bench.runs("a")) == (0 if stage in ("before", "queued") else 1)


def test_a_request_that_comes_too_late_changes_nothing(bench: Bench) -> None:
    """It is answered by an event of its own."""
    bench.start_and_listen()
    bench.train("a")
    bench.wait_state("a", "succeeded")
    cancel(bench, "a")
    bench.send({"op": "retry", "job_id": "a"})
    wait_for("answers", lambda: sum(e["kind"] == "control" for e in bench.events("a")) == 2)
    assert bench.state_is("a", "succeeded") and ends(bench, "a") == ["succeeded"]


def test_a_failed_job_is_run_anew_on_request(bench: Bench) -> None:
    """Under the same id and the next epoch, with an end of its own."""
    bench.start_and_listen()
    bench.train("a", "fail")
    bench.wait_state("a", "failed")
    bench.send({"op": "retry", "job_id": "a"})
    wait_for("again", lambda: len(bench.runs("a")) == 2 and bench.state_is("a", "failed"))
    job = bench.job("a")
    assert job is not None and (job.epoch, job.attempt) == (2, 2)
    wait_for("told", lambda: len(ends(bench, "a")) == 2)


def test_a_killed_runner_is_tried_again_and_bad_data_is_not(bench: Bench) -> None:
    """Up to the attempts allowed; each attempt has its own token and one end in all."""
    bench.start_and_listen(max_attempts=2)
    bench.train("a", "sleep:60")
    os.kill(bench.wait_runs("a"), signal.SIGKILL)
    os.kill(bench.wait_runs("a", 2), signal.SIGKILL)
    failed = bench.wait_state("a", "failed")
    assert "SIGKILL" in (failed.reason or "") and len(bench.runs("a")) == 2
    bench.train("b", "fail")
    bench.wait_state("b", "failed")
    assert len(bench.runs("b")) == 1
    wait_for("told", lambda: ends(bench, "a"))
    assert ends(bench, "a") == ["failed"]


@pytest.mark.parametrize("option", ["run_s", "progress_s"])
def test_a_job_out_of_time_is_ended(bench: Bench, option: str) -> None:
    """For running too long or standing still; its processes are gone."""
    bench.start_and_listen(**{option: 0.5})
    bench.train("a", "sleep:60")
    job = bench.wait_state("a", "timed_out")
    assert "longer than 0.5 s" in (job.reason or "")
    assert tree_of(None, job.run_token or "-") == []


def test_a_job_that_waits_too_long_is_ended(bench: Bench) -> None:
    """Without ever running."""
    bench.start_and_listen(wait_s=2)
    bench.train("first", f"hold:{bench.project / 'go'}")
    bench.train("a")
    assert "waited for longer" in (bench.wait_state("a", "timed_out").reason or "")
    assert bench.runs("a") == []


def test_detached_runners_work_on_and_are_found_again(bench: Bench) -> None:
    """A clean stop that interrupts nothing."""
    mediator = bench.start_and_listen(detach=True)
    bench.train("a", f"hold:{bench.project / 'go'}")
    runner = bench.wait_runs("a")
    wait_for("recorded", lambda: bench.job("a").process)
    assert end(mediator) == 0
    assert alive(runner)
    bench.start_and_listen()
    (bench.project / "go").write_text("")
    assert bench.wait_state("a", "succeeded").attempt == 1
    assert bench.runs("a") == [runner]


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(
    ("who", "stage"),
    [
        ("mediator", "queued"),
        ("mediator", "running"),
        ("mediator", "ending"),
        ("runner", "running"),
        ("runner", "ending"),
    ],
)
def test_whoever_dies_whenever_the_job_comes_to_one_end(
    bench: Bench, kill: signal.Signals, stage: str, who: str
) -> None:
    """Kill method by stage of life: nothing lost, nothing done twice, nothing left."""
    mediator = bench.start_and_listen(max_attempts=5)
    does = {"queued": "work", "running": "sleep:0.4", "ending": "grandchild"}[stage]
    if stage == "queued":
        bench.train("first", f"hold:{bench.project / 'go'}")
    bench.train("a", does)
    if stage == "queued":
        wait_for("queued", lambda: bench.job("a"))
    else:
        runner = bench.wait_runs("a")
        if who == "runner" and alive(runner):
            os.kill(runner, kill)
    if who == "mediator":
        end(mediator, kill)
        bench.start(max_attempts=5)
    (bench.project / "go").write_text("")
    job = bench.wait_state("a", "succeeded", 40)
    assert tree_of(None, job.run_token or "-") == []
    assert len(list((bench.logs / "a").glob("result*.json"))) == 1
    wait_for("told", lambda: ends(bench, "a"))
    assert ends(bench, "a") == ["succeeded"]
