"""Running scripts/send_config.py, and a mediator for it that says what a test tells it to."""

import json
import os
import subprocess
import sys
from pathlib import Path

from kafka_brokers import next_message

from kafka_utils.consumer import JobConsumer, Message
from kafka_utils.producer import Producer
from kafka_utils.settings import KafkaSettings

SCRIPTS = Path(__file__).parents[2] / "scripts"


class FakeMediator:
    """Reads jobs and says of them what a test tells it to."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings
        self.consumer = JobConsumer(settings, "fake")
        self._producer = Producer(settings)
        self.seq = 0

    def job(self) -> Message:
        message = next_message(self.consumer)
        assert self.consumer.store(message)
        return message

    def take(self) -> Message:
        """Take a job as a mediator does: queue it and tell its spec."""
        message = self.job()
        spec = json.loads(message.value or b"{}")
        self.event(spec["job_id"], "state", "queued", spec=spec)
        return message

    def event(self, job_id: str, kind: str, state: str, reason=None, **data: object) -> None:
        self.seq += 1
        event = {
            "job_id": job_id, "seq": self.seq, "time": "2026-01-01T00:00:00+00:00", "kind": kind,
            "state": state, "op": "train", "attempt": 1, "reason": reason, "data": data,
        }  # fmt: skip
        self._producer.send(self.settings.events_topic, job_id, json.dumps(event).encode())

    def letter(self, message: Message, reason: str) -> None:
        headers = [
            {"name": name, "value": {"encoding": "utf-8", "content": (value or b"").decode()}}
            for name, value in message.headers
        ]
        letter = {"reason": reason, "errors": [], "headers": headers}
        self._producer.send(self.settings.dlq_topic, None, json.dumps(letter).encode())


def start(settings: KafkaSettings, *options: object) -> subprocess.Popen[str]:
    command = [
        sys.executable, str(SCRIPTS / "send_config.py"),
        "--broker", settings.bootstrap, "--topic", settings.jobs_topic, *map(str, options),
    ]  # fmt: skip
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def finish(process: subprocess.Popen[str], code: int) -> str:
    """Wait for its end with an exit code; give all that it said."""
    try:
        output, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == code, output + errors
    return output + errors
