"""Owns the names of everything below the log root: the ledger, and each job's folder."""

from dataclasses import dataclass
from pathlib import Path

LEDGER = "ledger.sqlite3"
MEDIATOR_LOG = "mediator.log"
BROKER_FILE = "broker.json"
# Names in the log root that a job's folder must not take (SQLite adds -wal, -shm, -journal).
RESERVED_PREFIXES = (LEDGER, MEDIATOR_LOG, BROKER_FILE)

CHECKPOINT_INDEX = "index.json"
CHECKPOINT_MANIFEST = "manifest.json"


def ledger_path(log_root: Path) -> Path:
    """Return the ledger's file."""
    return log_root / LEDGER


def mediator_log_path(log_root: Path) -> Path:
    """Return the mediator's own log."""
    return log_root / MEDIATOR_LOG


@dataclass(frozen=True)
class JobFolder:
    """The paths of one job's artifacts.

    Attributes:
        root: `<log_root>/<job_id>`.
    """

    root: Path

    @property
    def attempts(self) -> Path:
        """One folder per earlier attempt, by its number, with the files of that attempt alone."""
        return self.root / "attempts"

    @property
    def of_one_attempt(self) -> tuple[Path, ...]:
        """The files that tell of one attempt; `root` holds those of the latest."""
        return (self.result_json, self.failure_json, self.progress, self.run_json, self.runner_log)

    @property
    def job_json(self) -> Path:
        """The spec as accepted; written by the mediator."""
        return self.root / "job.json"

    @property
    def runner_log(self) -> Path:
        """The runner's stdout and stderr."""
        return self.root / "runner.log"

    @property
    def run_json(self) -> Path:
        """Resolved spec, versions, seed, device, start time; written first."""
        return self.root / "run.json"

    @property
    def progress(self) -> Path:
        """Progress and other events, one JSON object a line."""
        return self.root / "progress.jsonl"

    @property
    def result_json(self) -> Path:
        """What the job produced; present exactly when it succeeded."""
        return self.root / "result.json"

    @property
    def failure_json(self) -> Path:
        """Kind, message, exit code and traceback; present when it did not succeed."""
        return self.root / "failure.json"

    @property
    def checkpoints(self) -> Path:
        """One folder per checkpoint, and index.json."""
        return self.root / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard event files."""
        return self.root / "tensorboard"

    @property
    def metrics_csv(self) -> Path:
        """The metrics dataframe of an eval job."""
        return self.root / "metrics.csv"

    @property
    def gt(self) -> Path:
        """Truth images of an eval job."""
        return self.root / "gt"

    @property
    def pred(self) -> Path:
        """Rendered images of an eval job, one folder per tto."""
        return self.root / "pred"

    @property
    def screenshots(self) -> Path:
        """Pictures taken in the viewer."""
        return self.root / "screenshots"

    @property
    def videos(self) -> Path:
        """Films rendered in the viewer, each with its camera path."""
        return self.root / "videos"

    @property
    def camera_paths(self) -> Path:
        """Camera paths saved in the viewer."""
        return self.root / "camera_paths"

    @property
    def of_view(self) -> tuple[Path, ...]:
        """The folders that a view job may make."""
        return (self.screenshots, self.videos, self.camera_paths, self.checkpoints)

    @property
    def video(self) -> Path:
        """The film of a video job."""
        return self.root / "video.mp4"

    @property
    def camera_path(self) -> Path:
        """The path that a video job followed."""
        return self.root / "camera_path.json"
