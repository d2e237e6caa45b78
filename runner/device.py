"""Owns what run.json says of the device; imports torch."""

from typing import Any

import torch

from nerfcore.field.backends import resolve_device


def describe_device(asked: str) -> dict[str, Any]:
    """Return the device used, by name.

    Raises:
        BackendUnavailableError: the device asked for is not there.
    """
    used = resolve_device(asked)
    name = torch.cuda.get_device_name(used) if used.type == "cuda" else "CPU"
    return {"asked": asked, "used": str(used), "name": name, "threads": torch.get_num_threads()}
