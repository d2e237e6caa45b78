#!/usr/bin/env python3
"""Publishes job configs as JSON to the jobs topic and, with --wait, follows them to their end.

    scripts/send_config.py --configPath configs/demo/train.json --set outer_steps=500 --wait

What a config means is the mediator's to judge: here it only has to be a JSON object. A config
without job_id gets a random one, so that it can be followed.

Exit codes: 0 sent (with --wait: every job succeeded, or its viewer is up), 1 a job did not succeed,
2 a config or option is wrong, 3 the broker, 4 --timeout was reached.
"""

import dataclasses
import json
import logging
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from answer_topics import Answers
from job_follower import SEND_ID_HEADER, Follower, Sent, place, say
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from kafka_utils.admin import wait_for_broker
from kafka_utils.discovery import DISCOVERY_NAME, find_broker
from kafka_utils.errors import KafkaUtilsError
from kafka_utils.producer import Producer
from kafka_utils.settings import (
    DEFAULT_BOOTSTRAP,
    DEFAULT_JOBS_TOPIC,
    KafkaSettings,
    load_properties,
    topics_for,
)

EXIT_JOB, EXIT_USAGE, EXIT_BROKER, EXIT_TIMEOUT = 1, 2, 3, 4

BROKER_TIMEOUT_S = 3.0
POLL_S = 0.05
SILENCE_S = 10.0
COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    TextColumn("{task.percentage:>3.0f}%"),
    TextColumn("{task.fields[note]}"),
    TimeElapsedColumn(),
)


