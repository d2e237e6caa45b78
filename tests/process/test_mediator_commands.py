"""The subcommands, against a running mediator; and runners started warm."""

import json
import os
import signal
import subprocess
import sys
import threading

from mediator_bench import Bench, alive, end, wait_for

from kafka_utils.producer import Producer
from mediator.proc import tree_of


def command(bench: Bench, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a subcommand in the bench's project."""
    return subprocess.run(
        [sys.executable, "-m", "mediator", *arguments, "--project-root", str(bench.project)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def asked(bench: Bench, op: str, job_id: str) -> subprocess.CompletedProcess[str]:
    """Ask for something about a job."""
    return command(bench, op, job_id, "--broker", bench.address, "--topic",
                   bench.settings.jobs_topic)  # fmt: skip


def test_show_logs_cancel_and_retry(bench: Bench) -> None:
    """What people ask of a job from a shell."""
    bench.start_and_listen()
    bench.train("a", "fail")
    bench.wait_state("a", "failed")
    shown = json.loads(command(bench, "show", "a", "--json").stdout)
    assert [row["state"] for row in shown["history"]] == ["queued", "running", "failed"]
    assert shown["spec"]["dataset"] == "fail" and "runner.log" in shown["files"]
    shown = command(bench, "show", "a").stdout
    assert "image 7 is missing" in shown and '  dataset = "fail"' in shown
    assert "log2_hashmap_size" not in shown  # as by default
    typo = command(bench, "show", "aa")
    assert typo.returncode == 1 and "did you mean a?" in typo.stderr
    assert command(bench, "logs", "a").stdout == "fake runner at work\n"
    assert asked(bench, "retry", "a").returncode == 0
    wait_for("again", lambda: len(bench.runs("a")) == 2)
    bench.train("b", "sleep:60")
    bench.wait_runs("b")
    said = asked(bench, "cancel", "b")
    assert said.returncode == 0 and "asked to cancel job b" in said.stdout
    bench.wait_state("b", "cancelled")
    assert command(bench, "logs", "b", "-f").returncode == 0
    assert command(bench, "logs", "a", "--attempt", "1").stdout == "fake runner at work\n"
    beyond = command(bench, "logs", "a", "--attempt", "9")
    assert beyond.returncode == 1 and "it had 2 so far" in beyond.stderr
    missing = command(bench, "show", "nobody")
    assert missing.returncode == 1 and "not in this ledger" in missing.stderr
    wrong = asked(bench, "cancel", "../x")
    assert wrong.returncode == 2 and "job id" in wrong.stderr


def test_logs_follow_until_the_end(bench: Bench) -> None:
    """`-f` waits for more and ends with the job."""
    bench.start_and_listen()
    bench.train("a", f"hold:{bench.project / 'go'}")
    bench.wait_runs("a")
    listed = command(bench, "jobs").stdout
    assert "train 1/2" in listed and "train 1/2" in command(bench, "show", "a").stdout
    timer = threading.Timer(0.5, (bench.project / "go").write_text, [""])
    timer.start()
    assert command(bench, "logs", "a", "--follow").stdout == "fake runner at work\n"
    bench.wait_state("a", "succeeded")


def test_check_names_what_is_wrong(bench: Bench) -> None:
    """One line each; exit code 1 when something must be mended."""
    well = command(bench, "check", "--broker", bench.address)
    assert well.returncode == 0
    assert {line.split()[1] for line in well.stdout.splitlines()} == {
        "broker", "topic", "disk", "ledger", "data", "devices",
    }  # fmt: skip
    bad = command(bench, "check", "--broker", "127.0.0.1:1", "--devices", "99")
    assert bad.returncode == 1
    assert "BAD broker" in bad.stdout and "GPU 99" in bad.stdout


def test_warm_runners_are_as_apart_as_cold_ones(bench: Bench) -> None:
    """Own session, token in /proc, log of its own; found again after kill -9; told by exit code."""
    start = [sys.executable, "-m", "mediator", "run", "--warm", "--project-root",
             str(bench.project), "--broker", bench.address, "--topic", bench.settings.jobs_topic,
             "--devices", "cpu"]  # fmt: skip
    producer = Producer(bench.settings)
    logs = (bench.project / "warm.txt").open("wb")
    mediator = subprocess.Popen(start, stderr=logs)
    try:
        wait_for("warm", lambda: "warm spawner ready" in bench.log(), 90)
        base = {"op": "train", "data_dirname": "city", "mask_dirname": "g22"}
        producer.send(bench.settings.jobs_topic, "a", json.dumps({**base, "job_id": "a"}).encode())
        job = bench.wait_state("a", "failed", 60)
        assert job.exit_code == 11 and job.process is not None
        assert tree_of(job.process, job.run_token or "-") == []
        text = (bench.logs / "a/runner.log").read_text()
        assert "bad_data" in text and "cold start" not in bench.log()
        spawner = _spawner_of(mediator.pid)
        os.kill(spawner, signal.SIGKILL)
        producer.send(bench.settings.jobs_topic, "b", json.dumps({**base, "job_id": "b"}).encode())
        bench.wait_state("b", "failed", 90)
        assert "cold start: the spawner" in bench.log()
        assert end(mediator) == 0
        wait_for("no spawner left", lambda: not alive(spawner))
    finally:
        end(mediator)
        producer.close()
        logs.close()


def _spawner_of(pid: int) -> int:
    children = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True, check=True
    )
    (row,) = (r for r in children.stdout.splitlines() if "runner.spawner" in r)
    return int(row.split()[0])
