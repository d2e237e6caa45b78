"""A real embedded broker, a real mediator and fake runners, for tests over the wire."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kafka_utils.message import Message
from kafka_utils.producer import Producer
from kafka_utils.reader import TopicReader
from kafka_utils.settings import KafkaSettings
from mediator.events import Topics
from mediator.ledger import Ledger
from mediator.records import JobRecord
from mediator.states import ENDED

HERE = Path(__file__).parent
DEADLINE_S = 20.0


def wait_for(what: str, condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """Give the condition's first true value.

    Raises:
        AssertionError: it did not become true in time; says what was waited for.
    """
    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {deadline_s:g} s")


def end(process: subprocess.Popen[Any], number: signal.Signals = signal.SIGTERM) -> int:
    """Signal a process and give its exit code, in time."""
    if process.poll() is None:
        process.send_signal(number)
    return process.wait(DEADLINE_S)


def alive(pid: int) -> bool:
    """Tell whether a process runs and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextlib.contextmanager
def running_broker(folder: Path, port: int = 0) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run the embedded broker; give its address and its process."""
    state = folder / "broker-of-test.json"
    state.unlink(missing_ok=True)
    command = [sys.executable, "-m", "kafka_utils.broker", "--port", str(port)]
    with (folder / "broker-of-test.log").open("ab") as log:
        process = subprocess.Popen([*command, "--state", str(state)], stdout=log, stderr=log)
    try:
        wait_for("broker", state.exists)
        yield json.loads(state.read_text())["address"], process
    finally:
        end(process)


class Bench:
    """A project folder with a dataset, a topic of its own on a broker, and mediators on it."""

    def __init__(self, project: Path, address: str, logs: Path | None = None) -> None:
        self.project = project
        self.logs = logs or project / "logs"
        self.stderr = project / "stderr.txt"
        self.address = address
        name = f"jobs-{project.name[-40:]}-{time.monotonic_ns()}"
        self.settings = KafkaSettings(address, jobs_topic=name, embedded=True)
        self.mediators: list[subprocess.Popen[str]] = []
        self.make_dataset()
        self._producer: Producer | None = None

    def make_dataset(self) -> None:
        """Make a dataset that is one for the mediator; fake runners do not look into it."""
        dataset = self.project / "data/drz/out/city"
        (dataset / "masks/g22").mkdir(parents=True, exist_ok=True)
        (dataset / "dataset.json").write_text("{}")
        (dataset / "masks/g22/partition.json").write_text("{}")

    def command(self, **options: object) -> list[str]:
        """Give the command of a mediator with fake runners."""
        pairs = [f"{name}={value}" for name, value in options.items()]
        topic = f"topic={self.settings.jobs_topic}"
        broker = str(options.get("broker", self.address))
        mediator = [sys.executable, str(HERE / "fake_mediator.py"), str(self.project), broker]
        return [*mediator, topic, *pairs]

    def start(self, **options: object) -> subprocess.Popen[str]:
        """Start a mediator; its stderr goes to a file."""
        with self.stderr.open("a") as errors:
            process = subprocess.Popen(self.command(**options), stderr=errors, text=True)
        self.mediators.append(process)
        return process

    def start_and_listen(self, **options: object) -> subprocess.Popen[str]:
        """Start a mediator and wait until it takes messages."""
        before = self.log().count("partitions assigned")
        process = self.start(**options)
        wait_for("listening", lambda: self.log().count("partitions assigned") > before)
        return process

    def send(self, value: bytes | dict[str, object], key: str | None = "all in order") -> None:
        """Publish a message and have it confirmed; one key, so one partition and one order."""
        self._producer = self._producer or Producer(self.settings)
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        self._producer.send(self.settings.jobs_topic, key, raw)

    def train(self, job_id: str, does: str = "work", **more: object) -> None:
        """Publish a train job whose fake runner does something."""
        base = {"op": "train", "data_dirname": "city", "mask_dirname": "g22"}
        self.send({**base, "job_id": job_id, "dataset": does, **more})

    def log(self) -> str:
        """Give mediator.log."""
        path = self.logs / "mediator.log"
        return path.read_text() if path.exists() else ""

    def job(self, job_id: str) -> JobRecord | None:
        """Give a job's row."""
        if not (self.logs / "ledger.sqlite3").exists():
            return None
        ledger = Ledger(self.logs, Topics("s", "e", "d"), read_only=True)
        try:
            return ledger.job(job_id)
        finally:
            ledger.close()

    def wait_state(self, job_id: str, state: str, deadline_s: float = DEADLINE_S) -> JobRecord:
        """Wait until a job is in a state; fail at once when it ended in another."""

        def there() -> JobRecord | None:
            job = self.job(job_id)
            if job is not None and job.state in ENDED and job.state != state:
                raise AssertionError(f"job {job_id} is {job.state}: {job.reason}\n{self.log()}")
            return job if job is not None and job.state == state else None

        return wait_for(f"job {job_id} {state}", there, deadline_s)

    def state_is(self, job_id: str, state: str) -> bool:
        """Tell whether a job is here and in a state."""
        job = self.job(job_id)
        return job is not None and job.state == state

    def runs(self, job_id: str) -> list[int]:
        """Give the process numbers of a job's runs so far."""
        path = self.logs / job_id / "runs.txt"
        return (
            [int(row.split()[0]) for row in path.read_text().splitlines()] if path.exists() else []
        )

    def wait_runs(self, job_id: str, number: int = 1) -> int:
        """Wait until a job's runner is at work for the n-th time; give its process number."""
        return wait_for(f"{job_id} runs", lambda: self.runs(job_id)[number - 1 : number])[0]

    def events(self, job_id: str) -> list[dict[str, Any]]:
        """Give the events of a job.

        A kill between the broker's confirmation and its note in the ledger repeats an event, told
        by its number; repeats are left out here.
        """
        events: dict[int, dict[str, Any]] = {}
        for message in self.read_events():
            event = json.loads(message.value or b"{}")
            if event["job_id"] == job_id:
                assert events.setdefault(event["seq"], event) == event
        return list(events.values())

    def read_json(self, job_id: str) -> list[dict[str, Any]]:
        """Give every event of a job as it lies on the topic, also those without a number."""
        events = [json.loads(message.value or b"{}") for message in self.read_events()]
        return [event for event in events if event["job_id"] == job_id]

    def read_events(self) -> list[Message]:
        """Give the messages of the events topic."""
        with TopicReader(self.settings, self.settings.events_topic) as reader:
            return reader.read_all()

    def letters(self) -> list[dict[str, Any]]:
        """Give all dead letters."""
        with TopicReader(self.settings, self.settings.dlq_topic) as reader:
            return [json.loads(m.value or b"{}") for m in reader.read_all()]

    def close(self) -> None:
        """End what runs."""
        if self._producer is not None:
            self._producer.close()
        for mediator in self.mediators:
            if mediator.poll() is None:
                end(mediator, signal.SIGTERM)
        for path in self.logs.glob("*/runs.txt"):
            for row in path.read_text().splitlines():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(row.split()[0]), signal.SIGKILL)
