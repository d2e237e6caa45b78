"""A tiny city and the real runner on it, as a process or in this one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from configs import Roots
from runner.execute import Request, execute
from runner.stopping import StopRequest

ROOT = Path(__file__).parents[2]
DEADLINE_S = 120.0
DATA = {"data_path": "data/demo/", "data_dirname": "prepared", "mask_dirname": "g22"}
MODEL = {"log2_hashmap_size": 12, "max_resolution": 256}
TRAIN = {
    "op": "train",
    **DATA,
    **MODEL,
    "downscale": 0.5,
    "batch_rays": 512,
    "outer_steps": 20,
    "save_step": 10,
    "eval_step": 10,
    "print_step": 1,
}
EVAL = {
    "op": "eval",
    **DATA,
    "downscale": 0.5,
    "checkpoint_path": "trained",
    "support_rays": 256,
    "max_images": 2,
}


def script(name: str, *arguments: object) -> None:
    """Run one of the repository's scripts to its end."""
    done = subprocess.run(
        [sys.executable, f"scripts/{name}", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr


class City:
    """A project folder with a prepared tiny city, its partitions and a later batch."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.logs = project / "logs"
        demo = project / "data/demo"
        demo.mkdir(parents=True)
        size = ("--blocks", 1, "--images", 16, "--update-images", 8, "--size", "96x72")
        script("make_city.py", demo / "city", *size, "--points", 800, "--supersampling", 1)
        prepared = demo / "out/prepared"
        before = ("--data_path", demo / "city/before", "--output_path", prepared)
        script("prepare_dataset.py", *before, "--val_split", 0.25, "--ecef_to_enu")
        for name, grid in (("g22", "2 2"), ("g11", "1 1")):
            options = ("--grid_dim", *grid.split(), "--cluster_2d", "--output", name)
            script("create_clusters.py", "--data_path", prepared, *options)
        after = ("--update_path", demo / "city/after")
        script("update_dataset.py", "--data_path", prepared, *after)

    def job(self, job_id: str, spec: dict[str, Any]) -> Path:
        folder = self.logs / job_id
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "job.json").write_text(json.dumps(spec))
        return folder / "job.json"

    def start(self, job_id: str, **spec: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "runner", str(self.job(job_id, spec))]
        return subprocess.Popen(
            [*command, "--project-root", str(self.project)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, job_id: str, **spec: Any) -> tuple[int, str]:
        process = self.start(job_id, **spec)
        try:
            output, _ = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
        return process.returncode, output

    def run_here(self, job_id: str, **spec: Any) -> tuple[int, str]:
        """Run a job in this process, where the engine is imported already."""
        request = Request(self.job(job_id, spec), Roots.below(self.project))
        code = execute(request, StopRequest())
        return code, (self.logs / job_id / "runner.log").read_text()

    def record(self, job_id: str, name: str) -> dict[str, Any]:
        return json.loads((self.logs / job_id / name).read_text())

    def events(self, job_id: str) -> list[dict[str, Any]]:
        path = self.logs / job_id / "progress.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines(keepends=True)]

    def has_event(self, job_id: str, name: str, phase: str | None = None) -> bool:
        return any(
            event["event"] == name and phase in (None, event.get("phase"))
            for event in self.events(job_id)
        )