class UsageError(Exception):
    """A config or an option is wrong; one line."""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def parse_value(text: str) -> Any:
    """Return the JSON value of a --set option, or the text itself where it is not JSON."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        return text


def parse_setting(text: str) -> tuple[str, Any]:
    """Return field and value of a `field=value` option; a job id is always text."""
    name, separator, value = text.partition("=")
    if not separator or not name.strip():
        raise UsageError(f"--set {text!r} is not field=value")
    name = name.strip()
    return name, value if name == "job_id" else parse_value(value)


def load_config(path: Path, settings: Iterable[tuple[str, Any]]) -> Sent:
    """Read one config, apply --set, and give it a job id if it has none.

    The file's own bytes are published when nothing had to be changed.

    Raises:
        UsageError: the file cannot be read or is not a JSON object.
    """
    try:
        raw = path.read_bytes()
        record = json.loads(raw)
    except OSError as error:
        raise UsageError(f"--configPath {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--configPath {path} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise UsageError(f"--configPath {path} is JSON but not an object; a job is {{...}}")
    changed = {**record, **dict(settings)}
    if changed.get("job_id") is None:
        changed["job_id"] = secrets.token_hex(6)
    value = raw if changed == record else json.dumps(changed, indent=2).encode()
    job_id = changed["job_id"]
    return Sent(
        source=str(path),
        job_id=job_id if isinstance(job_id, str) and job_id else None,
        op=str(changed.get("op", "job")),
        value=value,
    )


def check_ids(jobs: Iterable[Sent]) -> None:
    """Refuse configs that share a job id: one of them would be no job of its own.

    Raises:
        UsageError: names the id and both configs.
    """
    first: dict[str, Sent] = {}
    for job in jobs:
        other = job if job.job_id is None else first.setdefault(job.job_id, job)
        if other is not job:
            raise UsageError(
                f"{other.source} and {job.source} are both job_id {job.job_id!r}; give each its "
                "own, or send them one after the other"
            )


def connect(
    broker: str | None, log_root: Path, topic: str, properties: Path | None
) -> KafkaSettings:
    """Return settings for the broker, after it has answered.

    Raises:
        KafkaUtilsError: none is found or it does not answer; one line with the mend.
    """
    discovery_file = log_root / DISCOVERY_NAME
    address = find_broker(broker, discovery_file)
    if address is None:
        raise KafkaUtilsError(
            f"no Kafka broker answers at {DEFAULT_BOOTSTRAP} and {discovery_file} names none; "
            "start `python -m mediator`, or name a broker with --broker"
        )
    settings = KafkaSettings(
        bootstrap=address.bootstrap,
        properties=load_properties(properties) if properties is not None else {},
        embedded=address.embedded,
        **topics_for(topic),
    )
    if address.cluster_id is None:
        try:
            wait_for_broker(settings, time.monotonic() + BROKER_TIMEOUT_S)
        except KafkaUtilsError as error:
            raise KafkaUtilsError(
                f"{error}; without --broker `python -m mediator` starts its own"
            ) from error
        # it came up only now: ask again what kind of broker it is
        address = find_broker(address.bootstrap, discovery_file) or address
        settings = dataclasses.replace(settings, embedded=address.embedded)
    return settings


def publish(
    settings: KafkaSettings,
    jobs: list[Sent],
    console: Console,
    key: str | None = None,
    cluster_id: str | None = None,
) -> None:
    """Send every config and print its job id after the broker has confirmed it.

    Args:
        settings: where the broker is.
        jobs: what to send.
        console: where to write.
        key: the messages' key; None for each one's job id.
        cluster_id: the broker's cluster, to note where each message lies.

    Raises:
        KafkaDeliveryError: a config was not confirmed; those printed were.
    """
    producer = Producer(settings, delivery_timeout_s=10.0)
    try:
        for job in jobs:
            header = (SEND_ID_HEADER, job.send_id.encode())
            position = producer.send(
                settings.jobs_topic, key or job.job_id, job.value, [header], timeout_s=11.0
            )
            if cluster_id is not None and position is not None:
                job.source_place = place(cluster_id, settings.jobs_topic, *position)
            where = f"{settings.jobs_topic} at {settings.bootstrap}"
            say(console, f"sent {job.op} {job.job_id} to {where} ({job.source})")
    finally:
        producer.close()


def follow(
    settings: KafkaSettings,
    jobs: list[Sent],
    timeout_s: float | None,
    console: Console,
    key: str | None = None,
    discovery_file: Path | None = None,
) -> int:
    """Publish, then wait for the end of every job.

    Args:
        settings: where the broker is.
        jobs: what to send.
        timeout_s: longest wait for the ends, s; None waits on.
        console: where to write.
        key: as for `publish`.
        discovery_file: as for `Answers`.

    Returns:
        The exit code.
    """
    with Answers(settings, discovery_file) as answers:
        publish(settings, jobs, console, key, answers.cluster_id)
        start_s = time.monotonic()
        hinted = False
        with Progress(*COLUMNS, console=console, disable=not console.is_terminal) as progress:
            follower = Follower(jobs, progress)
            take = {
                settings.events_topic: follower.on_event,
                settings.dlq_topic: follower.on_letter,
                settings.status_topic: follower.on_status,
            }
            lives = answers.lives
            while follower.open:
                for message in answers.poll(POLL_S):
                    take[message.topic](message)
                follower.end_displaced()
                if answers.lives > lives:
                    lives = answers.lives
                    follower.on_new_broker()
                waited_s = time.monotonic() - start_s
                if timeout_s is not None and waited_s > timeout_s:
                    break
                if not hinted and not follower.heard and waited_s > SILENCE_S:
                    hinted = True
                    command = f"python -m mediator --topic {settings.jobs_topic}"
                    say(progress.console, f"no word from a mediator yet; is `{command}` running?")
    for job in follower.open:
        say(
            console,
            f"{job.op} {job.job_id} has not ended within --timeout {timeout_s:g} s "
            f"(last state: {job.state}); it goes on",
        )
    if any(job.outcome == "failed" for job in jobs):
        return EXIT_JOB
    return EXIT_TIMEOUT if follower.open else 0


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    config_paths: Annotated[
        list[Path],
        typer.Option("--configPath", "--config-path", help="A job as JSON; may be given again."),
    ],
    broker: Annotated[
        str | None,
        typer.Option(help="host:port; else localhost:9092, else the broker the mediator started."),
    ] = None,
    topic: Annotated[str, typer.Option(help="Jobs topic.")] = DEFAULT_JOBS_TOPIC,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="field=value (JSON or text), over every config; repeatable."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            help="Kafka key: jobs of one key reach the same mediator; default the job id."
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow each job to its end.")] = False,
    timeout: Annotated[
        float | None, typer.Option(min=0.0, help="With --wait: longest wait, seconds.")
    ] = None,
    log_root: Annotated[
        Path, typer.Option("--log-root", help="Where broker.json tells the broker's address.")
    ] = Path("logs"),
    properties: Annotated[
        Path | None,
        typer.Option("--kafka-properties", help="librdkafka .properties file (TLS, SASL)."),
    ] = None,
) -> None:
    """Publish jobs to the mediator's topic."""
    # Errors come as one line from here; librdkafka's own log would only repeat them.
    logging.getLogger("kafka_utils").setLevel(logging.CRITICAL)
    console, errors = Console(), Console(stderr=True)
    try:
        changes = [parse_setting(text) for text in settings or []]
        jobs = [load_config(path, changes) for path in config_paths]
        check_ids(jobs)
        if wait and (blind := [job.source for job in jobs if job.job_id is None]):
            raise UsageError(f"--wait can not follow {blind[0]}: its job_id is not text")
        connection = connect(broker, log_root, topic, properties)
        if wait:
            elsewhere = None if broker is not None else log_root / DISCOVERY_NAME
            code = follow(connection, jobs, timeout, console, key, elsewhere)
        else:
            publish(connection, jobs, console, key)
            code = 0
    except UsageError as error:
        say(errors, f"error: {error}")
        raise typer.Exit(EXIT_USAGE) from error
    except KafkaUtilsError as error:
        say(errors, f"error: {error}")
        raise typer.Exit(EXIT_BROKER) from error
    raise typer.Exit(code)


if __name__ == "__main__":
    app()
