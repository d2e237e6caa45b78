#!/usr/bin/env python3
"""Measures what the engine promises, beside plain PyTorch: what `make bench` runs.

Every ratio is measured in this one run: the contestants take turns after one warm-up each, and a
row holds medians. Without --dataset the scene is a city made for the run in a temporary folder.

Exit codes: 0 measured (a missed target is a row's `met`, not a failure), 1 a measurement failed,
2 wrong usage, 11 the dataset is missing or wrong.
"""

import contextlib
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from bench_data import data_rows
from bench_experts import experts_rows
from bench_measure import BenchError, Row, device_name, worker_threads, write_rows
from bench_memory import memory_row
from bench_scene import NEVER, OnProgress, TrainedScene, open_dataset, shipped_settings, train_scene
from bench_speed import frame_rows, hash_grid_row, train_rows
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from configs.exit_codes import ExitCode
from nerfcore.data.progress import progress_bar
from nerfcore.data.records import Dataset
from nerfcore.errors import DataError, NerfcoreError
from nerfcore.field.backends import resolve_device

PARTS = ("hashgrid", "train", "frame", "experts", "memory", "data")
WIDTH_COLUMNS = 120  # where the output is no terminal

T = TypeVar("T")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        dataset: prepared dataset, None = a city made for the run.
        parts: some of PARTS.
        rounds: figures a median is taken of.
        train_seconds: training of the one model that steps and pictures are timed with.
        device: "auto", "cpu" or "cuda".
    """

    dataset: Path | None
    parts: tuple[str, ...]
    rounds: int
    train_seconds: float
    device: str


class Bench:
    """One run: makes what several parts share, once, when it is first needed."""

    def __init__(self, plan: Plan, folder: Path, on_progress: OnProgress) -> None:
        self.plan, self.folder, self.on_progress = plan, folder, on_progress
        self._dataset: Dataset | None = None
        self._trained: TrainedScene | None = None

    def dataset(self) -> Dataset:
        """Return the dataset, loaded or made."""
        if self._dataset is None:
            self._dataset = open_dataset(self.plan.dataset, self.folder, self.on_progress)
        return self._dataset

    def trained(self) -> TrainedScene:
        """Return the trained scene."""
        if self._trained is None:
            settings = shipped_settings(
                self.plan.device, outer_steps=NEVER, time_limit_s=self.plan.train_seconds
            )
            checkpoints = self.folder / "checkpoints"
            self._trained = train_scene(self.dataset(), settings, checkpoints, self.on_progress)
        return self._trained

    def prepare(self, part: str) -> None:
        """Make what a part needs, so that its own time is the measuring's."""
        if part in ("train", "frame"):
            self.trained()
        elif part == "experts":
            self.dataset()

    def rows(self, part: str) -> list[Row]:
        """Measure one part."""
        rounds, say = self.plan.rounds, self.on_progress
        measures: dict[str, Callable[[], list[Row]]] = {
            "hashgrid": lambda: [hash_grid_row(rounds, say)],
            "train": lambda: train_rows(self.trained(), self.folder, rounds, say),
            "frame": lambda: frame_rows(self.trained(), self.folder, rounds, say),
            "experts": lambda: experts_rows(
                self.dataset(), shipped_settings(self.plan.device), rounds, say
            ),
            "memory": lambda: [memory_row(self.folder, self.plan.device, say)],
            "data": lambda: data_rows(self.folder, on_progress=say),
        }
        return measures[part]()


