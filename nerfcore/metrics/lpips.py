"""Owns the perceptual distance LPIPS (AlexNet, version 0.1), from files already on this machine.

The five convolutions are rebuilt here, since importing the `lpips` package pulls in torchvision,
whose wheels need CUDA libraries. Two files are needed and never downloaded: the linear heads that
the installed `lpips` package carries, and the AlexNet backbone in the torch hub's folder. Where
one is missing or wrong, `load_lpips` returns a value that says so in one line and measures NaN.
"""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nerfcore.metrics.picture_check import Mask, Picture, checked_pair, with_truth_outside

BACKBONE_FILE = "alexnet-owt-7be5be79.pth"
BACKBONE_SHA256_PREFIX = "7be5be79"
HEADS_FILE = Path("weights", "v0.1", "alex.pth")
NETWORK_NAME = "alexnet v0.1"
# Below this side AlexNet's second pooling has nothing to pool.
MIN_SIDE_PX = 31
_TAP_CHANNELS = (64, 192, 384, 256, 256)
_TORCHVISION_LAYERS = (0, 3, 6, 8, 10)
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


@dataclass(frozen=True)
class LpipsValue:
    """One measurement.

    Attributes:
        value: distance, 0 for equal pictures; NaN where it could not be measured.
        note: the network's name, or the reason for NaN.
    """

    value: float
    note: str


@dataclass(frozen=True)
class LpipsUnavailable:
    """Stands in where LPIPS cannot be measured.

    Attributes:
        reason: one line: the file, what is wrong with it, the mend.
    """

    reason: str

    def measure(self, prediction: Picture, truth: Picture, valid: Mask | None = None) -> LpipsValue:
        """Return NaN with the reason, whatever the pictures."""
        return LpipsValue(float("nan"), self.reason)


class AlexNetTaps(nn.Module):
    """AlexNet's convolutions; gives the activations after each of the five ReLUs."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(3, 64, 11, stride=4, padding=2),
                nn.Conv2d(64, 192, 5, padding=2),
                nn.Conv2d(192, 384, 3, padding=1),
                nn.Conv2d(384, 256, 3, padding=1),
                nn.Conv2d(256, 256, 3, padding=1),
            ]
        )

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Return five feature maps f32[N, C_i, H_i, W_i] of pictures f32[N, 3, H, W]."""
        taps: list[Tensor] = []
        features = pictures
        for index, convolution in enumerate(self.convolutions):
            if index in (1, 2):
                features = functional.max_pool2d(features, kernel_size=3, stride=2)
            features = functional.relu(convolution(features))
            taps.append(features)
        return taps


class Lpips(nn.Module):
    """The distance network: backbone taps, unit-normalised, squared difference, linear heads."""

    def __init__(self, backbone: AlexNetTaps, heads: list[Tensor]) -> None:
        """Hold the network.

        Args:
            backbone: AlexNet's convolutions with their weights.
            heads: five tensors f32[1, C_i, 1, 1].
        """
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ParameterList(nn.Parameter(h, requires_grad=False) for h in heads)
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
        """Return the distance f32[] of two pictures.

        Args:
            first, second: f32[1, 3, H, W] in [-1, 1].
            weight: f32[1, 1, H, W], 1 at valid pixels; its area average weights each tap.
        """
        shift, scale = self.get_buffer("shift"), self.get_buffer("scale")
        taps_first = self.backbone((first - shift) / scale)
        taps_second = self.backbone((second - shift) / scale)
        total = first.new_zeros(())
        for tap_first, tap_second, head in zip(taps_first, taps_second, self.heads, strict=True):
            squares = (_unit(tap_first) - _unit(tap_second)) ** 2
            distance = functional.conv2d(squares, head)
            coverage = functional.adaptive_avg_pool2d(
                weight, (distance.shape[2], distance.shape[3])
            )
            total = total + (distance * coverage).sum() / coverage.sum()
        return total

    @torch.no_grad()
    def measure(self, prediction: Picture, truth: Picture, valid: Mask | None = None) -> LpipsValue:
        """Measure the distance of a prediction in sRGB.

        Invalid pixels of the prediction take the truth's values, and each feature map is averaged
        with the share of valid pixels under it, so a small valid area does not flatter the result.

        Args:
            prediction: float [H, W, 3], sRGB; clipped to [0, 1].
            truth: float [H, W, 3], sRGB in [0, 1].
            valid: bool [H, W], or None for all pixels.

        Returns:
            The distance and the network's name, or NaN and the reason (picture too small).

        Raises:
            DataError: the shapes differ, or no pixel is valid.
            NonFiniteError: a valid pixel is NaN or infinite.

        Source: Zhang et al. 2018, "The unreasonable effectiveness of deep features as a perceptual
        metric", eq. 1.
        """
        prediction64, truth64, mask = checked_pair(prediction, truth, valid)
        height_px, width_px = mask.shape
        if min(height_px, width_px) < MIN_SIDE_PX:
            reason = (
                f"lpips: the image is {width_px} x {height_px} px, at least {MIN_SIDE_PX} px a "
                "side are needed; use a larger downscale"
            )
            return LpipsValue(float("nan"), reason)
        filled = with_truth_outside(prediction64, truth64, mask)
        device = self.get_buffer("shift").device
        weight = torch.from_numpy(mask.astype(np.float32))[None, None].to(device)
        distance = self(_signed(filled, device), _signed(truth64, device), weight)
        return LpipsValue(float(distance), NETWORK_NAME)


