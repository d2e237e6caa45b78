"""Ends and beginnings: SIGTERM, kill -9, a broker that is away, and what the next start does."""

import contextlib
import json
import os
import re
import signal
import socket
from pathlib import Path

from mediator_bench import Bench, alive, end, running_broker, wait_for


def states(bench: Bench, job_id: str) -> list[str]:
    """Give the states told of a job, in order."""
    return [e["state"] for e in bench.events(job_id) if e["kind"] == "state"]


def test_sigterm_lets_runners_save_and_the_next_start_goes_on(bench: Bench) -> None:
    """Exit code 0, no process left, the job interrupted, then run again to its end."""
    mediator = bench.start_and_listen()
    bench.train("a", f"hold:{bench.project / 'go'}")
    bench.train("b")
    runner = bench.wait_runs("a")
    assert end(mediator) == 0
    assert not alive(runner)
    assert bench.job("a").state == "interrupted" and bench.job("b").state == "queued"
    assert states(bench, "a") == ["queued", "running", "interrupted"]
    (bench.project / "go").write_text("")
    bench.start()
    assert bench.wait_state("a", "succeeded").attempt == 2
    bench.wait_state("b", "succeeded")
    wait_for("events", lambda: states(bench, "a")[-1] == "succeeded")
    assert states(bench, "a")[3:] == ["queued", "running", "succeeded"]
    for name in ("progress.jsonl", "runner.log"):
        assert (bench.logs / "a/attempts/1" / name).exists() and (bench.logs / "a" / name).exists()
    assert (bench.logs / "a/runner.log").read_text().count("at work") == 1


def test_a_deaf_runner_is_killed_after_its_grace(bench: Bench) -> None:
    """The mediator still ends cleanly; the job is not lost."""
    mediator = bench.start_and_listen(grace_s=0.3)
    bench.train("a", "deaf+grandchild+sleep:60")
    runner = bench.wait_runs("a")
    assert end(mediator, signal.SIGINT) == 0
    assert not alive(runner)
    job = bench.job("a")
    assert job.state == "interrupted" and "killed after its grace" in job.reason


def test_a_second_signal_hurries(bench: Bench) -> None:
    """The long grace is cut short."""
    mediator = bench.start_and_listen(grace_s=300)
    bench.train("a", "deaf+sleep:60")
    bench.wait_runs("a")
    mediator.send_signal(signal.SIGTERM)
    wait_for("stopping", lambda: "asked to stop" in bench.log())
    assert end(mediator) == 0
    assert bench.job("a").state == "interrupted"


def test_a_living_runner_is_taken_up_again(bench: Bench) -> None:
    """Kill -9 of the mediator neither kills nor repeats a job."""
    mediator = bench.start_and_listen()
    bench.train("a", f"hold:{bench.project / 'go'}")
    runner = bench.wait_runs("a")
    wait_for("recorded", lambda: bench.job("a").process)
    end(mediator, signal.SIGKILL)
    assert alive(runner)
    bench.start_and_listen()
    bench.train("b")
    wait_for("b queued", lambda: bench.job("b"))
    assert "found running" in bench.log() and bench.job("b").state == "queued"
    (bench.project / "go").write_text("")
    assert bench.wait_state("a", "succeeded").attempt == 1
    bench.wait_state("b", "succeeded")
    assert bench.runs("a") == [runner]
    wait_for("events", lambda: states(bench, "a")[-1] == "succeeded")
    assert states(bench, "a") == ["queued", "running", "succeeded"]


def test_a_runner_taken_up_again_is_stopped_by_sigterm(bench: Bench) -> None:
    """Though its exit code cannot be seen, it is interrupted and runs again."""
    mediator = bench.start_and_listen()
    bench.train("a", f"hold:{bench.project / 'go'}")
    runner = bench.wait_runs("a")
    end(mediator, signal.SIGKILL)
    second = bench.start_and_listen()
    assert end(second) == 0
    assert not alive(runner)
    assert bench.job("a").state == "interrupted"


def test_a_runner_that_died_meanwhile_is_judged_by_its_files(bench: Bench) -> None:
    """Done while nobody looked: succeeded. Gone without a word: failed."""
    mediator = bench.start_and_listen(slots=2)
    bench.train("done", f"hold:{bench.project / 'go'}")
    bench.train("lost", "sleep:60")
    runners = [bench.wait_runs("done"), bench.wait_runs("lost")]
    end(mediator, signal.SIGKILL)
    (bench.project / "go").write_text("")
    os.kill(runners[1], signal.SIGKILL)
    wait_for("both gone", lambda: not any(map(alive, runners)))
    bench.start()
    bench.wait_state("done", "succeeded")
    assert bench.wait_state("lost", "failed").reason == "mediator restarted; runner gone"


