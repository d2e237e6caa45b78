"""Owns one job's run from its JSON file to its exit code.

Order: spec parsed, folder made, run.json, checks that need no engine, the engine imported, the
operation, result.json last. Whatever goes wrong becomes an exit code and failure.json.
"""

import contextlib
import importlib
import json
import logging
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs import ExitCode, Job, JobFolder, JobRefused, Roots, parse_job
from nerfcore import atomic
from runner.context import JobContext, Operation, Operations
from runner.environment import describe_run, write_run
from runner.failures import exit_code_of, message_of, write_failure
from runner.inputs import find_inputs
from runner.logs import kept_log
from runner.progress import ProgressWriter
from runner.records import plain
from runner.stopping import StopRequest

OPERATION_MODULES = {
    "train": "runner.ops.train",
    "eval": "runner.ops.evaluate",
    "view": "runner.ops.view",
    "video": "runner.ops.video",
}
JOB_FILE_LIMIT_BYTES = 1 << 20
_log = logging.getLogger("runner")


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
        job_file: the job's JSON.
        roots: the folders the job may touch.
    """

    job_file: Path
    roots: Roots


def execute(request: Request, stop: StopRequest, operations: Operations | None = None) -> ExitCode:
    """Run a job to its end and return the exit code; no error leaves this function.

    Args:
        request: which job, and the roots.
        stop: the wish to stop; its signal handlers are installed already.
        operations: what runs instead of `runner.ops`, by op.
    """
    folder = _folder_beside(request)
    with contextlib.ExitStack() as stack:
        try:
            job = parse_job(_read(request.job_file))
            folder, job_id = _place(request, job, folder)
            stack.enter_context(kept_log(folder.runner_log))
            _run(request, job, job_id, folder, stop, operations)
        except BaseException as error:  # noqa: BLE001 - the process boundary: every end has a reason
            return _end_badly(error, folder)
    return ExitCode.OK


def _run(
    request: Request,
    job: Job,
    job_id: str,
    folder: JobFolder,
    stop: StopRequest,
    operations: Operations | None,
) -> None:
    began = time.monotonic()
    record = describe_run(job, job_id, folder.root, request.roots.project)
    if not operations and OPERATION_MODULES[job.op] not in sys.modules:
        write_run(folder.run_json, record)  # importing the engine takes seconds
    _log.info("job %s (%s) in %s", job_id, job.op, folder.root)
    try:
        inputs = find_inputs(job, request.roots)
        stop.raise_if_asked()
        operation = operations[job.op] if operations else _load(job.op)
        if not operations:
            record["device"] = _device(job)
    finally:
        write_run(folder.run_json, record)
    with ProgressWriter(folder.progress) as progress:
        stop.raise_if_asked()
        context = JobContext(job, job_id, folder, inputs, progress, stop)
        result = operation(context)
    head = {"job_id": job_id, "op": job.op, "seconds": round(time.monotonic() - began, 3)}
    outcome = plain({**head, **result}, folder.root.resolve())
    atomic.write_text(folder.result_json, json.dumps(outcome, indent=1, allow_nan=False) + "\n")
    _log.info("done: %s", folder.result_json)


def _load(op: str) -> Operation:
    return importlib.import_module(OPERATION_MODULES[op]).run


def _device(job: Job) -> dict[str, Any]:
    return importlib.import_module("runner.device").describe_device(job)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as handle:
            return handle.read(JOB_FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise JobRefused.because(f"{path}: cannot be read ({error.strerror})") from error


def _folder_beside(request: Request) -> JobFolder | None:
    """Return the job's folder when the file lies in one: `<log root>/<job id>/job.json`."""
    parent = request.job_file.resolve().parent
    inside = parent.parent == request.roots.logs.resolve()
    return JobFolder(parent) if inside and parent.is_dir() else None


def _place(request: Request, job: Job, folder: JobFolder | None) -> tuple[JobFolder, str]:
    """Return the job's folder, made and free of an earlier attempt's verdict, and the job's id."""
    if folder is not None:
        job_id = folder.root.name
        if job.job_id not in (None, job_id):
            raise JobRefused.because(
                f"the file lies in the folder of job {job_id}; move it", "job_id", job.job_id
            )
        for path in (folder.result_json, folder.failure_json):
            path.unlink(missing_ok=True)
        return folder, job_id
    job_id = job.job_id or uuid.uuid4().hex[:12]
    folder = JobFolder(request.roots.logs.resolve() / job_id)
    if folder.root.exists() and any(folder.root.iterdir()):
        raise JobRefused.because(
            f"{folder.root} holds a job already; choose another job_id, remove the folder, or run "
            f"{folder.job_json} to go on with it",
            "job_id",
            job_id,
        )
    folder.root.mkdir(mode=0o750, parents=True, exist_ok=True)
    atomic.write_text(folder.job_json, job.model_dump_json(indent=1) + "\n")
    return folder, job_id


def _end_badly(error: BaseException, folder: JobFolder | None) -> ExitCode:
    code = exit_code_of(error)
    details = error if code is ExitCode.INTERNAL else None
    level = logging.WARNING if code is ExitCode.INTERRUPTED else logging.ERROR
    _log.log(level, "%s: %s", code.kind, message_of(error, code), exc_info=details)
    if folder is None:
        return code
    try:
        write_failure(folder.failure_json, error, code)
    except OSError as second:
        _log.error("%s cannot be written: %s", folder.failure_json, second)
        with contextlib.suppress(OSError):  # half a record is worse than none
            folder.failure_json.unlink(missing_ok=True)
    return code
