"""Owns what one client wants to see: what is shown of a render, and how it is made."""

from dataclasses import dataclass, field, replace
from enum import StrEnum

from nerfcore.geometry.camera import Camera
from nerfcore.viewer.colours import DepthMap, Show
from nerfcore.viewer.options import RenderOptions


class Compare(StrEnum):
    """What lies over the left part of the picture."""

    OFF = "Off"
    WIPE = "Photograph, wipe"
    BLEND = "Photograph, blend"
    BEFORE = "Before adaptation, wipe"


@dataclass(frozen=True)
class Look:
    """A client's choice.

    Attributes:
        show: colour, depth, opacity, experts or change.
        depth_map: colours of depth.
        exposure_stops, gamma: of the colours.
        options: of the render.
        moving_samples: most samples a ray while the picture is not at full size; None = as still.
        compare, compare_share: what is compared, and how far (0 to 1).
        photograph: group and index of the photograph compared.
        change_group: the flight that changes are looked for in; None = the newest.
    """

    show: Show = Show.RGB
    depth_map: DepthMap = DepthMap.TURBO
    exposure_stops: float = 0.0
    gamma: float = 1.0
    options: RenderOptions = field(default_factory=RenderOptions)
    moving_samples: int | None = None
    compare: Compare = Compare.OFF
    compare_share: float = 0.5
    photograph: tuple[str, int] | None = None
    change_group: str | None = None

    def options_for(self, camera: Camera, full: Camera | None) -> RenderOptions:
        """Return the options of a picture of this size, of a view whose full size is another."""
        is_small = full is not None and camera.width_px < full.width_px
        if not is_small or self.moving_samples is None:
            return self.options
        most = self.options.max_samples
        samples = self.moving_samples if most is None else min(most, self.moving_samples)
        return replace(self.options, max_samples=samples)

    def needs_render(self, other: "Look") -> bool:
        """Say whether the other look needs another render, not only other colours."""
        is_before = self.compare is Compare.BEFORE, other.compare is Compare.BEFORE
        return (
            self.options != other.options
            or self.moving_samples != other.moving_samples
            or is_before == (False, True)
        )
