"""Owns the command line: `python -m mediator --topic nerfConfigs ...` and its subcommands.

Exit codes: 0 ended by a signal after a clean stop, 1 cannot start or go on, 2 wrong usage.
"""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from configs import Roots
from kafka_utils.errors import KafkaSettingsError, KafkaUtilsError
from kafka_utils.settings import DEFAULT_JOBS_TOPIC, check_bootstrap, check_topic, load_properties
from mediator.assembly import Settings, serve, topics_of
from mediator.errors import MediatorError, SettingsError
from mediator.jobs_table import as_json, print_table
from mediator.ledger import Ledger
from mediator.slots import make_slots, parse_devices
from mediator.states import JobState

EXIT_FAILED, EXIT_USAGE = 1, 2
DEFAULT_GROUP = "nerf-mediator"
PIPE_COLUMNS = 200

app = typer.Typer(add_completion=False, no_args_is_help=False, pretty_exceptions_enable=False)
_log = logging.getLogger("mediator")

LogRoot = Annotated[
    Path | None,
    typer.Option(help="folder for logs, artifacts and the ledger; default <project-root>/logs"),
]


@app.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    topic: Annotated[str, typer.Option(help="topic that jobs come from")] = DEFAULT_JOBS_TOPIC,
    broker: Annotated[
        str | None,
        typer.Option(help="host:port; default: localhost:9092, else the embedded broker"),
    ] = None,
    group_id: Annotated[
        str, typer.Option("--group-id", "--group_id", help="Kafka consumer group")
    ] = DEFAULT_GROUP,
    devices: Annotated[str, typer.Option(help="None, cpu, or GPU numbers such as 0,1")] = "None",
    slots: Annotated[
        int | None, typer.Option(help="train and eval jobs at a time; default one a GPU, else 1")
    ] = None,
    view_slots: Annotated[int, typer.Option(help="view jobs at a time")] = 2,
    cleanup: Annotated[
        bool, typer.Option("--cleanup", help="first remove ended jobs; logs/example is kept")
    ] = False,
    log_root: LogRoot = None,
    data_root: Annotated[
        list[Path] | None,
        typer.Option(help="folder jobs may read data from; may be repeated; default data"),
    ] = None,
    project_root: Annotated[
        Path, typer.Option(help="what relative paths in jobs start from")
    ] = Path(),
    kafka_properties: Annotated[
        Path | None, typer.Option(help="librdkafka properties file (TLS, SASL)")
    ] = None,
    broker_wait_s: Annotated[
        float | None, typer.Option(min=0, help="give up after this long without a broker, s")
    ] = None,
    grace_s: Annotated[
        float, typer.Option(min=0, help="time for runners to save their work at the end, s")
    ] = 60.0,
) -> None:
    """Take jobs from a Kafka topic and run each in a process of its own, until SIGTERM."""
    if context.invoked_subcommand is not None:
        return
    try:
        if broker is not None:
            check_bootstrap(broker)
        settings = Settings(
            roots=_roots(project_root, data_root, log_root),
            slots=make_slots(parse_devices(devices), slots, view_slots),
            topic=check_topic(topic),
            broker=broker,
            group_id=group_id,
            cleanup=cleanup,
            broker_wait_s=broker_wait_s,
            grace_s=grace_s,
            properties={} if kafka_properties is None else load_properties(kafka_properties),
        )
        serve(settings)
    except (SettingsError, KafkaSettingsError) as error:
        raise _ended(error, EXIT_USAGE) from None
    except (MediatorError, KafkaUtilsError) as error:
        raise _ended(error, EXIT_FAILED) from None


@app.command()
def jobs(
    log_root: LogRoot = None,
    project_root: Annotated[Path, typer.Option(help="holds logs/")] = Path(),
    state: Annotated[list[JobState] | None, typer.Option(help="only these states")] = None,
    as_json_text: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """List the jobs the ledger knows, in the order they came."""
    try:
        logs = _roots(project_root, None, log_root).logs
        ledger = Ledger(logs, topics_of(DEFAULT_JOBS_TOPIC), read_only=True)
        try:
            found = ledger.jobs(*(state or ()))
        finally:
            ledger.close()
    except MediatorError as error:
        raise _ended(error, EXIT_FAILED) from None
    if as_json_text:
        typer.echo(as_json(found))
    else:
        print_table(found, Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS))


def _roots(project: Path, data: list[Path] | None, logs: Path | None) -> Roots:
    return Roots.below(
        project.resolve(),
        [root.resolve() for root in data] if data else None,
        logs.resolve() if logs else None,
    )


def _ended(error: Exception, code: int) -> typer.Exit:
    if _log.handlers:
        _log.error("%s", error)
    else:
        typer.echo(f"mediator: {error}", err=True)
    return typer.Exit(code)
