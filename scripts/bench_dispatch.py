#!/usr/bin/env python3
"""Measures the mediator: how fast a job is at work, how fast jobs are accepted, how much memory.

    scripts/bench_dispatch.py [--jobs 200] [--cold-jobs 200] [--queued 10000] [--out FILE]

Dispatch is the time from publishing to the moment the real runner executes Python with the engine
imported. Warm, that is the `started` of run.json: the job is read, its record written next. Cold,
the engine comes later: there it is the begin of the operation. `..._operation` is that moment for
both: the dataset is empty, so it is the `time` in failure.json, after run.json was fsynced and the
device and the inputs were looked at. Jobs are published one after the other, each when the one
before has ended. Nothing is stood in for but the dataset.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from chaos_actors import broker_answers, free_port
from rich.console import Console
from rich.table import Table

from kafka_utils.producer import Producer
from kafka_utils.settings import KafkaSettings
from mediator.events import Topics
from mediator.ledger import Ledger
from mediator.states import ENDED
from mediator.warm import memory_bytes

ROOT = Path(__file__).parent.parent
DEADLINE_S = 120.0
LOOK_S = 0.002
BASE = {"op": "train", "data_dirname": "city", "mask_dirname": "g22"}


def make_project(folder: Path) -> None:
    """Make a dataset that the mediator accepts and the engine finds empty."""
    dataset = folder / "data/drz/out/city"
    (dataset / "masks/g22").mkdir(parents=True)
    (dataset / "dataset.json").write_text("{}")
    (dataset / "masks/g22/partition.json").write_text("{}")


def wait_for(what: str, condition: Any, deadline_s: float = DEADLINE_S) -> Any:
    """Give the condition's first true value.

    Raises:
        TimeoutError: it did not become true in time.
    """
    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        if value := condition():
            return value
        time.sleep(LOOK_S)
    raise TimeoutError(f"{what}: not within {deadline_s:g} s")


@contextlib.contextmanager
def process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process, its output in a file, and end it with SIGTERM."""
    with log.open("ab") as output:
        child = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    try:
        yield child
    finally:
        child.terminate()
        child.wait(60)


@contextlib.contextmanager
def broker(folder: Path) -> Iterator[KafkaSettings]:
    """Run the embedded broker."""
    port = free_port()
    command = [sys.executable, "-m", "kafka_utils.broker", "--port", str(port),
               "--state", str(folder / "broker.json")]  # fmt: skip
    with process(command, folder / "broker.log"):
        wait_for("broker", lambda: broker_answers(port))
        yield KafkaSettings(f"127.0.0.1:{port}", jobs_topic="benchConfigs", embedded=True)


def dispatch(folder: Path, jobs: int, *, warm: bool) -> list[tuple[float, float]]:
    """Give the times from publishing to reading the job and to the operation, s."""
    make_project(folder)
    logs = folder / "logs"
    with broker(folder) as settings:
        command = [sys.executable, "-m", "mediator", "run", "--topic", settings.jobs_topic,
                   "--broker", settings.bootstrap, "--project-root", str(folder),
                   "--devices", "cpu", "--warm" if warm else "--cold"]  # fmt: skip
        with process(command, folder / "mediator.out"):
            ready = "warm spawner ready" if warm else "partitions assigned"
            log = logs / "mediator.log"
            wait_for(ready, lambda: log.exists() and ready in log.read_text())
            producer = Producer(settings)
            ledger = Ledger(logs, Topics("", "", ""), read_only=True)
            times = [one(producer, settings, ledger, logs, number) for number in range(jobs + 1)]
            ledger.close()
            producer.close()
    return times[1:]


