"""Owns the command line: `python -m mediator [run] --topic nerfConfigs ...` and its subcommands.

Exit codes: 0 ended by a signal after a clean stop, 1 cannot start or go on, 2 wrong usage.
"""

import contextlib
import json
import logging
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from configs import JobFolder, Roots
from configs.common import JOB_ID_PATTERN
from configs.schema import message_schema
from kafka_utils.errors import KafkaSettingsError, KafkaUtilsError
from kafka_utils.settings import DEFAULT_JOBS_TOPIC, check_bootstrap, check_topic, load_properties
from mediator.assembly import Settings, serve, topics_of
from mediator.checks import check_all
from mediator.commands import (
    ask,
    changed_fields,
    connect,
    describe,
    known_job,
    log_of,
)
from mediator.errors import MediatorError, SettingsError
from mediator.jobs_table import as_json, local_time, print_table
from mediator.latest import latest_progress
from mediator.ledger import Ledger
from mediator.limits import Limits
from mediator.runner_log import follow_log
from mediator.slots import make_slots, parse_devices
from mediator.states import ENDED, JobState

EXIT_FAILED, EXIT_USAGE = 1, 2
WATCH_S = 1.0
DEFAULT_GROUP = "nerf-mediator"
PIPE_COLUMNS = 200


app = typer.Typer(add_completion=False, no_args_is_help=False, pretty_exceptions_enable=False)
_log = logging.getLogger("mediator")

JobArgument = Annotated[str, typer.Argument(help="the job's id")]
AsJson = Annotated[bool, typer.Option("--json", help="as JSON")]
Topic = Annotated[str, typer.Option(help="topic that jobs come from")]
Broker = Annotated[
    str | None, typer.Option(help="host:port; default: localhost:9092, else the embedded broker")
]
Properties = Annotated[Path | None, typer.Option(help="librdkafka properties file (TLS, SASL)")]
ProjectRoot = Annotated[Path, typer.Option(help="what relative paths in jobs start from")]
DataRoot = Annotated[
    list[Path] | None,
    typer.Option(help="folder jobs may read data from; may be repeated; default data"),
]
LogRoot = Annotated[
    Path | None,
    typer.Option(help="folder for logs, artifacts and the ledger; default <project-root>/logs"),
]


def arguments_with_command(given: list[str]) -> list[str]:
    """Give the arguments with `run` in front where they begin with an option of it."""
    first = given[0] if given else "--"
    return ["run", *given] if first.startswith("-") and first != "--help" else given


@app.command()
def run(
    topic: Topic = DEFAULT_JOBS_TOPIC,
    broker: Broker = None,
    group_id: Annotated[
        str, typer.Option("--group-id", "--group_id", help="Kafka consumer group")
    ] = DEFAULT_GROUP,
    devices: Annotated[str, typer.Option(help="None, cpu, or GPU numbers such as 0,1")] = "None",
    slots: Annotated[
        int | None,
        typer.Option("--slots", "--cpu-slots", help="jobs at a time; default one a GPU, else 1"),
    ] = None,
    view_slots: Annotated[int, typer.Option(help="view jobs at a time")] = 2,
    cleanup: Annotated[
        bool, typer.Option("--cleanup", help="first remove ended jobs; logs/example is kept")
    ] = False,
    log_root: LogRoot = None,
    data_root: DataRoot = None,
    project_root: ProjectRoot = Path(),
    kafka_properties: Properties = None,
    broker_wait_s: Annotated[
        float | None, typer.Option(min=0, help="give up after this long without a broker, s")
    ] = None,
    grace_s: Annotated[
        float, typer.Option(min=0, help="time for runners to save their work at the end, s")
    ] = 60.0,
    warm: Annotated[
        bool,
        typer.Option("--warm/--cold", help="start jobs from a process that has the engine loaded"),
    ] = True,
    detach: Annotated[
        bool, typer.Option("--detach", help="leave running jobs running when this ends")
    ] = False,
    max_attempts: Annotated[
        int, typer.Option(min=1, max=1000, help="attempts at a job whose failure may heal")
    ] = 3,
    wait_limit_s: Annotated[
        float | None,
        typer.Option(min=0, help="longest wait for a job's first attempt, s; later ones may wait"),
    ] = None,
    run_limit_s: Annotated[
        float | None, typer.Option(min=0, help="longest time of one attempt, s")
    ] = None,
    progress_limit_s: Annotated[
        float | None, typer.Option(min=0, help="longest time without a new step, s")
    ] = None,
    lease_s: Annotated[
        float | None,
        typer.Option(min=1, help="silence after which another mediator's jobs are taken over, s"),
    ] = None,
) -> None:
    """Take jobs from a Kafka topic and run each in a process of its own, until SIGTERM."""
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
            lease_s=lease_s,
            limits=Limits(wait_limit_s, run_limit_s, progress_limit_s, max_attempts),
            warm=warm,
            detach=detach,
            properties=_properties(kafka_properties),
        )
        serve(settings)
    except (SettingsError, KafkaSettingsError) as error:
        raise _ended(error, EXIT_USAGE) from None
    except (MediatorError, KafkaUtilsError) as error:
        raise _ended(error, EXIT_FAILED) from None


@app.command()
def jobs(
    log_root: LogRoot = None,
    project_root: ProjectRoot = Path(),
    state: Annotated[list[JobState] | None, typer.Option(help="only these states")] = None,
    as_json_text: AsJson = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="again every second, until Ctrl-C")
    ] = False,
) -> None:
    """List the jobs the ledger knows, in the order they came."""
    console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS)
    with _ledger(project_root, log_root) as (ledger, logs):

        def progress(job_id: str) -> str:
            return latest_progress(JobFolder(logs / job_id).progress)

        while True:
            found = ledger.jobs(*(state or ()))
            if watch and console.is_terminal:
                console.clear()
            if as_json_text:
                typer.echo(as_json(found))
            else:
                print_table(found, console, progress)
            if not watch:
                return
            time.sleep(WATCH_S)


