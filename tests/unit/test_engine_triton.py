"""The Triton hash grid, interpreted on the CPU in a process of its own, and compiled for GPUs."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_scenes import tiny_scene
from tracing_scenes import some_rays, traced_scene

from nerfcore.checkpoint import load_checkpoint, save_checkpoint
from nerfcore.field.backends import make_tracer

HERE = Path(__file__).parent
CHECKS = ["first_order", "second_order", "borders", "features", "nothing"]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None and not os.environ.get("CI"),
    reason="triton is not installed (it comes with the dev extra, on Linux)",
)


def run(*arguments: object, folder: Path, interpret: bool = True) -> str:
    """Run the script beside this file; TRITON_INTERPRET must be set before Triton is imported."""
    environment = os.environ | {
        "TRITON_INTERPRET": "1" if interpret else "0",
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "PYTHONPATH": f"{HERE}:{HERE.parents[1]}",
    }
    done = subprocess.run(
        [sys.executable, HERE / "triton_interpreted.py", *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    lines = run("checks", folder=tmp_path_factory.mktemp("checks")).splitlines()
    return dict(line.split(" ", 1) for line in lines)


@pytest.mark.parametrize("check", CHECKS)
def test_interpreted_kernels_match_the_oracle(verdicts: dict[str, str], check: str) -> None:
    """Forward, both gradients, second derivatives; random points, borders, 0 and 1."""
    assert verdicts[check] == "ok"


def test_kernels_compile_for_gpus(tmp_path: Path) -> None:
    """Triton's compiler takes them down to machine code for A100 and H100."""
    assert run("compile", folder=tmp_path, interpret=False).count("ok") == 6


def test_one_checkpoint_gives_the_same_picture_on_every_backend(tmp_path: Path) -> None:
    """The table's layout is the same: saved once, rendered by torch, numba and Triton."""
    saved = save_checkpoint(tiny_scene(2, 1), tmp_path / "step1", 1)
    run("picture", saved, tmp_path / "triton.npy", folder=tmp_path)
    pictures = {"triton": np.load(tmp_path / "triton.npy")}
    model = load_checkpoint(saved, "cpu", "torch")
    for name in ("torch", "numba"):
        tracer = make_tracer(name, model.architecture, torch.device("cpu"))
        found = tracer.render(traced_scene(model), model.experts, model.background, some_rays())
        pictures[name] = found.rgb
    # the CPU's tracer may leave samples of weight below 2e-4 dark
    assert np.abs(pictures["triton"] - pictures["torch"]).max() < 1e-5
    assert np.abs(pictures["numba"] - pictures["torch"]).max() < 2e-3