def load_lpips(device: torch.device | str = "cpu") -> Lpips | LpipsUnavailable:
    """Build the LPIPS network from the files on this machine.

    Args:
        device: where it runs.

    Returns:
        The network, or the reason why there is none. Nothing is ever downloaded.
    """
    heads_path = _heads_path()
    if heads_path is None:
        return LpipsUnavailable(
            "lpips unavailable: the package lpips is not installed; "
            "run pip install --no-deps lpips==0.1.4"
        )
    backbone_path = Path(torch.hub.get_dir(), "checkpoints", BACKBONE_FILE)
    try:
        problem = _file_problem(heads_path) or _backbone_problem(backbone_path)
        if problem is not None:
            return LpipsUnavailable(f"lpips unavailable: {problem}")
        network = Lpips(_read_backbone(backbone_path), _read_heads(heads_path))
    except (OSError, KeyError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        first_line = str(error).partition("\n")[0]
        return LpipsUnavailable(
            f"lpips unavailable: {backbone_path} or {heads_path} cannot be used "
            f"({type(error).__name__}: {first_line}); replace the file, reinstall lpips==0.1.4"
        )
    return network.to(device)


def _heads_path() -> Path | None:
    spec = importlib.util.find_spec("lpips")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)), HEADS_FILE)


def _file_problem(path: Path) -> str | None:
    if path.is_file():
        return None
    return f"no file {path}; put it there (it is never downloaded by itself)"


def _backbone_problem(path: Path) -> str | None:
    problem = _file_problem(path)
    if problem is not None:
        return problem
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    if digest.startswith(BACKBONE_SHA256_PREFIX):
        return None
    return (
        f"{path} has sha256 {digest[:8]}..., expected {BACKBONE_SHA256_PREFIX}...; "
        "the file is damaged or another one, replace it"
    )


def _read_backbone(path: Path) -> AlexNetTaps:
    state = torch.load(path, map_location="cpu", weights_only=True)
    backbone = AlexNetTaps()
    renamed = {
        f"convolutions.{index}.{part}": state[f"features.{layer}.{part}"]
        for index, layer in enumerate(_TORCHVISION_LAYERS)
        for part in ("weight", "bias")
    }
    backbone.load_state_dict(renamed)
    return backbone


def _read_heads(path: Path) -> list[Tensor]:
    state = torch.load(path, map_location="cpu", weights_only=True)
    return [
        state[f"lin{index}.model.1.weight"].float().reshape(1, channels, 1, 1)
        for index, channels in enumerate(_TAP_CHANNELS)
    ]


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


def _signed(picture: Picture, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1)[None]
    return (tensor * 2.0 - 1.0).to(device)
