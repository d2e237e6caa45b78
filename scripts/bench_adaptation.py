#!/usr/bin/env python3
"""Does a learned starting point help, and what is forgotten? The adaptation protocol as one run.

For each seed and each way to a starting point a train job of equal compute, then an eval job of the
same test-time optimiser over a list of steps; then, on the first way named by --restrict-on, eval
jobs from unrestricted to local. All of them are real jobs through a mediator of its own. What has
been done is not done again: the same options go on where an interrupted run stopped.

Exit codes: 0 done, 1 a job did not succeed, 2 wrong command line, 128 + N stopped by signal N.
"""

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from demo_processes import Children, DemoError, Stopped, listen_for_signals, tail

from nerfcore import atomic
from nerfcore.errors import NerfcoreError
from nerfcore.evaluation import read_metrics, summarise
from nerfcore.evaluation.report import compare_report
from nerfcore.evaluation.report.compare import comparison_table

ROOT = Path(__file__).resolve().parents[1]
START_S, GRACE_S = 60.0, 20.0
# Restrictions of the adaptation, from none to all: fields of an eval job.
RESTRICTIONS: dict[str, dict[str, Any]] = {
    "unrestricted": {"exposure": False, "replay": 0.0, "local": False},
    "exposure": {"exposure": True, "replay": 0.0, "local": False},
    "replay": {"exposure": True, "replay": 0.25, "local": False},
    "local": {"exposure": True, "replay": 0.0, "local": True},
    "replay+local": {"exposure": True, "replay": 0.25, "local": True},
    "replay+local, no exposure": {"exposure": False, "replay": 0.25, "local": True},
}

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Protocol:
    """What is run; its digest names the jobs, so another choice runs anew.

    Attributes:
        data: fields that every job shares.
        algos: ways to a starting point; "scratch" is an untrained model.
        seeds: of training and adaptation.
        train: fields of every train job; train_by_algo: more fields by algo.
        evaluation: fields of every eval job; without `exposure` in it, they fit the exposure.
        restrict_on: the way whose starting points the restrictions are tried on; "" for none.
    """

    data: dict[str, Any]
    algos: tuple[str, ...]
    seeds: tuple[int, ...]
    train: dict[str, Any]
    train_by_algo: dict[str, dict[str, Any]]
    evaluation: dict[str, Any]
    restrict_on: str

    @property
    def fits_exposure(self) -> bool:
        """Whether the starting points are compared with the new images' exposure fitted."""
        return self.evaluation.get("exposure", True)

    def label(self, algo: str) -> str:
        """What tables and curves call a starting point."""
        return algo if self.fits_exposure else f"{algo}, no exposure"

    def train_job(self, algo: str, seed: int) -> dict[str, Any]:
        """The job that makes one starting point."""
        spec = {"op": "train", "seed": seed, **self.data, **self.train}
        if algo == "scratch":  # one step at no rate: the model as it is drawn
            spec |= {"algo": "joint", "outer_steps": 1, "time_limit_s": None}
            spec |= dict.fromkeys(("encoding_lr", "sigma_lr", "color_lr", "bg_lr"), 0.0)
        else:
            spec |= {"algo": algo, **self.train_by_algo.get(algo, {})}
        return self._named(spec, f"{algo}-s{seed}")

    def eval_job(self, algo: str, seed: int, **fields: Any) -> dict[str, Any]:
        """The job that adapts one starting point and scores it."""
        source = self.train_job(algo, seed)["job_id"]
        spec = {"op": "eval", "seed": seed, **self.data, **self.evaluation, **fields}
        words = "-".join(str(value) for value in fields.values())
        return self._named(spec | {"checkpoint_path": source}, f"{algo}-s{seed}-eval-{words}")

    def _named(self, spec: dict[str, Any], words: str) -> dict[str, Any]:
        digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:8]
        return {**spec, "job_id": f"bench-{words}-{digest}"[:64].replace("+", "-")}