def run(plan: Plan, on_progress: OnProgress) -> list[Row]:
    """Measure all parts of a plan.

    Raises:
        BenchError, NerfcoreError, OSError: something could not be made or measured.
    """
    device = resolve_device(plan.device)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="skyline-bench-") as name:
        bench = Bench(plan, Path(name), on_progress)
        for part in plan.parts:
            made_s, _ = _timed(lambda p=part: bench.prepare(p))
            load = os.getloadavg()[0]
            part_s, found = _timed(lambda p=part: bench.rows(p))
            took = {
                "load_before": round(load, 2),
                "load_after": round(os.getloadavg()[0], 2),
                "scene_made_s": round(made_s, 1),
                "part_s": round(part_s, 1),
            }
            ran_on = "cpu" if part in ("hashgrid", "data") else device.type
            rows += [
                dataclasses.replace(
                    row, detail={**row.detail, **took}, threads=worker_threads(),
                    device=device_name(resolve_device(ran_on)),
                )
                for row in found
            ]  # fmt: skip
    return rows


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds that work took, and its result."""
    began_s = time.monotonic()
    result = work()
    return time.monotonic() - began_s, result


def show(console: Console, rows: list[Row]) -> None:
    """Print rows as a table, and their details below it."""
    table = Table(title="Bench")
    for heading in ("name", "value", "unit", "ratio", "against", "target", "met"):
        table.add_column(heading, no_wrap=heading != "against")
    for row in rows:
        met = {True: "[green]yes", False: "[red]no", None: ""}[row.met]
        table.add_row(
            row.name,
            f"{row.value:,g}",
            row.unit,
            "" if row.ratio is None else f"{row.ratio:g}",
            row.against or "",
            row.target or "",
            met,
        )
    console.print(table)
    for row in rows:
        console.print(f"[bold]{row.name}[/] {escape(json.dumps(row.detail))}", soft_wrap=True,
                      highlight=False)  # fmt: skip
    if rows:
        console.print(f"{rows[-1].device}, {rows[-1].threads} threads", highlight=False)


@contextlib.contextmanager
def _progress() -> Iterator[OnProgress]:
    """Give bars on a terminal, one line a phase elsewhere."""
    if sys.stderr.isatty():
        with progress_bar() as on_progress:
            yield on_progress
        return
    seen: set[str] = set()
    began_s = time.monotonic()

    def say(phase: str, done: int, total: int) -> None:
        if phase not in seen:
            seen.add(phase)
            print(f"{time.monotonic() - began_s:5.0f} s  {phase}", file=sys.stderr, flush=True)

    yield say


def _plan(**options: Any) -> Plan:
    unknown = [part for part in options["parts"] if part not in PARTS]
    if unknown:
        raise typer.BadParameter(
            f"'{unknown[0]}' is none of {', '.join(PARTS)}", param_hint="--only"
        )
    dataset: Path | None = options["dataset"]
    if dataset is not None and not dataset.is_dir():
        raise DataError(f"dataset: {dataset} is no folder; prepare one with "
                        "scripts/prepare_dataset.py, or leave it out")  # fmt: skip
    if options["device"] not in ("auto", "cpu", "cuda"):
        raise typer.BadParameter(
            f"'{options['device']}' is none of auto, cpu, cuda", param_hint="--device"
        )
    options["parts"] = tuple(options["parts"] or PARTS)
    return Plan(**options)


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def main(
    dataset: Annotated[
        Path | None,
        typer.Option(help="Prepared dataset to measure on; default: a city made for the run."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="JSON file to write; its folder must exist.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"Measure only this part (repeatable): {', '.join(PARTS)}."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Figures that each median is taken of.")] = 5,
    train_seconds: Annotated[
        float, typer.Option(min=1.0, help="Training before steps and pictures are timed, s.")
    ] = 60.0,
    device: Annotated[str, typer.Option(help="Of the engine: auto, cpu or cuda.")] = "auto",
) -> None:
    """Measure the engine beside plain PyTorch and print a table."""
    wide = None if sys.stdout.isatty() else WIDTH_COLUMNS
    console = Console(width=wide)
    try:
        if out is not None and not out.resolve().parent.is_dir():
            raise typer.BadParameter(f"{out.parent} is no folder", param_hint="--out")
        plan = _plan(
            dataset=dataset, parts=only or [], rounds=rounds, train_seconds=train_seconds,
            device=device,
        )  # fmt: skip
        with _progress() as on_progress:
            took_s, rows = _timed(lambda: run(plan, on_progress))
        show(console, rows)
        console.print(f"{took_s:.0f} s in all", highlight=False)
        if out is not None:
            write_rows(out, rows)
            console.print(f"written: {out}", highlight=False, soft_wrap=True)
    except DataError as error:
        print(f"bench: {error}", file=sys.stderr)
        raise typer.Exit(ExitCode.BAD_DATA) from None
    except (BenchError, NerfcoreError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app()
