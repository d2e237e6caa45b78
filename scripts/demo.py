#!/usr/bin/env python3
"""The whole system on a synthetic city, from nothing to a viewer: what `make demo` runs.

Makes the city and its two flights, prepares and clusters the first, adds the second as a batch,
starts the embedded broker and the mediator, publishes train, eval and view jobs, and prints the
metrics and the viewer's address. It ends with Ctrl-C, with the view job, or (--no-view) after the
metrics; whatever it started has ended then.

Exit codes: 0 done, 1 a step failed, 2 wrong usage, 128 + N stopped by signal N before the viewer.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import json
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from demo_leftovers import clear_leftovers, runners_of
from demo_processes import Children, DemoError, Stopped, listen_for_signals, tail
from demo_report import show_metrics
from rich.console import Console
from rich.markup import escape

from configs.artifacts import JobFolder, mediator_log_path
from kafka_utils.discovery import DISCOVERY_NAME, find_broker, read_discovery
from mediator.errors import MediatorError
from nerfcore import atomic
from nerfcore.errors import NerfcoreError

ROOT = Path(__file__).resolve().parents[1]
DEMO = Path("data/demo")
CITY, PREPARED = DEMO / "city", DEMO / "out" / "prepared"
MADE = "made.json"  # says that data/demo is the demo's own, and what it was made from
TOPIC = "nerfConfigs"
FIRST_VIEWER_PORT = 7070
BROKER_START_S = 30.0
BROKER_GRACE_S, MEDIATOR_GRACE_S, RUNNER_GRACE_S = 5.0, 30.0, 10.0
JOB_LIMIT_S = 3600.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """What the demo's data is made from; another choice makes it anew.

    Attributes:
        seed, images, update_images, size: of the city, see make_city.py.
    """

    seed: int = 0
    images: int = 80
    update_images: int = 24
    size: str = "256x192"

    def commands(self) -> list[list[str]]:
        """Return the commands that make the data, in order."""
        return [
            ["make_city.py", str(CITY), "--event", "collapse", "--seed", str(self.seed),
             "--images", str(self.images), "--update-images", str(self.update_images),
             "--size", self.size],
            ["prepare_dataset.py", "--data_path", str(CITY / "before"),
             "--output_path", str(PREPARED), "--ecef_to_enu", "--val_split", "0.12"],
            ["create_clusters.py", "--data_path", str(PREPARED), "--grid_dim", "2", "2",
             "--cluster_2d", "--boundary_margin", "1.05", "--output", "g22"],
            ["update_dataset.py", "--data_path", str(PREPARED),
             "--update_path", str(CITY / "after")],
        ]  # fmt: skip

    def key(self) -> str:
        """Return a digest of the commands and of the code behind them."""
        digest = hashlib.sha256(json.dumps(self.commands()).encode())
        for package in ("nerfcore/city", "nerfcore/data", "nerfcore/geometry"):
            for source in sorted((ROOT / package).glob("*.py")):
                digest.update(source.read_bytes())
        return digest.hexdigest()


class Demo:
    """One run of the demo."""

    def __init__(self, children: Children, console: Console) -> None:
        """Prepare a run.

        Args:
            children: owns the processes.
            console: where progress is told.
        """
        self._children = children
        self._console = console
        self._started = time.monotonic()
        self._stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S")
        self._broker = ""
        self.logs = ROOT / "logs"
        self.jobs: list[JobFolder] = []

    def say(self, text: str) -> None:
        """Print one line with the time since the start."""
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        self._console.print(f"[bold cyan]{minutes}:{seconds:02d}[/] {escape(text)}",
                            highlight=False, soft_wrap=True)  # fmt: skip

    def make_data(self, settings: DataSettings, fresh: bool) -> None:
        """Make the city and the prepared dataset, or keep those of an earlier run.

        Raises:
            DemoError: a command failed, or data/demo is not the demo's.
        """
        folder = ROOT / DEMO
        made = {"key": settings.key(), "settings": dataclasses.asdict(settings)}
        if not fresh and _read(folder / MADE) == {**made, "state": "ready"}:
            self.say(f"data: {DEMO} is ready from an earlier run")
            return
        _clear(folder)
        atomic.write_text(folder / MADE, json.dumps({**made, "state": "making"}) + "\n")
        for command in settings.commands():
            self.say("scripts/" + " ".join(command))
            code = self._children.run([sys.executable, f"scripts/{command[0]}", *command[1:]])
            if code != 0:
                raise DemoError(f"scripts/{command[0]} ended with exit code {code}")
        atomic.write_text(folder / MADE, json.dumps({**made, "state": "ready"}) + "\n")

    def start_services(self) -> None:
        """Start the broker, unless this log root has one, and the mediator.

        Raises:
            DemoError: one of them does not start.
        MediatorError: a mediator is running in this log root already.
        """
        clear_leftovers(self.logs, TOPIC, RUNNER_GRACE_S)
        state = self.logs / DISCOVERY_NAME
        log = ROOT / DEMO / "broker.out"
        found = find_broker(None, state)
        announced = read_discovery(state) or {}
        if found is not None and found.cluster_id == announced.get("cluster_id", ""):
            self._broker = found.bootstrap
        else:
            port = 0 if found is not None else 9092
            pid = self._children.start(
                "broker", _module("kafka_utils.broker", "--port", port, "--state", state),
                log, BROKER_GRACE_S,
            )  # fmt: skip
            self._waiting("broker", lambda: _announced_by(state, pid), log)
            self._broker = str((read_discovery(state) or {})["address"])
        self.say(f"Kafka broker at {self._broker}")
        log = ROOT / DEMO / "mediator.out"
        self._children.start(
            "mediator",
            _module("mediator", "--topic", TOPIC, "--broker", self._broker, "--grace-s",
                    RUNNER_GRACE_S),
            log, MEDIATOR_GRACE_S,
        )  # fmt: skip
        self._waiting("mediator", lambda: "listening on topic" in tail(log, 200), log)
        self.say(f"mediator listening on topic {TOPIC} (log {mediator_log_path(self.logs)})")

    def publish(self, op: str, **changes: object) -> JobFolder:
        """Publish configs/demo/<op>.json and follow the job: to its end, or to its viewer.

        Args:
            op: train, eval or view.
            changes: fields that differ from the file.

        Raises:
            DemoError: the job did not succeed.
        """
        job_id = f"demo-{op}-{self._stamp}"
        job = JobFolder(self.logs / job_id)
        self.jobs.append(job)
        settings = {"job_id": job_id, **changes}
        words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        argv = ["scripts/send_config.py", "--configPath", f"configs/demo/{op}.json", *words,
                "--broker", self._broker, "--topic", TOPIC, "--wait"]  # fmt: skip
        self.say(" ".join(argv))
        logs = (job.runner_log, mediator_log_path(self.logs))
        try:
            code = self._children.run([sys.executable, *argv, "--timeout", f"{JOB_LIMIT_S:g}"])
        except DemoError as error:
            raise DemoError(f"{op}: {error}", *logs) from error
        if code != 0:
            raise DemoError(f"the {op} job {job_id} did not succeed: {_failure_of(job)}", *logs)
        return job

    def watch(self, job: JobFolder) -> None:
        """Keep everything up until the view job ends.

        Raises:
            DemoError: the viewer failed.
        """
        while runners_of([job.root]):
            self._children.check()
            time.sleep(0.5)
        if not job.result_json.exists():
            raise DemoError(f"the viewer ended: {_failure_of(job)}", job.runner_log)
        self.say("the viewer has ended")

    def _waiting(self, name: str, ready: Callable[[], bool], log: Path) -> None:
        try:
            self._children.wait_for(f"start of the {name}", ready, BROKER_START_S)
        except DemoError as error:
            raise DemoError(str(error), log) from error


def _module(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", name, *map(str, arguments)]


def _announced_by(state: Path, pid: int) -> bool:
    return (read_discovery(state) or {}).get("pid") == pid


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _clear(folder: Path) -> None:
    """Empty the demo's data folder, if it is the demo's."""
    if folder.exists() and any(folder.iterdir()) and not (folder / MADE).exists():
        raise DemoError(f"{folder}: not made by the demo ({MADE} is missing); move it elsewhere")
    for entry in list(folder.iterdir()) if folder.exists() else []:
        if entry.name != MADE:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    folder.mkdir(parents=True, exist_ok=True)


def _failure_of(job: JobFolder) -> str:
    failure = _read(job.failure_json)
    if isinstance(failure, dict) and "message" in failure:
        return str(failure["message"])
    return "see the lines above"


def _free_viewer_port() -> int:
    """Return the viewer's usual port, or a free one if it is taken."""
    for port in (FIRST_VIEWER_PORT, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("0.0.0.0", port))
            return int(probe.getsockname()[1])
    raise DemoError("no TCP port is free for the viewer")


