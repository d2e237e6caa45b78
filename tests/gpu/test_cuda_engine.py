"""The CUDA hash grids and the tensor tracer on a GPU: the same checks as on the CPU.

pytest tests/gpu
"""

from pathlib import Path

import grid_checks as checks
import pytest
import torch
import tracer_checks
from engine_scenes import tiny_scene
from tracing_scenes import some_rays, some_truth, traced_scene

from nerfcore.checkpoint import load_checkpoint, save_checkpoint
from nerfcore.encoding.grids import HashGrid, TorchGrid
from nerfcore.encoding.layout import grid_layout
from nerfcore.errors import BackendUnavailableError
from nerfcore.field.backends import check_backend, make_tracer
from nerfcore.sampling.march import march
from nerfcore.sampling.tensor_march import tensor_march
from nerfcore.sampling.tensor_routing import DeviceScene
from nerfcore.settings import BackendName, HashGridSettings

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA GPU, PyTorch sees none"
)
NAMES: list[BackendName] = ["torch", "triton", "tcnn"]


def cuda() -> torch.device:
    return torch.device("cuda")


def require(name: BackendName) -> None:
    """Skip, with the reason, what is not installed on this machine."""
    try:
        check_backend(name, cuda(), "instant")
    except BackendUnavailableError as error:
        pytest.skip(str(error))


def grid_of(name: BackendName, settings: HashGridSettings) -> HashGrid:
    require(name)
    if name == "tcnn":
        from nerfcore.encoding.tcnn_grid import TcnnGrid

        return TcnnGrid(settings, cuda())
    if name == "triton":
        from nerfcore.encoding.triton_grid import TritonGrid

        return TritonGrid(grid_layout(settings), cuda())
    return TorchGrid(grid_layout(settings))


@pytest.mark.parametrize("name", NAMES)
def test_first_order_matches_the_oracle(name: BackendName) -> None:
    """Forward and both gradients, on random points, 0 and 1, and on cell borders."""
    checks.check_first_order(grid_of(name, checks.SETTINGS), checks.random_points(), "cuda")
    checks.check_first_order(grid_of(name, checks.BORDER_SETTINGS), checks.border_points(), "cuda")


@pytest.mark.parametrize("name", NAMES)
def test_second_order_matches_the_oracle(name: BackendName) -> None:
    """All second derivatives."""
    checks.check_second_order(grid_of(name, checks.SETTINGS), checks.random_points(), "cuda")


@pytest.mark.parametrize("name", NAMES)
def test_a_table_of_full_size(name: BackendName) -> None:
    """16 levels of 2^19 rows to 4,096 cells, where float32 positions are the limit."""
    grid, points = grid_of(name, HashGridSettings()), checks.random_points(20_000)
    checks.check_first_order(grid, points, "cuda", tolerance=1e-2, to_points=False)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_and_gradients_match_the_slow_loop(name: BackendName) -> None:
    """The tracer on the GPU: blending, early termination, background, rays that miss."""
    require(name)
    model = tiny_scene(2, 2)
    tracer = make_tracer(name, model.architecture, cuda())
    scene = traced_scene(model, holes=0.3, step_growth=0.05, min_transmittance=1e-3)
    tracer_checks.check_picture(tracer, model, scene, some_rays(), "cuda")
    tracer_checks.check_gradient(tracer, model, scene, some_rays(), some_truth(), "cuda")


def test_the_march_on_the_gpu_is_the_compiled_one() -> None:
    """Samples for samples, but for cell borders."""
    scene, rays = traced_scene(tiny_scene(3, 2), holes=0.5).march, some_rays(400)
    options = {"near": 0.1, "far": 30.0, "step": 0.03, "growth": 0.02, "max_samples": 9}
    expected = march(scene, rays.origins, rays.directions, rays.jitter, **options)  # type: ignore[arg-type]
    inputs = [torch.from_numpy(a).cuda() for a in (rays.origins, rays.directions, rays.jitter)]
    on_gpu = DeviceScene.of(scene, cuda())
    found = tensor_march(on_gpu, *inputs, **options).to_samples()  # type: ignore[arg-type]
    counts = [s.ray_starts[1:] - s.ray_starts[:-1] for s in (expected, found)]
    assert (counts[0] == counts[1]).mean() > 0.98


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_the_cpu_gives_the_same_picture(name: BackendName, tmp_path: Path) -> None:
    """Saved on the CPU, loaded on the GPU."""
    require(name)
    saved = save_checkpoint(tiny_scene(2, 1), tmp_path / "step1", 1)
    pictures = []
    both: list[tuple[str, BackendName]] = [("cpu", "torch"), ("cuda", name)]
    for device, backend in both:
        model = load_checkpoint(saved, device, backend)
        tracer = make_tracer(backend, model.architecture, torch.device(device))
        found = tracer.render(traced_scene(model), model.experts, model.background, some_rays())
        pictures.append(found.rgb)
    assert abs(pictures[0] - pictures[1]).max() < 1e-3


def test_auto_takes_a_hash_grid_of_the_gpu() -> None:
    """Triton comes with every CUDA build of PyTorch, so plain operations are never chosen."""
    tracer = make_tracer("auto", tiny_scene().architecture, cuda())
    assert type(tracer.grid).__name__ in ("TcnnGrid", "TritonGrid")  # type: ignore[attr-defined]
