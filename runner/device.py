"""Owns what run.json says of the device and of what computes there; imports torch."""

import json
import logging
from pathlib import Path
from typing import Any

import torch

from configs import Job
from nerfcore.field.backends import check_backend, resolve_device
from runner.environment import write_run

_log = logging.getLogger(__name__)


def describe_device(job: Job) -> dict[str, Any]:
    """Return the device used, by name.

    Raises:
        BackendUnavailableError: the device or the backend asked for cannot be used here.
    """
    used = resolve_device(job.device)
    # an eval or view job need not state the variant; its checkpoint is held against it on loading
    check_backend(job.backend, used, job.nerf_variant or "instant")
    name = torch.cuda.get_device_name(used) if used.type == "cuda" else "CPU"
    return {"asked": job.device, "used": str(used), "name": name}


def note_computation(run_json: Path, job: Job, computation: dict[str, Any]) -> None:
    """Add to run.json what computes, once the model is there, and log what is not as asked.

    Args:
        run_json: of the running job.
        job: its spec.
        computation: `SceneModel.computation`'s.
    """
    record = json.loads(run_json.read_text())
    record["backend"] = {"asked": job.backend, "used": computation["backend"]}
    record["device"]["threads"] = computation["threads"]
    record["bf16"] = computation["bf16"]
    write_run(run_json, record)
    _log.info("backend %s, %d threads", computation["backend"], computation["threads"])
    if job.use_amp and not computation["bf16"]:
        reason = (
            'backend "numba" computes in float32, which is faster on a CPU'
            if computation["backend"] == "numba"
            else "the checkpoint's model was made without it"
        )
        _log.warning("use_amp: has no effect: %s", reason)