@app.command()
def show(
    job_id: JobArgument,
    log_root: LogRoot = None,
    project_root: ProjectRoot = Path(),
    as_json_text: AsJson = False,
) -> None:
    """Show one job: its spec, its states with times, its process, its files."""
    with _ledger(project_root, log_root) as (ledger, logs):
        job = known_job(ledger, job_id)
        record = describe(ledger, job, JobFolder(logs / job_id))
    if as_json_text:
        typer.echo(json.dumps(record, indent=2))
        return
    history, spec = record.pop("history"), record.pop("spec")
    for name, value in record.items():
        if value not in (None, [], ""):
            shown = ", ".join(value) if isinstance(value, list) else str(value)
            typer.echo(f"{name:14} {local_time(shown) if name.endswith('_at') else shown}")
    typer.echo("history")
    for row in history:
        reason = f"  {row['reason']}" if row["reason"] else ""
        when = local_time(row["time"])
        typer.echo(f"  {when}  attempt {row['attempt']}  {row['state']}{reason}")
    typer.echo("spec, as far as it differs from the defaults (all of it: --json)")
    for name, value in changed_fields(spec).items():
        typer.echo(f"  {name} = {json.dumps(value)}")


@app.command()
def logs(
    job_id: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="until the job ends")] = False,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="an earlier attempt's; default the latest")
    ] = None,
    log_root: LogRoot = None,
    project_root: ProjectRoot = Path(),
) -> None:
    """Print what a job's runner wrote."""
    with _ledger(project_root, log_root) as (ledger, folder):
        path = log_of(JobFolder(folder / job_id), known_job(ledger, job_id), attempt)

        def ended() -> bool:
            return known_job(ledger, job_id).state in ENDED

        for text in follow_log(path, ended, follow=follow):
            typer.echo(text, nl=False)


@app.command()
def cancel(
    job_id: JobArgument,
    broker: Broker = None,
    topic: Topic = DEFAULT_JOBS_TOPIC,
    log_root: LogRoot = None,
    project_root: ProjectRoot = Path(),
    kafka_properties: Properties = None,
) -> None:
    """Cancel a job, whether it waits, runs or is still to come."""
    _ask("cancel", job_id, broker, topic, _roots(project_root, None, log_root), kafka_properties)


@app.command()
def retry(
    job_id: JobArgument,
    broker: Broker = None,
    topic: Topic = DEFAULT_JOBS_TOPIC,
    log_root: LogRoot = None,
    project_root: ProjectRoot = Path(),
    kafka_properties: Properties = None,
) -> None:
    """Run a job anew that failed, timed out or was cancelled; it goes on from its checkpoint."""
    _ask("retry", job_id, broker, topic, _roots(project_root, None, log_root), kafka_properties)


@app.command()
def schema() -> None:
    """Print the JSON Schema of every message the jobs topic takes."""
    typer.echo(json.dumps(message_schema(), indent=2))


@app.command()
def check(
    broker: Broker = None,
    topic: Topic = DEFAULT_JOBS_TOPIC,
    devices: Annotated[str, typer.Option(help="None, cpu, or GPU numbers such as 0,1")] = "None",
    log_root: LogRoot = None,
    data_root: DataRoot = None,
    project_root: ProjectRoot = Path(),
    kafka_properties: Properties = None,
) -> None:
    """Look at broker, topics, disk, ledger, data and devices: one line each, with the mend."""
    try:
        roots = _roots(project_root, data_root, log_root)
        wanted = parse_devices(devices)
        findings = check_all(roots, broker, topic, wanted, _properties(kafka_properties))
        well = True
        for finding in findings:
            well = well and finding.well
            typer.echo(f"{'ok ' if finding.well else 'BAD'} {finding.name:8} {finding.text}")
    except (SettingsError, KafkaSettingsError) as error:
        raise _ended(error, EXIT_USAGE) from None
    raise typer.Exit(0 if well else EXIT_FAILED)


def _ask(
    op: str, job_id: str, broker: str | None, topic: str, roots: Roots, properties: Path | None
) -> None:
    try:
        if not re.fullmatch(JOB_ID_PATTERN, job_id):
            raise SettingsError(f"job id {job_id!r}: 1 to 64 letters, digits, '.', '_' or '-'")
        settings = connect(broker, roots.logs, topic, _properties(properties))
        ask(settings, op, job_id)
    except (SettingsError, KafkaSettingsError) as error:
        raise _ended(error, EXIT_USAGE) from None
    except KafkaUtilsError as error:
        raise _ended(error, EXIT_FAILED) from None
    typer.echo(f"asked to {op} job {job_id} ({topic} at {settings.bootstrap}); see `mediator show`")


@contextlib.contextmanager
def _ledger(project: Path, log_root: Path | None) -> Iterator[tuple[Ledger, Path]]:
    try:
        folder = _roots(project, None, log_root).logs
        ledger = Ledger(folder, topics_of(DEFAULT_JOBS_TOPIC), read_only=True)
        try:
            yield ledger, folder
        finally:
            ledger.close()
    except MediatorError as error:
        raise _ended(error, EXIT_FAILED) from None
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _properties(path: Path | None) -> dict[str, str]:
    return {} if path is None else load_properties(path)


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
