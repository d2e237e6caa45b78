"""Which backend is taken, and how one that cannot be used is refused."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grid_checks as checks
import pytest
import torch
from engine_scenes import tiny_scene

from configs import ExitCode, Roots
from nerfcore.encoding import tcnn_grid
from nerfcore.encoding.grids import TorchGrid
from nerfcore.encoding.layout import grid_layout
from nerfcore.errors import BackendUnavailableError
from nerfcore.field import backends
from nerfcore.field.backends import check_backend, chosen_tracer, make_tracer
from nerfcore.settings import BackendName, SamplingSettings, Variant
from nerfcore.tracing.cpu import CpuTracer
from nerfcore.tracing.tensors import TensorTracer
from runner.execute import Request, execute
from runner.stopping import StopRequest

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
HAS_TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(
    not HAS_TRITON and not os.environ.get("CI"), reason="triton is not installed"
)


@pytest.mark.parametrize(
    ("name", "device", "variant", "parts"),
    [
        ("tcnn", CPU, "instant", ("CUDA GPU", "pip install --no-build-isolation", "tiny-cuda-nn")),
        ("triton", CPU, "instant", ("CUDA GPU", "use backend") if HAS_TRITON else ("pip",)),
        ("numba", CUDA, "instant", ("runs on the CPU", 'device "cpu"')),
        ("tcnn", CUDA, "vanilla", ("no hash grid", 'backend "auto" or "torch"')),
        ("triton", CUDA, "vanilla", ("no hash grid", 'backend "auto" or "torch"')),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(
    name: BackendName, device: torch.device, variant: Variant, parts: tuple[str, ...]
) -> None:
    """The refusal names the backend, what is missing, and the way out."""
    with pytest.raises(BackendUnavailableError) as refusal:
        check_backend(name, device, variant)
    message = str(refusal.value)
    assert message.startswith(f'backend "{name}": ') and "\n" not in message
    assert all(part in message for part in parts), message


def test_a_package_that_does_not_import_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """tinycudann raises EnvironmentError where no GPU it was built for is there."""

    def fail(name: str) -> None:
        raise OSError("Unknown compute capability")

    monkeypatch.setattr(tcnn_grid.importlib, "import_module", fail)
    with pytest.raises(BackendUnavailableError, match=r"cannot be imported \(Unknown"):
        check_backend("tcnn", CUDA, "instant")


@pytest.mark.parametrize("variant", ["instant", "vanilla"])
def test_the_cpu_has_numba_and_torch(variant: Variant) -> None:
    """Auto is numba; torch is the oracle, with a grid where the model has one."""
    architecture = tiny_scene(variant=variant).architecture
    assert isinstance(make_tracer("auto", architecture, CPU), CpuTracer)
    assert isinstance(make_tracer("numba", architecture, CPU), CpuTracer)
    tracer = make_tracer("torch", architecture, CPU)
    assert isinstance(tracer, TensorTracer)
    assert isinstance(tracer.grid, TorchGrid) == (variant == "instant")


@pytest.mark.parametrize(
    ("missing", "taken"), [((), "tcnn"), (("tcnn",), "triton"), (("tcnn", "triton"), "torch")]
)
def test_auto_takes_the_first_that_can_be_used_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...], taken: str
) -> None:
    """The order is tcnn, triton, torch."""

    def obstacle(name: str, device: torch.device, variant: Variant) -> str | None:
        return "is missing" if name in missing else None

    chosen: list[str] = []
    monkeypatch.setattr(backends, "_obstacle", obstacle)
    monkeypatch.setattr(
        backends, "_working_grid", lambda name, *rest: chosen.append(name) or TorchGrid
    )
    used, _ = chosen_tracer("auto", tiny_scene().architecture, CUDA)
    assert used == taken and chosen == [taken]


class _Broken(TorchGrid):
    """A hash grid that imports, and fails when it is used."""

    error: Exception = RuntimeError("no kernel image is available\nfor this device")

    def encode(self, positions: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        raise self.error


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> type[_Broken]:
    """The CUDA grids are there, on the CPU, and do not work."""
    monkeypatch.setattr(backends, "_obstacle", lambda *_: None)
    monkeypatch.setattr(backends, "_cuda_grid", lambda _, grid, device: _Broken(grid_layout(grid)))
    return _Broken


@pytest.mark.parametrize("name", backends.CUDA_GRIDS)
def test_a_forced_backend_that_does_not_work_is_named(
    broken: type[_Broken], name: BackendName
) -> None:
    """It is used once before any work: one line with the backend, the device and the reason."""
    with pytest.raises(BackendUnavailableError) as refusal:
        make_tracer(name, tiny_scene().architecture, CPU)
    message = str(refusal.value)
    assert message.startswith(f'backend "{name}": does not work on device cpu (no kernel image')
    assert "\n" not in message and 'backend "auto"' in message


def test_auto_goes_on_to_what_works_and_says_so(
    broken: type[_Broken], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither CUDA grid works: plain operations are taken, and the log tells of all three.

    The device "meta", which every machine has, stands in for a GPU.
    """
    architecture = tiny_scene().architecture
    with caplog.at_level("INFO"):
        used, tracer = chosen_tracer("auto", architecture, torch.device("meta"))
    assert used == "torch" and isinstance(tracer, TensorTracer)
    said = [record.message for record in caplog.records]
    assert [line.split(":")[1] for line in said] == [" not tcnn", " not triton", " torch on meta"]
    assert all("no kernel image" in line for line in said[:2])


