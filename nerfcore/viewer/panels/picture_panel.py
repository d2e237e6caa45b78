"""Owns the controls of how the picture is made: light, samples, background, bounds, crop box."""

from typing import Final

import numpy as np

from nerfcore.viewer.client_view import ClientView
from nerfcore.viewer.limits import one_of, within
from nerfcore.viewer.options import Point, RenderOptions
from nerfcore.viewer.poses import BadViewError
from nerfcore.viewer.reasons import guarded

BACKGROUNDS: Final[dict[str, Point | None]] = {
    "Sky of the model": None,
    "Black": (0.0, 0.0, 0.0),
    "Grey": (0.5, 0.5, 0.5),
    "White": (1.0, 1.0, 1.0),
    "Magenta": (1.0, 0.0, 1.0),
}
ALL_EXPERTS: Final = "All"
MOST_SAMPLES: Final = 512
FARTHEST_M: Final = 1e6
EXPOSURE_STOPS: Final = (-3.0, 3.0)
GAMMA: Final = (0.4, 2.5)
BOX_HEIGHT_STEP_M: Final = 0.5


class PicturePanel:
    """One client's controls of the render.

    Args:
        view: acted on.
    """

    def __init__(self, view: ClientView) -> None:
        self._view = view
        gui = view.client.gui
        with gui.add_folder("Light and detail", expand_by_default=False):
            self._exposure = gui.add_slider("Exposure", *EXPOSURE_STOPS, 0.1, 0.0, hint="in stops")
            self._gamma = gui.add_slider("Gamma", *GAMMA, 0.05, 1.0)
            self._background = gui.add_dropdown("Background", list(BACKGROUNDS))
            self._still = gui.add_number(
                "Samples, still", 0, min=0, max=MOST_SAMPLES, step=8, hint="a ray; 0 = the model's"
            )
            self._moving = gui.add_number(
                "Samples, moving", 0, min=0, max=MOST_SAMPLES, step=8, hint="a ray; 0 = as still"
            )
        with gui.add_folder("What is shown", expand_by_default=False):
            self._experts = [ALL_EXPERTS, *map(str, range(len(view.site.experts.centroids)))]
            self._expert = gui.add_dropdown("Expert", self._experts)
            self._near = gui.add_number("Near (m)", 0.0, min=0.0, max=FARTHEST_M, step=1.0)
            self._far = gui.add_number(
                "Far (m)", 0.0, min=0.0, max=FARTHEST_M, step=10.0, hint="0 = no bound"
            )
            self._crop = gui.add_checkbox("Crop box", False)
            self._sides = self._box_sliders()
            self._box_line = gui.add_markdown("", visible=False)
        for handle in (self._exposure, self._gamma):
            handle.on_update(lambda _: self._act("Light", self._change_light))
        for handle in (
            self._background, self._still, self._moving, self._expert, self._near, self._far,
            self._crop, *self._sides,
        ):  # fmt: skip
            handle.on_update(lambda _: self._act("Not shown so", self._change_render))

    def _box_sliders(self):
        """Sliders of the crop box: from and to, East, North and Up, m."""
        site, gui = self._view.site, self._view.client.gui
        corners = site.frame.world_to_enu_m(site.experts.aabb)
        low, high = corners.min(axis=0), corners.max(axis=0)
        sliders = []
        for name, start, end in zip(("East", "North", "Up"), low, high, strict=True):
            start, end = float(np.floor(start)), float(np.ceil(end))
            sliders.append(
                gui.add_multi_slider(
                    f"{name} (m)", start, max(end, start + 1.0), BOX_HEIGHT_STEP_M, (start, end),
                    min_range=BOX_HEIGHT_STEP_M, visible=False,
                )
            )  # fmt: skip
        return sliders

    def _act(self, title: str, action) -> None:
        guarded(self._view.say, title, action)

    def _change_light(self) -> None:
        self._view.change_look(
            lambda: {
                "exposure_stops": within("Exposure", self._exposure.value, *EXPOSURE_STOPS),
                "gamma": within("Gamma", self._gamma.value, *GAMMA),
            }
        )

    def _change_render(self) -> None:
        for handle in (*self._sides, self._box_line):
            handle.visible = bool(self._crop.value)
        self._view.change_look(self._wanted)

    def _wanted(self) -> dict[str, object]:
        """The fields of the look that the controls ask for.

        Raises:
            BadViewError: a control holds what it must not.
        """
        near = within("Near (m)", self._near.value, 0.0, FARTHEST_M)
        far = within("Far (m)", self._far.value, 0.0, FARTHEST_M)
        if far and far <= near:
            raise BadViewError(f"Far (m) {far:g}: must be more than Near (m) {near:g}, or 0")
        expert = one_of("Expert", self._expert.value, self._experts)
        background = one_of("Background", self._background.value, BACKGROUNDS)
        still = within("Samples, still", self._still.value, 0, MOST_SAMPLES)
        moving = within("Samples, moving", self._moving.value, 0, MOST_SAMPLES)
        options = RenderOptions(
            max_samples=int(still) or None,
            near_m=near or None,
            far_m=far or None,
            crop_enu_m=self._told_box() if self._crop.value else None,
            expert=None if expert == ALL_EXPERTS else int(expert),
            background_rgb=BACKGROUNDS[background],
        )
        return {"moving_samples": int(moving) or None, "options": options}

    def _told_box(self) -> tuple[Point, Point]:
        """The crop box, after its numbers were written below the sliders."""
        box = self._box()
        sides = zip(("East", "North", "Up"), *box, strict=True)
        self._box_line.content = "  \n".join(f"{n} {a:g} to {b:g} m" for n, a, b in sides)
        return box

    def _box(self) -> tuple[Point, Point]:
        """The crop box's lowest and highest corner, East, North, Up in m."""
        low, high = [], []
        for name, slider in zip(("East", "North", "Up"), self._sides, strict=True):
            start, end = slider.value
            low.append(within(f"{name} (m)", start, -FARTHEST_M, FARTHEST_M))
            high.append(within(f"{name} (m)", end, -FARTHEST_M, FARTHEST_M))
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])
