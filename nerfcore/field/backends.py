"""Picks the field's implementation for a device, and says what is missing when it cannot."""

import torch

from nerfcore.errors import BackendUnavailableError
from nerfcore.field.evaluate import FieldBackend, NumbaField, TorchField
from nerfcore.field.parameters import Architecture
from nerfcore.settings import BackendName


def resolve_device(name: str) -> torch.device:
    """Return the device for "auto", "cpu" or "cuda".

    Raises:
        BackendUnavailableError: "cuda" where PyTorch sees no GPU.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailableError(
            'device "cuda": PyTorch sees no GPU here; use device "auto" or "cpu", or install a '
            "CUDA build of PyTorch and a driver"
        )
    return torch.device(name)


def make_backend(
    name: BackendName, architecture: Architecture, device: torch.device
) -> FieldBackend:
    """Return the backend named, or for "auto" the fastest that runs on the device.

    Raises:
        BackendUnavailableError: "numba" on a GPU.
    """
    if name == "auto":
        name = "numba" if device.type == "cpu" else "torch"
    if name == "numba":
        if device.type != "cpu":
            raise BackendUnavailableError(
                f'backend "numba": runs on the CPU, the device is "{device}"; use backend "torch" '
                'or device "cpu"'
            )
        return NumbaField(architecture)
    return TorchField(architecture)