def test_a_full_gpu_is_no_broken_backend(
    broken: type[_Broken], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lack of memory stays what it is; another backend would lack it too."""
    monkeypatch.setattr(broken, "error", torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        make_tracer("triton", tiny_scene().architecture, CPU)


@needs_triton
def test_tritons_own_errors_are_runtime_errors() -> None:
    """So a compiler that fails on this machine counts as a backend that does not work."""
    from triton.errors import TritonError

    from nerfcore.encoding import triton_grid

    grid = triton_grid.TritonGrid(grid_layout(checks.SETTINGS), CPU)

    class Kernel:
        def __getitem__(self, blocks: object) -> Callable[..., None]:
            def launch(*_: object, **__: object) -> None:
                raise TritonError("ptxas failed")

            return launch

    points = torch.zeros(1, 3)
    with pytest.raises(RuntimeError, match="Triton: ptxas failed"):
        grid._launch(Kernel(), points, [points], points, 1)  # type: ignore[arg-type]


def test_a_model_knows_which_backend_it_uses() -> None:
    """And another sampling of it shares the tracer, whose making may take seconds."""
    scene = tiny_scene(backend="auto")
    assert (scene.backend_name, scene.backend_used) == ("auto", "numba")
    other = scene.with_sampling(SamplingSettings(step_m=9.0))
    assert other.tracer is scene.tracer and other.experts is scene.experts
    assert (other.sampling.step_m, scene.sampling.step_m) == (9.0, 0.5)


@needs_triton
def test_triton_may_be_interpreted_on_the_cpu() -> None:
    """With TRITON_INTERPRET=1, in a process of its own."""
    code = (
        "import torch; from nerfcore.field.backends import check_backend; "
        "check_backend('triton', torch.device('cpu'), 'instant')"
    )
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, check=True, timeout=60)


def test_a_job_is_refused_before_any_data_is_read(tmp_path: Path) -> None:
    """The dataset's files hold garbage: whoever read them would say so instead."""
    prepared = tmp_path / "data/demo/out/prepared"
    (prepared / "masks/g22").mkdir(parents=True)
    (prepared / "dataset.json").write_text("garbage")
    (prepared / "masks/g22/partition.json").write_text("garbage")
    folder = tmp_path / "logs/job"
    folder.mkdir(parents=True)
    names = {"data_path": "data/demo/", "data_dirname": "prepared", "mask_dirname": "g22"}
    spec = {"op": "train", **names, "device": "cpu", "backend": "tcnn"}
    (folder / "job.json").write_text(json.dumps(spec))
    code = execute(Request(folder / "job.json", Roots.below(tmp_path)), StopRequest())
    failure = json.loads((folder / "failure.json").read_text())
    assert (code, failure["kind"]) == (ExitCode.BACKEND_UNAVAILABLE, "backend_unavailable")
    assert "pip install --no-build-isolation" in failure["message"]
