"""Owns putting the mediator together from its settings, in the order that makes a start safe.

Lock, then ledger, then clean-up, then the rest: nothing is touched before this mediator knows that
it is alone in its log root.
"""

import contextlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from configs import Roots
from configs.artifacts import BROKER_FILE
from kafka_utils.settings import topics_for
from mediator.adoption import Adoption
from mediator.broker_link import BrokerLink, BrokerWish
from mediator.cleanup import check_log_root, clean
from mediator.errors import SettingsError
from mediator.events import Topics
from mediator.gpus import find_probe
from mediator.intake import Intake
from mediator.ledger import Ledger
from mediator.ledger_file import LEDGER_NAME, hold_lock
from mediator.limits import Limits
from mediator.log_files import open_log
from mediator.peers import SharedMemory
from mediator.process import RUNNER_ARGV, RunnerCommand, start_runner
from mediator.service import Service
from mediator.sharing import Sharing
from mediator.slots import Slot
from mediator.stopping import StopRequest
from mediator.supervisor import Supervisor
from mediator.warm import WarmSpawner

_log = logging.getLogger("mediator")


@dataclass(frozen=True)
class Settings:
    """Everything a mediator is told.

    Attributes:
        roots: project, data and log folders.
        slots: the places in which jobs run.
        topic: where jobs come from.
        broker: `host:port`, or None to find or start one.
        group_id: the consumer group.
        cleanup: empty the log root of ended jobs first.
        broker_wait_s: give up after this long without a broker, s; None waits for ever.
        grace_s: how long runners may take to save their work at the end, s.
        flush_s: how long the last events may take to be delivered, s.
        lease_s: silence after which another mediator is gone, s; None for the broker's default.
        limits: how long jobs may take, and what is tried again.
        warm: start runners from a process that has imported the engine.
        detach: leave the runners running at the end.
        properties: librdkafka properties.
    """

    roots: Roots
    slots: tuple[Slot, ...]
    topic: str
    broker: str | None = None
    group_id: str = "nerf-mediator"
    cleanup: bool = False
    broker_wait_s: float | None = None
    grace_s: float = 60.0
    flush_s: float = 10.0
    lease_s: float | None = None
    limits: Limits = field(default_factory=Limits)
    warm: bool = False
    detach: bool = False
    properties: Mapping[str, str] = field(default_factory=dict, repr=False)


def topics_of(jobs_topic: str) -> Topics:
    """Give the topics that belong to a jobs topic."""
    topics = topics_for(jobs_topic)
    return Topics(
        topics["status_topic"], topics["events_topic"], topics["dlq_topic"], topics["jobs_topic"]
    )


def serve(settings: Settings, runner_argv: tuple[str, ...] = RUNNER_ARGV) -> None:
    """Run a mediator until a signal ends it.

    Args:
        settings: what it is told.
        runner_argv: the fixed beginning of a runner's command; tests give a stand-in.

    Raises:
        MediatorError: it cannot start or go on; one line with the mend.
        KafkaUtilsError: the broker's address is malformed, or it was waited for too long.
    """
    os.umask(0o027)
    stop = StopRequest()
    stop.listen()
    logs = settings.roots.logs
    if settings.cleanup:
        check_log_root(settings.roots)
    _make_log_root(logs)
    with hold_lock(logs):
        ledger_is_new = not (logs / LEDGER_NAME).exists()
        ledger = Ledger(logs, topics_of(settings.topic))
        try:
            _check_topic(ledger, settings)
            _introduce(settings)
            if settings.cleanup:
                clean(ledger, settings.roots, ledger_is_new=ledger_is_new)
            spawner = WarmSpawner(settings.roots.project) if settings.warm else None
            with contextlib.ExitStack() as ends:
                if spawner is not None:
                    spawner.start()
                    ends.callback(spawner.close)
                _service(settings, ledger, stop, runner_argv, spawner).run()
        finally:
            ledger.close()


def _check_topic(ledger: Ledger, settings: Settings) -> None:
    """Refuse a ledger with open jobs of another topic: their events would go to the wrong one."""
    if others := ledger.open_topics() - {settings.topic}:
        raise SettingsError(
            f"--topic {settings.topic}: the log root {settings.roots.logs} holds unfinished jobs "
            f"of topic {', '.join(sorted(others))}; start it with that --topic until they have "
            "ended, or give this topic a --log-root of its own"
        )


def _introduce(settings: Settings) -> None:
    names = ", ".join(
        slot.name if slot.cuda_devices is None else f"{slot.name} ({_devices(slot)})"
        for slot in settings.slots
    )
    _log.info("mediator pid %d, log root %s, slots %s", os.getpid(), settings.roots.logs, names)


def _devices(slot: Slot) -> str:
    return f"GPU {slot.cuda_devices}" if slot.cuda_devices else "CPU only"


def _make_log_root(logs: Path) -> None:
    try:
        logs.mkdir(parents=True, exist_ok=True)
        open_log(logs)
    except OSError as error:
        raise SettingsError(
            f"--log-root {logs}: cannot be written ({error}); choose a folder you may write to"
        ) from None


def _service(
    settings: Settings,
    ledger: Ledger,
    stop: StopRequest,
    runner_argv: tuple[str, ...],
    spawner: WarmSpawner | None,
) -> Service:
    roots = settings.roots
    command = RunnerCommand(roots.project, roots.logs, roots.data_roots, runner_argv)
    wish = BrokerWish(
        settings.broker,
        settings.topic,
        settings.group_id,
        roots.logs / BROKER_FILE,
        settings.properties,
        settings.broker_wait_s,
    )
    memory = SharedMemory(ledger.mediator, settings.topic)
    intake = Intake(ledger, roots, memory)
    adoption = Adoption(ledger, memory, intake.placement, roots)
    launch = start_runner if spawner is None else spawner.launch
    tend = None if spawner is None else spawner.tend
    supervisor = Supervisor(
        ledger, settings.slots, command, settings.limits, launch, tend, find_probe()
    )
    ledger.drop_old_controls()
    ledger.keep_owed_messages()
    return Service(
        ledger,
        intake,
        supervisor,
        BrokerLink(wish, ledger),
        Sharing(ledger, memory, intake, adoption, supervisor, settings.lease_s),
        stop,
        grace_s=settings.grace_s,
        flush_s=settings.flush_s,
        detach=settings.detach,
    )