def test_messages_sent_while_nobody_listens_wait(bench: Bench) -> None:
    """A new group begins with the oldest message; a restart repeats none."""
    bench.train("early")
    mediator = bench.start()
    bench.wait_state("early", "succeeded")
    end(mediator, signal.SIGKILL)
    bench.train("between")
    bench.start()
    bench.wait_state("between", "succeeded")
    assert len(bench.runs("early")) == 1
    assert "duplicate" not in bench.log()


def test_two_mediators_cannot_share_a_log_root(bench: Bench) -> None:
    """The second one says so and ends."""
    bench.start_and_listen()
    second = bench.start()
    assert second.wait(20) == 1
    assert "held by another mediator" in (bench.project / "stderr.txt").read_text()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_broker_that_is_down_is_waited_for(bench: Bench, tmp_path: Path) -> None:
    """With the reason in the log; jobs at hand go on; it works when the broker comes."""
    bench.train("a", f"hold:{bench.project / 'go'}")
    first = bench.start_and_listen()
    runner = bench.wait_runs("a")
    end(first, signal.SIGKILL)
    port = _free_port()
    mediator = bench.start(broker=f"127.0.0.1:{port}")
    wait_for("reason", lambda: "waiting for the broker: no Kafka broker answers" in bench.log())
    (bench.project / "go").write_text("")
    bench.wait_state("a", "succeeded")
    assert bench.runs("a") == [runner]
    with running_broker(tmp_path, port):
        wait_for("listening", lambda: bench.log().count("listening on topic") == 2)
        assert end(mediator) == 0


def test_waiting_for_a_broker_ends_by_signal_or_deadline(bench: Bench) -> None:
    """SIGTERM: exit code 0. `--broker-wait-s`: exit code 1 with the reason."""
    address = f"127.0.0.1:{_free_port()}"
    mediator = bench.start(broker=address)
    wait_for("reason", lambda: "waiting for the broker" in bench.log())
    assert end(mediator) == 0
    mediator = bench.start(broker=address, broker_wait_s=1)
    assert mediator.wait(20) == 1
    assert "waited 1 s" in (bench.project / "stderr.txt").read_text()


def test_a_broker_that_goes_and_comes_back_loses_nothing(bench: Bench, tmp_path: Path) -> None:
    """Jobs go on, their events are kept and sent to the new one."""
    port = _free_port()
    with contextlib.ExitStack() as ends:
        with running_broker(tmp_path, port) as (address, broker):
            other = ends.enter_context(contextlib.closing(Bench(tmp_path / "other", address)))
            other.start_and_listen()
            other.train("a", f"hold:{tmp_path / 'go'}")
            other.wait_runs("a")
            wait_for("told", lambda: states(other, "a") == ["queued", "running"])
            end(broker, signal.SIGKILL)
            (tmp_path / "go").write_text("")
            other.wait_state("a", "succeeded")
        ends.enter_context(running_broker(tmp_path, port))
        wait_for("told", lambda: states(other, "a")[-1:] == ["succeeded"], 30)
        other.train("b")
        other.wait_state("b", "succeeded")
        assert end(other.mediators[0]) == 0


def test_a_clean_up_frees_the_names(bench: Bench) -> None:
    """Ended jobs are forgotten; the same job may then be sent again, and is run again."""
    mediator = bench.start_and_listen()
    bench.train("a")
    bench.wait_state("a", "succeeded")
    (bench.logs / "stray").write_text("")
    assert end(mediator) == 0
    bench.start_and_listen(cleanup=True)
    assert bench.job("a") is None
    assert not (bench.logs / "a").exists() and not (bench.logs / "stray").exists()
    bench.train("a")
    bench.wait_state("a", "succeeded")
    assert "duplicate" not in bench.log()


def test_without_a_named_broker_one_is_found_or_started(bench: Bench) -> None:
    """Its address is told plainly; a started one outlives the mediator."""
    mediator = bench.start(broker="none")
    state = bench.logs / "broker.json"
    try:
        wait_for("listening", lambda: "partitions assigned" in bench.log())
        found = re.search(r"Kafka .*broker at ([a-z0-9.]+:[0-9]+) \(", bench.log())
        assert found is not None
        with socket.create_connection((found[1].split(":")[0], int(found[1].split(":")[1])), 5):
            pass
        assert end(mediator) == 0
        if state.exists():
            assert alive(json.loads(state.read_text())["pid"])
    finally:
        if state.exists():
            os.kill(json.loads(state.read_text())["pid"], signal.SIGTERM)
