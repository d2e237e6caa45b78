"""Owns the settings that define a scene model: architecture, colour space and ray sampling.

They are written into every checkpoint's manifest, so a checkpoint says all that is needed to
rebuild its model. Lengths are metres unless a name says otherwise.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from nerfcore.errors import SettingsError

ColourSpace = Literal["linear", "srgb", "identity"]
Variant = Literal["instant", "vanilla"]
BackendName = Literal["auto", "numba", "torch", "tcnn", "triton"]


@dataclass(frozen=True)
class HashGridSettings:
    """The multi-resolution hash grid of one expert.

    Attributes:
        levels: number of resolution levels.
        features: features a level.
        log2_size: most table rows a level, as a power of two.
        base_resolution: cells along the longest box edge at the coarsest level.
        max_resolution: the same at the finest level.
    """

    levels: int = 16
    features: int = 2
    log2_size: int = 19
    base_resolution: int = 16
    max_resolution: int = 4096

    def __post_init__(self) -> None:
        if not 8 <= self.log2_size <= 24:
            raise SettingsError(f"log2_hashmap_size {self.log2_size}: allowed are 8 to 24")
        if self.max_resolution < self.base_resolution:
            raise SettingsError(
                f"max_resolution {self.max_resolution}: must be at least the coarsest "
                f"resolution {self.base_resolution}"
            )

    @property
    def growth(self) -> float:
        """Resolution ratio between neighbouring levels."""
        ratio = self.max_resolution / self.base_resolution
        return math.exp(math.log(ratio) / max(1, self.levels - 1))


@dataclass(frozen=True)
class ModelSettings:
    """Architecture of the experts and the background.

    Attributes:
        variant: "instant" (hash grid) or "vanilla" (frequency encoding, no table).
        sigma_depth, color_depth: hidden layers of the density and colour MLPs.
        dim_hidden, color_hidden: their widths.
        use_background: a direction-only background MLP, else `background_rgb` everywhere.
        colour_space: "linear" composites linear light and shows sRGB; the others composite the
            8-bit values as they are.
        use_bf16: matrix products of the MLPs in bfloat16, by the backends torch, tcnn and triton;
            numba computes in float32, which is faster on a CPU.
    """

    variant: Variant = "instant"
    grid: HashGridSettings = field(default_factory=HashGridSettings)
    sigma_depth: int = 2
    color_depth: int = 2
    dim_hidden: int = 64
    color_hidden: int = 64
    use_background: bool = True
    bg_hidden: int = 32
    background_rgb: tuple[float, float, float] = (0.0, 0.0, 0.0)
    colour_space: ColourSpace = "linear"
    use_bf16: bool = False


@dataclass(frozen=True)
class SamplingSettings:
    """Where samples are placed along a ray.

    Attributes:
        step_m: shortest step.
        step_growth: step per metre of distance; the step is max(step_m, step_growth * distance).
        step_px: pixels of a picture that a step spans at least: pictures have a step_growth of at
            least step_px / focal length.
        max_samples: most samples kept on a ray; beyond it the ray's steps are stretched.
        near_m, far_m: ray bounds; None means the scene box alone.
        use_occupancy: skip cells known to be empty.
        min_transmittance: samples behind this remaining light are not shaded.
    """

    step_m: float = 0.7
    step_growth: float = 0.0
    step_px: float = 0.0
    max_samples: int = 96
    near_m: float | None = None
    far_m: float | None = None
    use_occupancy: bool = True
    min_transmittance: float = 1e-3

    def __post_init__(self) -> None:
        if not (self.step_m > 0 and math.isfinite(self.step_m)):
            raise SettingsError(f"step_m {self.step_m}: must be a positive number of metres")
        if self.max_samples < 1:
            raise SettingsError(f"ray_samples {self.max_samples}: must be at least 1")


def to_json(settings: Any) -> dict[str, Any]:
    """Return a settings dataclass as plain JSON values."""
    return dataclasses.asdict(settings)


def model_settings_from_json(values: dict[str, Any]) -> ModelSettings:
    """Rebuild `ModelSettings` from `to_json`; unknown or missing names raise TypeError."""
    grid = HashGridSettings(**values["grid"])
    rest = {name: value for name, value in values.items() if name != "grid"}
    rest["background_rgb"] = tuple(rest["background_rgb"])
    return ModelSettings(grid=grid, **rest)
