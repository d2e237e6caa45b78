"""Picks what computes hash grids and traces rays, and says what is missing when it cannot.

"numba": compiled CPU kernels. "torch": plain PyTorch operations on any device. "tcnn" and
"triton": CUDA kernels of the hash grid, the rest in PyTorch. "auto" takes numba on the CPU, and on
a GPU the first of tcnn, triton and torch that can be used; a "vanilla" model has no hash grid and
takes torch there.
"""

import logging
from subprocess import SubprocessError

import torch

from nerfcore.encoding.grids import HashGrid, TorchGrid
from nerfcore.encoding.layout import grid_layout
from nerfcore.errors import BackendUnavailableError
from nerfcore.field.parameters import Architecture
from nerfcore.settings import BackendName, HashGridSettings, Variant
from nerfcore.tracing.contract import Tracer
from nerfcore.tracing.tensors import TensorTracer

TCNN_INSTALL = (
    "pip install --no-build-isolation "
    '"git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch" '
    "(needs nvcc and a C++ compiler)"
)
TRITON_INSTALL = "a CUDA build of PyTorch brings it along (pip install triton)"
CUDA_GRIDS: tuple[BackendName, ...] = ("tcnn", "triton")
REASON_CHARS = 500
_log = logging.getLogger(__name__)


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


def check_backend(name: BackendName, device: torch.device, variant: Variant) -> None:
    """Refuse a backend that cannot be used, before anything is loaded.

    Args:
        name: as the job says; "auto" always can.
        device: where the job computes.
        variant: the model's; "instant" where it is not known yet.

    Raises:
        BackendUnavailableError: what is missing, and how to install it or what to use instead.
    """
    reason = _obstacle(name, device, variant)
    if reason is not None:
        raise BackendUnavailableError(f'backend "{name}": {reason}')


def _obstacle(name: BackendName, device: torch.device, variant: Variant) -> str | None:
    """Why a backend cannot be used, or None."""
    if name in CUDA_GRIDS and variant == "vanilla":
        return 'nerf_variant "vanilla" has no hash grid; use backend "auto" or "torch"'
    if name == "numba" and device.type != "cpu":
        return f'runs on the CPU, the device is "{device}"; use backend "auto" or device "cpu"'
    if name == "tcnn":
        return _tcnn_obstacle(device)
    return _triton_obstacle(device) if name == "triton" else None


def _tcnn_obstacle(device: torch.device) -> str | None:
    if device.type != "cuda":
        return (
            f'needs a CUDA GPU, the device is "{device}", and the package tinycudann: '
            f'{TCNN_INSTALL}; or use backend "auto"'
        )
    from nerfcore.encoding.tcnn_grid import load_package

    try:
        load_package()
    except ImportError as error:
        return f"the package tinycudann cannot be imported ({error}); {TCNN_INSTALL}"
    return None


def _triton_obstacle(device: torch.device) -> str | None:
    try:
        from nerfcore.encoding.triton_grid import is_interpreted
    except ImportError as error:
        return f"the package triton cannot be imported ({error}); {TRITON_INSTALL}"
    if device.type != "cuda" and not is_interpreted():
        return f'needs a CUDA GPU, the device is "{device}"; use backend "auto" or "torch"'
    return None


def make_tracer(name: BackendName, architecture: Architecture, device: torch.device) -> Tracer:
    """Return `chosen_tracer`'s tracer."""
    return chosen_tracer(name, architecture, device)[1]


def chosen_tracer(
    name: BackendName, architecture: Architecture, device: torch.device
) -> tuple[BackendName, Tracer]:
    """Return the backend named, or for "auto" the fastest that can be used, and its tracer.

    Raises:
        BackendUnavailableError: see `check_backend`; or it is there, but does not work here.
    """
    if name != "auto":
        return name, _named_tracer(name, architecture, device)
    if device.type == "cpu":
        return "numba", _named_tracer("numba", architecture, device)
    for candidate in CUDA_GRIDS:
        try:
            tracer = _named_tracer(candidate, architecture, device)
        except BackendUnavailableError as error:
            _log.info("backend auto: not %s: %s", candidate, error)
        else:
            _log.info("backend auto: %s on %s", candidate, device)
            return candidate, tracer
    _log.info("backend auto: torch on %s", device)
    return "torch", _named_tracer("torch", architecture, device)


def _named_tracer(name: BackendName, architecture: Architecture, device: torch.device) -> Tracer:
    check_backend(name, device, architecture.settings.variant)
    if name == "numba":
        from nerfcore.tracing.cpu import CpuTracer

        return CpuTracer(architecture)
    return TensorTracer(architecture, device, _working_grid(name, architecture, device))


def _working_grid(
    name: BackendName, architecture: Architecture, device: torch.device
) -> HashGrid | None:
    """The backend's hash grid, or None for a model without one.

    Packages that import may still fail on this GPU: built for another one, or without the compiler
    that they call at the first use. So those are used once.
    """
    if architecture.layout is None:
        return None
    if name not in CUDA_GRIDS:
        return TorchGrid(architecture.layout)
    try:
        grid = _cuda_grid(name, architecture.settings.grid, device)
        point = torch.full((1, 3), 0.5, device=device)
        grid.encode(point, torch.zeros(grid.layout.rows, grid.layout.features, device=device))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, OSError, ImportError, SubprocessError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BackendUnavailableError(
            f'backend "{name}": does not work on {_described(device)} ({reason[:REASON_CHARS]}); '
            'install it for this device, or use backend "auto" or "torch"'
        ) from error
    return grid


def _described(device: torch.device) -> str:
    if device.type != "cuda":
        return f"device {device}"
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"


def _cuda_grid(name: BackendName, settings: HashGridSettings, device: torch.device) -> HashGrid:
    if name == "tcnn":
        from nerfcore.encoding.tcnn_grid import TcnnGrid

        return TcnnGrid(settings, device)
    from nerfcore.encoding.triton_grid import TritonGrid

    return TritonGrid(grid_layout(settings), device)
