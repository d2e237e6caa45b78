"""Job specs, exit codes, the artifact layout and path containment; read by mediator and runner."""

from configs.artifacts import JobFolder
from configs.errors import FieldError, JobRefused
from configs.evaluate import EvalJob
from configs.exit_codes import ExitCode
from configs.parse import MAX_MESSAGE_BYTES, OPS, Job, canonical_json, parse_job
from configs.paths import Roots, resolve_checkpoint, resolve_data
from configs.train import TrainJob
from configs.video import VideoJob
from configs.view import ViewJob

__all__ = [
    "MAX_MESSAGE_BYTES",
    "OPS",
    "EvalJob",
    "ExitCode",
    "FieldError",
    "Job",
    "JobFolder",
    "JobRefused",
    "Roots",
    "TrainJob",
    "VideoJob",
    "ViewJob",
    "canonical_json",
    "parse_job",
    "resolve_checkpoint",
    "resolve_data",
]
