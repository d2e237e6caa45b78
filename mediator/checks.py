"""Owns `mediator check`: one line for each thing a mediator needs, with the mend where it lacks."""

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import AdminClient

from configs import Roots
from configs.artifacts import BROKER_FILE
from kafka_utils.admin import wait_for_broker
from kafka_utils.discovery import find_broker
from kafka_utils.errors import KafkaUtilsError
from kafka_utils.settings import KafkaSettings, topics_for
from mediator.errors import MediatorError
from mediator.events import Topics
from mediator.ledger import Ledger
from mediator.ledger_file import LEDGER_NAME

LEAST_FREE_BYTES = 2 * 1024**3
BROKER_WAIT_S = 3.0
_GPU_FILES = Path("/dev")


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, whether it is well, and what was found."""

    name: str
    well: bool
    text: str


def check_all(
    roots: Roots,
    broker: str | None,
    topic: str,
    devices: Sequence[str] | None,
    properties: Mapping[str, str],
) -> Iterator[Finding]:
    """Look at broker, topics, disk, ledger, data and devices.

    Args:
        roots: the folders.
        broker: `host:port`, or None to find one.
        topic: the jobs topic.
        devices: as given by `slots.parse_devices`.
        properties: librdkafka properties.
    """
    yield from _broker(roots, broker, topic, properties)
    yield _disk(roots.logs)
    yield _ledger(roots.logs)
    yield _data(roots)
    yield _devices(devices)


def _broker(
    roots: Roots, broker: str | None, topic: str, properties: Mapping[str, str]
) -> Iterator[Finding]:
    discovery = roots.logs / BROKER_FILE
    try:
        address = find_broker(broker, discovery)
        if address is None:
            yield Finding("broker", True, "none answers; the mediator starts its embedded one")
            return
        settings = KafkaSettings(
            address.bootstrap, properties=properties, embedded=address.embedded, **topics_for(topic)
        )
        cluster = wait_for_broker(settings, time.monotonic() + BROKER_WAIT_S)
        kind = "embedded, keeps messages in memory only" if address.embedded else "Kafka"
        yield Finding("broker", True, f"{address.bootstrap} answers ({kind}, cluster {cluster})")
        known = AdminClient(settings.client_config()).list_topics(timeout=BROKER_WAIT_S).topics
    except KafkaUtilsError as error:
        yield Finding("broker", False, str(error))
        return
    for name in settings.topics:
        parts = len(known[name].partitions) if name in known else 0
        text = f"{name}: {parts} partitions" if parts else f"{name}: missing; made at the start"
        yield Finding("topic", True, text)


def _disk(logs: Path) -> Finding:
    folder = next(p for p in (logs, *logs.parents) if p.exists())
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding("disk", False, f"{folder}: cannot be written; choose another --log-root")
    free = shutil.disk_usage(folder).free
    text = f"{folder}: {free / 1024**3:.1f} GiB free"
    if free < LEAST_FREE_BYTES:
        least = LEAST_FREE_BYTES / 1024**3
        return Finding("disk", False, f"{text}, less than {least:g}; free some, see --cleanup")
    return Finding("disk", True, text)


def _ledger(logs: Path) -> Finding:
    if not (logs / LEDGER_NAME).exists():
        return Finding("ledger", True, f"{logs / LEDGER_NAME}: none yet; made at the start")
    try:
        ledger = Ledger(logs, Topics("", "", ""), read_only=True)
    except MediatorError as error:
        return Finding("ledger", False, str(error))
    count = ledger.count()
    ledger.close()
    return Finding("ledger", True, f"{logs / LEDGER_NAME}: {count} jobs")


def _data(roots: Roots) -> Finding:
    missing = [str(root) for root in roots.data_roots if not root.is_dir()]
    if missing:
        text = f"{', '.join(missing)}: no such folder; make it or name another with --data-root"
        return Finding("data", False, text)
    return Finding("data", True, roots.describe_data())


def _devices(devices: Sequence[str] | None) -> Finding:
    found = sorted(p.name[6:] for p in _GPU_FILES.glob("nvidia[0-9]*"))
    here = f"GPUs here: {', '.join(found) or 'none'}; CPUs: {len(os.sched_getaffinity(0))}"
    absent = [number for number in devices or () if number not in found]
    if absent:
        text = f"--devices names GPU {', '.join(absent)}, which is not here ({here}); name others"
        return Finding("devices", False, text)
    return Finding("devices", True, here)