class Bench:
    """Runs a protocol's jobs, one after the other."""

    def __init__(self, children: Children, out: Path, data_root: Path, broker: str) -> None:
        self._children = children
        self._out = out
        self.logs = out / "logs"
        self._data_root = data_root
        self._broker = broker
        # its own: another bench at the same broker must not take these jobs
        self._topic = f"benchAdaptation-{hashlib.sha256(str(out).encode()).hexdigest()[:8]}"

    def start(self) -> None:
        """Start a mediator with a log root of its own; it finds or starts a broker.

        Raises:
            DemoError: it does not start.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self._out / "mediator.out"
        argv = [sys.executable, "-m", "mediator", "--topic", self._topic, "--slots", "1"]
        argv += ["--group-id", self._topic]
        argv += ["--log-root", str(self.logs), "--data-root", str(self._data_root)]
        argv += ["--broker", self._broker] if self._broker else []
        self._children.start("mediator", argv, log, GRACE_S)
        try:
            self._children.wait_for(
                "start of the mediator", lambda: "listening on topic" in tail(log, 200), START_S
            )
        except DemoError as error:
            raise DemoError(str(error), log) from error

    def done(self, spec: dict[str, Any]) -> bool:
        """Whether a job has succeeded in an earlier run or this one."""
        return (self.logs / spec["job_id"] / "result.json").is_file()

    def run(self, spec: dict[str, Any]) -> Path:
        """Run a job to its end, or take what an earlier run left; return its folder.

        Raises:
            DemoError: it did not succeed.
        """
        folder = self.logs / spec["job_id"]
        if not self.done(spec):
            config = self._out / "configs" / f"{spec['job_id']}.json"
            config.parent.mkdir(exist_ok=True)
            atomic.write_text(config, json.dumps(spec, indent=1) + "\n")
            argv = [sys.executable, "scripts/send_config.py", "--configPath", str(config)]
            argv += ["--topic", self._topic, "--wait", "--log-root", str(self.logs)]
            argv += ["--broker", self._broker] if self._broker else []
            if self._children.run(argv) != 0:
                raise DemoError(
                    f"job {spec['job_id']} did not succeed; mend the cause, remove {self.logs} or "
                    "choose another OUT, and run again", folder / "runner.log",
                )  # fmt: skip
        return folder


def starting_points(bench: Bench, protocol: Protocol) -> dict[str, list[pd.DataFrame]]:
    """Train and evaluate every starting point; metrics frames by way, one a seed."""
    frames: dict[str, list[pd.DataFrame]] = {}
    for seed in protocol.seeds:  # all ways of a seed first: an interrupted run can be compared
        for algo in protocol.algos:
            bench.run(protocol.train_job(algo, seed))
            folder = bench.run(protocol.eval_job(algo, seed))
            frames.setdefault(protocol.label(algo), []).append(read_metrics(folder))
    return frames


def restrictions(bench: Bench, protocol: Protocol) -> dict[str, list[pd.DataFrame]]:
    """Adapt the starting points of one way under each restriction; frames by restriction."""
    frames: dict[str, list[pd.DataFrame]] = {}
    for seed in protocol.seeds if protocol.restrict_on else ():
        bench.run(protocol.train_job(protocol.restrict_on, seed))
        for name, fields in RESTRICTIONS.items():
            folder = bench.run(protocol.eval_job(protocol.restrict_on, seed, **fields))
            frames.setdefault(name, []).append(read_metrics(folder))
    return frames


def restriction_table(frames: dict[str, list[pd.DataFrame]], tto: int) -> pd.DataFrame:
    """What each restriction keeps of the unrestricted gain, and what old views lose, at one tto."""
    rows = []
    for name, own in frames.items():
        parts = [summarise(frame).set_index(["tto", "split"])["psnr_gain"] for frame in own]
        gain = pd.concat(parts, axis=1).loc[tto]
        new, old = gain.loc["new_heldout"], gain.loc["old_val"]
        rows.append({
            "restriction": name, "exposure": RESTRICTIONS[name]["exposure"], "tto": tto,
            "new_gain_db": new.mean(),
            "old_val_falls_db": -old.mean(), "old_val_falls_most_db": -old.min(),
        })  # fmt: skip
    table = pd.DataFrame(rows)
    whole = table.loc[table["restriction"] == "unrestricted", "new_gain_db"]
    table["of_unrestricted"] = table["new_gain_db"] / float(whole.iloc[0])
    return table


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _read_object(path: Path | None) -> dict[str, Any]:
    return {} if path is None else json.loads(path.read_text())


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def main(
    out: Annotated[Path, typer.Argument(help="Folder of the run: jobs, tables, report.")],
    data_root: Annotated[Path, typer.Option(help="Data root that holds the dataset.")],
    data_path: Annotated[str, typer.Option(help="As in a job, e.g. data/site/.")],
    data_dirname: Annotated[str, typer.Option(help="As in a job.")] = "prepared",
    mask_dirname: Annotated[str, typer.Option(help="As in a job.")] = "g22",
    batch: Annotated[str, typer.Option(help="The new flight.")] = "batch_0001",
    algos: Annotated[str, typer.Option(help="Ways, the baseline scratch among them.")] = (
        "scratch,joint,fomaml,reptile"
    ),
    seeds: Annotated[str, typer.Option(help="Comma list.")] = "0,1,2",
    train_seconds: Annotated[float, typer.Option(min=1, help="Training of each start.")] = 900,
    max_rays: Annotated[int | None, typer.Option(help="Limit by rays besides.")] = None,
    tto: Annotated[str, typer.Option(help="Steps to score after.")] = "0,1,2,4,8,16,32,64,128,256",
    retention_tto: Annotated[int, typer.Option(help="Steps of the restrictions' table.")] = 64,
    restrict_on: Annotated[str, typer.Option(help='Way for the restrictions, "" = none.')] = (
        "joint"
    ),
    exposure: Annotated[
        bool,
        typer.Option(
            help="Fit the new images' exposure before the starting points are compared; without, "
            "tables and report have names of their own. The restrictions say it themselves."
        ),
    ] = True,
    downscale: Annotated[float, typer.Option(help="Of all images.")] = 1.0,
    max_images: Annotated[int | None, typer.Option(help="Scored of each split.")] = None,
    support_rays: Annotated[int, typer.Option(help="Rays of an adaptation step.")] = 4000,
    train_config: Annotated[
        Path, typer.Option(help="Model and rates of the train jobs; its algo is replaced.")
    ] = ROOT / "configs" / "train.json",
    meta_config: Annotated[
        Path, typer.Option(help="Episode fields and rates of the meta-learning jobs.")
    ] = ROOT / "configs" / "train_fomaml.json",
    eval_config: Annotated[Path, typer.Option(help="Rates of the test-time optimiser.")] = ROOT
    / "configs"
    / "eval.json",
    broker: Annotated[str, typer.Option(help="Default: the mediator's own.")] = "",
) -> None:
    """Measure the adaptation protocol and write its tables, curves and report to OUT.

    OUT/report.html (with --no-exposure: OUT/report_no_exposure.html) compares the starting points,
    OUT/restrictions.html the restrictions; OUT/*.csv hold the tables that are printed. Run again
    with the same options to go on; with --no-exposure the same starting points are taken.
    """
    scoring = {"batch": batch, "tto": tto, "max_images": max_images, "support_rays": support_rays}
    if not exposure:  # else not named: eval jobs of earlier runs keep their digests
        scoring["exposure"] = False
    protocol = _protocol(
        {
            "data_path": data_path, "data_dirname": data_dirname, "mask_dirname": mask_dirname,
            "downscale": downscale,
        },
        tuple(algos.split(",")), _numbers(seeds), restrict_on,
        (train_config, meta_config, eval_config),
        {"time_limit_s": train_seconds, "max_rays": max_rays}, scoring,
    )  # fmt: skip
    listen_for_signals()
    try:
        with Children(ROOT) as children:
            bench = Bench(children, out.resolve(), data_root.resolve(), broker)
            bench.start()
            _report(bench, protocol, out, retention_tto)
    except Stopped as stop:
        raise typer.Exit(stop.exit_code) from stop
    except (DemoError, NerfcoreError, OSError) as error:
        print(f"bench_adaptation: {error}", file=sys.stderr)
        for log in getattr(error, "logs", ()):
            print(f"--- {log}\n{tail(log)}", file=sys.stderr)
        raise typer.Exit(1) from error


_MODEL = (
    "log2_hashmap_size", "max_resolution", "sigma_depth", "color_depth", "batch_rays",
    "decay_factor", "outer_steps", "encoding_lr", "sigma_lr", "color_lr", "bg_lr",
)  # fmt: skip
_EPISODE = (
    "batch_size", "support_rays", "query_rays", "inner_iter", "inner_lr", "cell_dim",
    "encoding_lr", "sigma_lr", "color_lr", "bg_lr",
)  # fmt: skip
_RATES = ("encoding_lr", "sigma_lr", "color_lr", "bg_lr")


def _protocol(
    data: dict[str, Any],
    algos: tuple[str, ...],
    seeds: tuple[int, ...],
    restrict_on: str,
    configs: tuple[Path, Path, Path],
    train: dict[str, Any],
    evaluation: dict[str, Any],
) -> Protocol:
    """Take models, episodes and rates from the config files, all else from the options."""
    given, episodes, rates = (_read_object(path) for path in configs)
    meta = {name: episodes[name] for name in _EPISODE if name in episodes}
    common = {name: given[name] for name in _MODEL if name in given}
    common |= {"eval_step": 100_000, "save_step": 100_000, "keep_checkpoints": 1}
    return Protocol(
        data, algos, seeds, {**common, **train},
        {algo: meta for algo in ("fomaml", "maml", "reptile")},
        {**{name: rates[name] for name in _RATES if name in rates}, **evaluation},
        restrict_on,
    )  # fmt: skip


def _report(bench: Bench, protocol: Protocol, out: Path, retention_tto: int) -> None:
    starts = starting_points(bench, protocol)
    kind, words = ("", "") if protocol.fits_exposure else ("_no_exposure", ", no exposure")
    page = compare_report(starts, f"Starting points{words}")
    atomic.write_text(out / f"report{kind}.html", page)
    for split in ("new_heldout", "old_val"):
        table = comparison_table(starts, split)
        atomic.write_text(out / f"starts{kind}_{split}.csv", table.to_csv(index=False))
        print(f"\n{split}{words}: mean PSNR over {len(protocol.seeds)} seeds, dB")
        print(table.round(2).to_string(index=False))
    for algo in protocol.algos:
        print(f"{algo}: {_compute(bench, protocol, algo)}")
    tried = restrictions(bench, protocol)
    if not tried:
        return
    atomic.write_text(out / "restrictions.html", compare_report(tried, "Restrictions"))
    table = restriction_table(tried, retention_tto)
    atomic.write_text(out / "restrictions.csv", table.to_csv(index=False))
    print(f"\nrestrictions, on {protocol.restrict_on}:")
    print(table.round(3).to_string(index=False))
    for seed in protocol.seeds:
        _print_by_place(bench, protocol, seed)


def _compute(bench: Bench, protocol: Protocol, algo: str) -> str:
    """Rays trained and seconds used, by seed."""
    words = []
    for seed in protocol.seeds:
        folder = bench.logs / protocol.train_job(algo, seed)["job_id"] / "checkpoints"
        last = json.loads((folder / "index.json").read_text())["last"]
        extra = json.loads((folder / last / "manifest.json").read_text())["extra"]
        words.append(f"{extra['rays'] / 1e6:.2f} M rays in {extra['used_s']:.0f} s")
    return ", ".join(words)


def _print_by_place(bench: Bench, protocol: Protocol, seed: int) -> None:
    """Old views where the new images disagree, and elsewhere."""
    for name, fields in RESTRICTIONS.items():
        folder = bench.logs / protocol.eval_job(protocol.restrict_on, seed, **fields)["job_id"]
        found = json.loads((folder / "result.json").read_text()).get("old_val_by_place")
        if found is not None:
            print(f"seed {seed}, {name}, old views by place: {found}")


if __name__ == "__main__":
    app()
