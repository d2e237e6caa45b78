"""Half a minute of chaos: what `make chaos` does in ten minutes, small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mediator_bench import Bench, wait_for

from kafka_utils.producer import Producer

SCRIPT = Path(__file__).parents[2] / "scripts" / "chaos.py"
ZERO = (
    "lost", "double_terminal", "run_twice", "repeated_events", "orphans", "zombie_slots",
    "unanswered_garbage", "unanswered_probes", "unfinished", "bad_exits",
)  # fmt: skip


def test_nothing_is_lost_told_twice_run_twice_or_left_over(tmp_path: Path) -> None:
    """Jobs and requests of three clients under kill -9 of mediators, runners and the broker."""
    out = tmp_path / "chaos.json"
    command = [sys.executable, str(SCRIPT), "--jobs", "30", "--seconds", "30", "--garbage", "300",
               "--seed", "7", "--out", str(out)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert out.exists(), done.stderr
    numbers = json.loads(out.read_text())
    assert {name: numbers[name] for name in ZERO} == dict.fromkeys(ZERO, 0), done.stdout
    assert numbers["jobs"] == 30 and numbers["kills"] >= 3
    assert done.returncode == 0


def test_two_claims_are_no_repeat_but_what_is_told_twice_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the status topic one claim a mediator; on the events topic each number once."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from chaos_count import Collector

    def event(job_id: str, state: str, mediator: str) -> bytes:
        return json.dumps({"kind": "state", "job_id": job_id, "seq": 1, "state": state,
                           "mediator": mediator, "data": {}}).encode()  # fmt: skip

    status, events = bench.settings.status_topic, bench.settings.events_topic
    producer = Producer(bench.settings)
    for job_id, state, mediators in (
        ("contest", "queued", "ab"), ("again", "queued", "aa"), ("both", "running", "ab"),
    ):  # fmt: skip
        for mediator in mediators:
            producer.send(status, job_id, event(job_id, state, mediator))
    for job_id in ("once", "twice", "twice", "last"):
        producer.send(events, job_id, event(job_id, "succeeded", "a"))
    producer.close()
    collector = Collector(bench.settings)
    try:
        wait_for("read", lambda: "last" in collector.terminal and len(collector.repeats) == 3)
    finally:
        collector.end()
    assert {r["event"]["job_id"] for r in collector.repeats} == {"again", "both", "twice"}