def one(
    producer: Producer, settings: KafkaSettings, ledger: Ledger, logs: Path, number: int
) -> tuple[float, float]:
    """Publish one job and give its times, s."""
    job_id = f"bench-{number}"
    value = json.dumps({**BASE, "job_id": job_id}).encode()
    began = time.time()
    producer.send(settings.jobs_topic, job_id, value)
    wait_for(job_id, lambda: ledger.state_of(job_id) in ENDED)
    failure = json.loads((logs / job_id / "failure.json").read_text())
    if failure["kind"] != "bad_data":
        raise RuntimeError(f"{job_id}: {failure['message']}")
    run = json.loads((logs / job_id / "run.json").read_text())
    moments = (
        datetime.fromisoformat(text).timestamp() for text in (run["started"], failure["time"])
    )
    read, operation = (moment - began for moment in moments)
    return read, operation


def acceptance(folder: Path, queued: int) -> dict[str, Any]:
    """Give how fast jobs are accepted and what the mediator weighs with all of them waiting."""
    make_project(folder)
    logs = folder / "a"
    with broker(folder) as settings:
        producer = Producer(settings)
        for number in range(queued):
            work = "work:100000" if number == 0 else "work:0"
            spec = {**BASE, "job_id": f"queued-{number}", "dataset": work}
            producer.enqueue(settings.jobs_topic, None, json.dumps(spec).encode())
            producer.poll(0)
        producer.close(60)
        command = [sys.executable, str(ROOT / "scripts/chaos_mediator.py"), str(folder), str(logs),
                   settings.bootstrap, settings.jobs_topic, "1", "60"]  # fmt: skip
        began = time.monotonic()
        with process(command, folder / "mediator.out") as mediator:
            log = logs / "mediator.log"
            wait_for("start", lambda: log.exists() and "partitions assigned" in log.read_text())
            listening = time.monotonic()
            ledger = Ledger(logs, Topics("", "", ""), read_only=True)
            wait_for("accepted", lambda: ledger.count() >= queued)
            accepted = time.monotonic()
            wait_for("told", lambda: not ledger.unsent(0, 1))
            time.sleep(2.0)
            resident = memory_bytes(mediator.pid)
            maps = Path(f"/proc/{mediator.pid}/maps").read_text()
            ledger.close()
    return {
        "queued": queued,
        "accept_s": round(accepted - listening, 2),
        "accept_with_start_s": round(accepted - began, 2),
        "accept_per_s": round(queued / (accepted - listening)),
        "resident_mb": round(resident / 1e6, 1),
        "torch_imported": "libtorch" in maps,
    }


def percentiles(name: str, times: list[float]) -> dict[str, float]:
    """Give p50, p99 and the number of jobs, in ms."""
    ordered = sorted(times)
    return {
        f"{name}_jobs": len(times),
        f"{name}_p50_ms": round(1000 * statistics.median(ordered), 1),
        f"{name}_p99_ms": round(1000 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 1),
    }


def main(
    jobs: Annotated[int, typer.Option(min=1, help="jobs started warm")] = 200,
    cold_jobs: Annotated[int, typer.Option(min=0, help="jobs started cold")] = 200,
    queued: Annotated[int, typer.Option(min=1, help="jobs accepted")] = 10_000,
    out: Annotated[Path, typer.Option(help="where the numbers go")] = Path("bench-dispatch.json"),
) -> None:
    """Measure dispatch, acceptance and memory."""
    numbers: dict[str, Any] = {"load_at_start": round(os.getloadavg()[0], 2)}
    with tempfile.TemporaryDirectory(prefix="skyline-dispatch-") as root:
        folders = [Path(root) / name for name in ("warm", "cold", "queue")]
        for folder in folders:
            folder.mkdir()
        warm = dispatch(folders[0], jobs, warm=True)
        numbers |= percentiles("warm", [read for read, _ in warm])
        numbers |= percentiles("warm_operation", [operation for _, operation in warm])
        if cold_jobs:
            cold = dispatch(folders[1], cold_jobs, warm=False)
            numbers |= percentiles("cold_operation", [operation for _, operation in cold])
        numbers |= acceptance(folders[2], queued)
    numbers["load_at_end"] = round(os.getloadavg()[0], 2)
    table = Table("number", "value", title="dispatch")
    for name, value in numbers.items():
        table.add_row(name, str(value))
    Console().print(table)
    out.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