def _run(
    demo: Demo, console: Console, data: DataSettings, fresh: bool, train_seconds: int | None,
    with_view: bool,
) -> bool:  # fmt: skip
    """Run every step, and return whether the promised figures hold."""
    demo.make_data(data, fresh)
    demo.start_services()
    limit = {} if train_seconds is None else {"time_limit_s": train_seconds}
    train = demo.publish("train", **limit)
    scored = demo.publish("eval", checkpoint_path=train.root.name)
    held = show_metrics(console, scored.root)
    demo.say("train and eval are done")
    if with_view:
        port = _free_viewer_port()
        job = demo.publish("view", checkpoint_path=train.root.name, viewer_port=port)
        demo.say(f"viewer: http://localhost:{port} (Ctrl-C ends everything)")
        try:
            demo.watch(job)
        except Stopped:
            demo.say("stopping")
    return held


def _explain(console: Console, error: Exception) -> None:
    """Print a failure with the end of each log that tells more."""
    console.print(f"[bold red]demo:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
    for log in error.logs if isinstance(error, DemoError) else ():
        console.print(f"--- {log}", markup=False, highlight=False, soft_wrap=True)
        console.print(tail(log), markup=False, highlight=False, soft_wrap=True)


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def main(
    view: Annotated[
        bool, typer.Option("--view/--no-view", help="Open the viewer at the end, or end there.")
    ] = True,
    fresh: Annotated[bool, typer.Option("--fresh", help="Make the data anew.")] = False,
    seed: Annotated[int, typer.Option(help="Of the city.")] = DataSettings.seed,
    images: Annotated[int, typer.Option(help="Of the first flight.")] = DataSettings.images,
    update_images: Annotated[
        int, typer.Option(help="Of the second flight.")
    ] = DataSettings.update_images,
    size: Annotated[str, typer.Option(help="Of an image, px.")] = DataSettings.size,
    train_seconds: Annotated[
        int | None, typer.Option(min=1, help="Training time; default as configs/demo/train.json.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail if a promised figure is missed.")
    ] = False,
) -> None:
    """Run Skyline end to end on a synthetic city: train, adapt to an event, evaluate, view."""
    listen_for_signals()
    console = Console()
    data = DataSettings(seed=seed, images=images, update_images=update_images, size=size)
    demo: Demo | None = None
    try:
        with Children(ROOT) as children:
            demo = Demo(children, console)
            held = _run(demo, console, data, fresh, train_seconds, view)
        code = 0 if held or not strict else 1
    except Stopped as stop:
        console.print(f"demo: stopped by {stop}", highlight=False)
        code = stop.exit_code
    except (DemoError, NerfcoreError, MediatorError, OSError) as error:
        _explain(console, error)
        code = 1
    if demo is not None and demo.jobs:
        try:
            clear_leftovers(demo.logs, TOPIC, RUNNER_GRACE_S)
        except MediatorError as error:
            _explain(console, error)
            code = code or 1
    raise typer.Exit(code)


if __name__ == "__main__":
    app()
