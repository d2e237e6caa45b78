"""Owns the rehearsal of a run's first steps, so that the run itself takes them quickly.

What is read from disk once is then known, and what is built on first use is built. In a forked
process the memory these steps write to is copied from its parent before the job comes.
"""

import json
import logging
from pathlib import Path

from configs import JobFolder, parse_job
from runner.__main__ import request_of
from runner.environment import describe_run

_JOB = {
    "op": "train", "job_id": "rehearsal", "data_dirname": "rehearsal", "mask_dirname": "rehearsal",
}  # fmt: skip


def rehearse() -> None:
    """Parse a command line and a job and describe its run; nothing is written."""
    folder = JobFolder(Path("rehearsal"))
    request = request_of([str(folder.job_json)])
    job = parse_job(json.dumps(_JOB).encode())
    record = describe_run(job, "rehearsal", folder.root, request.roots.project)
    line = logging.LogRecord("runner", logging.INFO, "", 0, "%s", (json.dumps(record),), None)
    logging.Formatter("%(asctime)s %(message)s").format(line)
