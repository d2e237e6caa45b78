"""LPIPS: equal to the `lpips` package's own network on random weights, honest without files."""

import hashlib
import importlib.util
import math
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nerfcore.metrics import Lpips, LpipsUnavailable, load_lpips
from nerfcore.metrics import lpips as ours

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("lpips") is None and not os.environ.get("CI"),
    reason="the package lpips is not installed (make install adds it)",
)


def torchvision_like_alexnet() -> nn.Module:
    """AlexNet's feature stack as torchvision numbers it, with random weights."""
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(11)
    network = nn.Module()
    network.features = nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
    )
    torch.random.set_rng_state(generator_state)
    return network


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub; returns the backbone's place in it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder / ours.BACKBONE_FILE


@pytest.fixture
def random_backbone(hub: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A backbone file of random weights whose digest is the expected one."""
    torch.save(torchvision_like_alexnet().state_dict(), hub)
    digest = hashlib.sha256(hub.read_bytes()).hexdigest()
    monkeypatch.setattr(ours, "BACKBONE_SHA256_PREFIX", digest[:8])
    return hub


@pytest.fixture
def package_lpips(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The package's own network, on a stand-in for torchvision that gives our random AlexNet."""
    models = types.ModuleType("torchvision.models")
    vars(models)["alexnet"] = lambda pretrained: torchvision_like_alexnet()
    torchvision = types.ModuleType("torchvision")
    vars(torchvision)["models"] = models
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    for name in [n for n in sys.modules if n == "lpips" or n.startswith("lpips.")]:
        monkeypatch.delitem(sys.modules, name)
    package = importlib.import_module("lpips")
    network = package.LPIPS(net="alex", version="0.1", verbose=False)
    for name in [n for n in sys.modules if n == "lpips" or n.startswith("lpips.")]:
        del sys.modules[name]
    return network


def pictures(height_px: int = 64, width_px: int = 80) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    truth = rng.random((height_px, width_px, 3)).astype(np.float32)
    return np.clip(truth + rng.normal(0, 0.2, truth.shape), 0, 1).astype(np.float32), truth


def loaded() -> Lpips:
    network = load_lpips()
    assert isinstance(network, Lpips), network
    return network


@needs_package
def test_equals_the_package(random_backbone: Path, package_lpips: nn.Module) -> None:
    """On one backbone, our distance is the package's, to float rounding."""
    prediction, truth = pictures()

    def tensor(picture: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(picture).permute(2, 0, 1)[None] * 2 - 1

    with torch.no_grad():
        expected = float(package_lpips(tensor(prediction), tensor(truth)))
    measured = loaded().measure(prediction, truth)
    assert expected > 1e-6
    assert measured.value == pytest.approx(expected, rel=1e-5)
    assert measured.note == "alexnet v0.1"


@needs_package
def test_equal_pictures_and_masks(random_backbone: Path) -> None:
    """Equal pictures are at distance 0, as are pictures that differ only where invalid."""
    network = loaded()
    prediction, truth = pictures()
    assert network.measure(truth, truth).value == 0.0
    valid = np.zeros(truth.shape[:2], bool)
    valid[:, :40] = True
    prediction[:, :40] = truth[:, :40]
    assert network.measure(prediction, truth, valid).value == 0.0


@needs_package
def test_small_valid_area_does_not_flatter(random_backbone: Path) -> None:
    """The same kind of error over half the picture reads about the same, not half."""
    network = loaded()
    prediction, truth = pictures(96, 192)
    valid = np.zeros(truth.shape[:2], bool)
    valid[:, :96] = True
    whole = network.measure(prediction, truth).value
    half = network.measure(prediction, truth, valid).value
    assert half == pytest.approx(whole, rel=0.2)


@needs_package
def test_too_small_is_nan_with_the_reason(random_backbone: Path) -> None:
    """A picture too small for AlexNet gives NaN and says so; the smallest size works."""
    network = loaded()
    small = network.measure(*pictures(30, 64))
    assert math.isnan(small.value)
    assert "64 x 30 px" in small.note
    assert network.measure(*pictures(31, 31)).value > 0.0


@needs_package
def test_missing_backbone_is_named(hub: Path) -> None:
    """Without the backbone: one line with the path, NaN for every picture, no download."""
    found = load_lpips()
    assert isinstance(found, LpipsUnavailable)
    assert str(hub) in found.reason
    assert "\n" not in found.reason
    measured = found.measure(*pictures())
    assert math.isnan(measured.value)
    assert measured.note == found.reason
    assert list(hub.parent.iterdir()) == []


@needs_package
@pytest.mark.parametrize("content", [b"", b"not AlexNet"])
def test_wrong_backbone_is_refused(hub: Path, content: bytes) -> None:
    """A damaged backbone is refused by its digest before it is read."""
    hub.write_bytes(content)
    found = load_lpips()
    assert isinstance(found, LpipsUnavailable)
    assert "expected 7be5be79" in found.reason


@needs_package
def test_other_weights_are_refused(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with the right digest but other tensors is refused in one line."""
    torch.save({"features.0.weight": torch.zeros(1)}, hub)
    digest = hashlib.sha256(hub.read_bytes()).hexdigest()
    monkeypatch.setattr(ours, "BACKBONE_SHA256_PREFIX", digest[:8])
    found = load_lpips()
    assert isinstance(found, LpipsUnavailable)
    assert "cannot be used" in found.reason
    assert "\n" not in found.reason


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the lpips package the reason names the command that installs it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = load_lpips()
    assert isinstance(found, LpipsUnavailable)
    assert "pip install --no-deps lpips==0.1.4" in found.reason


def test_never_imports_torchvision(tmp_path: Path) -> None:
    """Loading imports neither torchvision nor the lpips package."""
    program = (
        "import sys; from nerfcore.metrics import load_lpips; load_lpips(); "
        "sys.exit(any(m.split('.')[0] in ('torchvision', 'lpips') for m in sys.modules))"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, timeout=120)
    assert done.returncode == 0
