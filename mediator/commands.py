"""Owns the subcommands that look at jobs or ask something about them: show, logs, cancel, retry.

What is looked at is the ledger and the job's folder; what is asked for is published to the jobs
topic, so that it is as durable as a job, and reaches whichever mediator has it.
"""

import difflib
import json
import time
from pathlib import Path
from typing import Any

from configs import OPS
from configs.artifacts import BROKER_FILE, JobFolder
from configs.secrets import masked
from kafka_utils.admin import wait_for_broker
from kafka_utils.discovery import find_broker
from kafka_utils.errors import BrokerUnreachableError
from kafka_utils.producer import Producer
from kafka_utils.settings import KafkaSettings, topics_for
from mediator.errors import MediatorError
from mediator.latest import latest_progress
from mediator.ledger import Ledger
from mediator.records import JobRecord
from mediator.states import ENDED, JobState

BROKER_WAIT_S = 5.0


def known_job(ledger: Ledger, job_id: str) -> JobRecord:
    """Give a job of this ledger.

    Raises:
        MediatorError: there is none; names ids that look like it.
    """
    job = ledger.job(job_id)
    if job is not None:
        return job
    names = [other.job_id for other in ledger.jobs()]
    close = [name for name in names if job_id in name][:5]
    close = close or difflib.get_close_matches(job_id, names, cutoff=0.5)
    hint = f"; did you mean {', '.join(close)}?" if close else "; see `mediator jobs`"
    raise MediatorError(f"job {job_id}: not in this ledger{hint}")


def describe(ledger: Ledger, job: JobRecord, folder: JobFolder) -> dict[str, Any]:
    """Give all that is known of a job: spec, history, process, folder, files."""
    files = sorted(p.name for p in folder.root.iterdir()) if folder.root.is_dir() else []
    process = job.process
    return {
        "job_id": job.job_id,
        "op": job.op,
        "state": job.state,
        "reason": job.reason,
        "progress": latest_progress(folder.progress) if job.state is JobState.RUNNING else "",
        "attempt": job.attempt,
        "epoch": job.epoch,
        "failures": job.failures,
        "slot": job.slot,
        "pid": None if process is None or job.state in ENDED else process.pid,
        "exit_code": job.exit_code,
        "waits_for": job.waits_for,
        "cancel_reason": job.cancel_reason,
        "received_at": job.received_at,
        "started_at": job.started_at,
        "ended_at": job.ended_at,
        "source": str(job.source),
        "folder": str(folder.root),
        "files": files,
        "history": ledger.history(job.job_id),
        "spec": masked(json.loads(job.spec)),
    }


def changed_fields(spec: dict[str, Any]) -> dict[str, Any]:
    """Give the fields of a spec that differ from their defaults."""
    fields = OPS[spec["op"]].model_fields if spec.get("op") in OPS else {}
    return {
        name: value
        for name, value in spec.items()
        if name not in fields or fields[name].is_required() or fields[name].default != value
    }


def log_of(folder: JobFolder, job: JobRecord, attempt: int | None) -> Path:
    """Give the log of an attempt; of the latest where none is named.

    Raises:
        MediatorError: there was no such attempt.
    """
    if attempt is None or attempt == job.attempt:
        return folder.runner_log
    path = folder.attempts / str(attempt) / folder.runner_log.name
    if not path.is_file():
        raise MediatorError(
            f"job {job.job_id}: no log of attempt {attempt}; it had {job.attempt} so far"
        )
    return path


def connect(
    broker: str | None, logs: Path, topic: str, properties: dict[str, str]
) -> KafkaSettings:
    """Give a broker that answers.

    Raises:
        BrokerUnreachableError: none does; names where it was looked for.
    """
    address = find_broker(broker, logs / BROKER_FILE)
    if address is None:
        raise BrokerUnreachableError(
            f"no Kafka broker answers at localhost:9092 and {logs / BROKER_FILE} names none; "
            "start the mediator, or name a broker with --broker"
        )
    settings = KafkaSettings(
        address.bootstrap, properties=properties, embedded=address.embedded, **topics_for(topic)
    )
    wait_for_broker(settings, time.monotonic() + BROKER_WAIT_S)
    return settings


def ask(settings: KafkaSettings, op: str, job_id: str) -> None:
    """Publish a request about a job and have it confirmed.

    Raises:
        KafkaDeliveryError: it was not confirmed.
    """
    producer = Producer(settings, delivery_timeout_s=10.0)
    try:
        value = json.dumps({"op": op, "job_id": job_id}).encode()
        producer.send(settings.jobs_topic, job_id, value, timeout_s=11.0)
    finally:
        producer.close()
