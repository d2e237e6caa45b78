"""The whole system as a person runs it: a city made by the scripts, a mediator, real runners.

A `System` is one log root on a city and the mediators started in it; it publishes jobs with
`scripts/send_config.py`, or raw bytes, and reads back what the topics, the ledger and the logs say.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mediator_bench import Bench, end, wait_for

from configs.artifacts import JobFolder
from kafka_utils.reader import TopicReader
from mediator.proc import send_signal, tree_of
from mediator.records import JobRecord
from mediator.states import ENDED

ROOT = Path(__file__).parents[2]
SCRIPT_S = 60.0
JOB_S = 90.0
TINY = {
    "event": "collapse", "blocks": 2, "images": 24, "update-images": 20, "size": "128x96",
    "points": 1500, "supersampling": 1,
}  # fmt: skip
SMALL_MODEL = {"log2_hashmap_size": 13, "max_resolution": 256, "batch_rays": 1024}


def script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run one of the repository's scripts to its end."""
    command = [sys.executable, f"scripts/{name}", *map(str, arguments)]
    plain = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.run(
        command, cwd=ROOT, env=plain, capture_output=True, text=True, timeout=SCRIPT_S + JOB_S
    )


def demo_spec(op: str, **changes: object) -> dict[str, Any]:
    """Give `configs/demo/<op>.json` with some fields changed."""
    spec = json.loads((ROOT / "configs/demo" / f"{op}.json").read_text())
    return {**spec, **changes}


def small_train(**changes: object) -> dict[str, Any]:
    """Give the demo's train job with small tables."""
    return demo_spec("train", **{**SMALL_MODEL, **changes})


class City:
    """A project folder whose `data/demo` is what the demo makes, tiny.

    Attributes:
        project: the folder.
        flights: the COLMAP models and images, `before` and `after`.
        prepared: the dataset, with partition `g22` and one batch.
    """

    def __init__(self, project: Path, **flown: object) -> None:
        """Make it; `flown` overrides `TINY`, by `make_city.py`'s options."""
        self.project = project
        self.flights = project / "data/demo/city"
        self.prepared = project / "data/demo/out/prepared"
        options = {**TINY, **{name.replace("_", "-"): value for name, value in flown.items()}}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        _made("make_city.py", self.flights, *words)
        into = ("--data_path", self.flights / "before", "--output_path", self.prepared)
        _made("prepare_dataset.py", *into, "--ecef_to_enu", "--val_split", 0.16)
        cells = ("--grid_dim", 2, 2, "--cluster_2d", "--boundary_margin", 1.05)
        _made("create_clusters.py", "--data_path", self.prepared, *cells, "--output", "g22")
        batch = ("--update_path", self.flights / "after")
        _made("update_dataset.py", "--data_path", self.prepared, *batch)


def _made(name: str, *arguments: object) -> None:
    done = script(name, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr


class System(Bench):
    """A log root, a topic of its own, and real mediators with real runners."""

    def make_dataset(self) -> None:
        """The city has one."""

    def command(self, **options: object) -> list[str]:
        """Give the command of a real mediator; options as on its command line."""
        given = {
            "topic": self.settings.jobs_topic,
            "broker": self.address,
            "project-root": self.project,
            "log-root": self.logs,
            "group-id": f"group of {self.settings.jobs_topic}",
            "grace-s": 30,
            **{name.replace("_", "-"): value for name, value in options.items()},
        }
        words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        return [sys.executable, "-m", "mediator", *words]

    def folder(self, job_id: str) -> JobFolder:
        """Give a job's folder."""
        return JobFolder(self.logs / job_id)

    def send_config(self, spec: dict[str, Any] | Path, *options: object) -> str:
        """Publish a job with the script, wait for its end, and give what it printed."""
        path = spec if isinstance(spec, Path) else self.write_config(spec)
        where = ("--broker", self.address, "--topic", self.settings.jobs_topic)
        done = script("send_config.py", "--configPath", path, *where, "--wait", *options)
        assert done.returncode == 0, done.stdout + done.stderr + self.log()
        return done.stdout

    def write_config(self, spec: dict[str, Any]) -> Path:
        """Write a job's JSON beside the log root."""
        path = self.logs.parent / f"{spec['job_id']}.json"
        path.write_text(json.dumps(spec, indent=2))
        return path

    def progress(self, job_id: str, phase: str = "train") -> list[dict[str, Any]]:
        """Give the progress lines of a phase a job has told so far."""
        path = self.folder(job_id).progress
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        return [record for record in records if record.get("phase") == phase]

    def wait_training(self, job_id: str) -> JobRecord:
        """Wait until a train job has taken its first steps."""
        self.wait_state(job_id, "running", JOB_S)
        wait_for(f"steps of {job_id}", lambda: self.progress(job_id), JOB_S)
        return self.wait_state(job_id, "running")

    def tree(self, job_id: str) -> list[int]:
        """Give the living processes of a job's last run."""
        job = self.job(job_id)
        if job is None or job.run_token is None:
            return []
        return [process.pid for process in tree_of(job.process, job.run_token)]

    def assert_told(self, job_id: str, *states: str) -> None:
        """The topics tell these states of a job, the last one once and as its status."""
        wait_for(f"the end of {job_id} told", lambda: states[-1] in self._told_states(job_id))
        assert self._told_states(job_id) == list(states)
        events = self.events(job_id)
        assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
        raw = [json.loads(message.value or b"{}") for message in self.read_events()]
        ends = [e for e in raw if e["job_id"] == job_id and e["kind"] == "state"]
        assert sum(e["state"] in ENDED for e in ends) == 1
        with TopicReader(self.settings, self.settings.status_topic) as reader:
            status = [m.value for m in reader.read_all() if m.key == job_id.encode()]
        assert json.loads(status[-1] or b"{}")["state"] == states[-1]

    def _told_states(self, job_id: str) -> list[str]:
        return [e["state"] for e in self.events(job_id) if e["kind"] == "state"]

    def stop(self) -> None:
        """End the mediator as the system does: exit code 0, and nothing lives on."""
        assert end(self.mediators[-1]) == 0, self.log()
        for path in self.logs.iterdir():
            assert not self.tree(path.name), f"a process of {path.name} is left"

    def close(self) -> None:
        """End what runs, also after a failed test."""
        super().close()
        for path in self.logs.iterdir() if self.logs.is_dir() else []:
            job = self.job(path.name)
            for member in tree_of(job.process, job.run_token) if job and job.run_token else []:
                send_signal(member, signal.SIGKILL)


@contextlib.contextmanager
def running_system(project: Path, address: str, logs: Path | None = None) -> Iterator[System]:
    """Run a mediator over a city until the block ends."""
    system = System(project, address, logs)
    try:
        system.start_and_listen()
        yield system
        if system.mediators[-1].poll() is None:
            system.stop()
    finally:
        system.close()
