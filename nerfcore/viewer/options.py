"""Owns what may be chosen about a render beyond its camera."""

from dataclasses import dataclass
from typing import Final

Point = tuple[float, float, float]


@dataclass(frozen=True)
class RenderOptions:
    """How a picture is rendered; the defaults give the scene as it is.

    Attributes:
        max_samples: most samples a ray; None = the scene's own setting.
        near_m, far_m: bounds of every ray, m; None = the scene's own.
        crop_enu_m: lowest and highest corner (East, North, Up in m) of the box that is shown; None
            = everything.
        expert: show only what this expert owns; None = all experts.
        background_rgb: sRGB in [0, 1] behind the scene; None = the model's sky.
        is_before: the model as it was loaded, before any adaptation.
    """

    max_samples: int | None = None
    near_m: float | None = None
    far_m: float | None = None
    crop_enu_m: tuple[Point, Point] | None = None
    expert: int | None = None
    background_rgb: Point | None = None
    is_before: bool = False


AS_IT_IS: Final = RenderOptions()
