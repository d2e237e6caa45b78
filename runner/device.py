"""Owns what run.json says of the device, and refuses what it lacks; imports torch."""

from typing import Any

import torch

from configs import Job
from nerfcore.field.backends import check_backend, resolve_device


def describe_device(job: Job) -> dict[str, Any]:
    """Return the device used, by name.

    Raises:
        BackendUnavailableError: the device or the backend asked for cannot be used here.
    """
    used = resolve_device(job.device)
    # an eval or view job need not state the variant; its checkpoint is held against it on loading
    check_backend(job.backend, used, job.nerf_variant or "instant")
    name = torch.cuda.get_device_name(used) if used.type == "cuda" else "CPU"
    return {
        "asked": job.device,
        "used": str(used),
        "name": name,
        "threads": torch.get_num_threads(),
    }
