"""Owns the controls of how the picture is made: light, samples, background, bounds, crop box."""

from typing import Final

import numpy as np

from nerfcore.viewer.client_view import ClientView
from nerfcore.viewer.options import Point
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
            self._exposure = gui.add_slider("Exposure", -3.0, 3.0, 0.1, 0.0, hint="in stops")
            self._gamma = gui.add_slider("Gamma", 0.4, 2.5, 0.05, 1.0)
            self._background = gui.add_dropdown("Background", list(BACKGROUNDS))
            self._still = gui.add_number(
                "Samples, still", 0, min=0, max=MOST_SAMPLES, step=8, hint="a ray; 0 = the model's"
            )
            self._moving = gui.add_number(
                "Samples, moving", 0, min=0, max=MOST_SAMPLES, step=8, hint="a ray; 0 = as still"
            )
        with gui.add_folder("What is shown", expand_by_default=False):
            names = [ALL_EXPERTS, *map(str, range(len(view.site.experts.centroids)))]
            self._expert = gui.add_dropdown("Expert", names)
            self._near = gui.add_number("Near (m)", 0.0, min=0.0, max=1e6, step=1.0)
            self._far = gui.add_number(
                "Far (m)", 0.0, min=0.0, max=1e6, step=10.0, hint="0 = no bound"
            )
            self._crop = gui.add_checkbox("Crop box", False)
            self._sides = self._box_sliders()
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
            exposure_stops=float(self._exposure.value), gamma=float(self._gamma.value)
        )

    def _change_render(self) -> None:
        near, far = float(self._near.value), float(self._far.value)
        if far and far <= near:
            raise ValueError(f"far {far:g} m: must be more than near {near:g} m, or 0")
        for slider in self._sides:
            slider.visible = bool(self._crop.value)
        crop = None
        if self._crop.value:
            east, north, up = (slider.value for slider in self._sides)
            crop = (
                (float(east[0]), float(north[0]), float(up[0])),
                (float(east[1]), float(north[1]), float(up[1])),
            )
        expert = None if self._expert.value == ALL_EXPERTS else int(self._expert.value)
        self._view.change_look(
            moving_samples=int(self._moving.value) or None,
            options=type(self._view.look.options)(
                max_samples=int(self._still.value) or None,
                near_m=near or None,
                far_m=far or None,
                crop_enu_m=crop,
                expert=expert,
                background_rgb=BACKGROUNDS[self._background.value],
            ),
        )
