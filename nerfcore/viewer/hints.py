"""Owns what a person is told about a view that shows little: why, and the way out."""

from typing import Final

import numpy as np

from nerfcore.data.records import SceneFrame
from nerfcore.geometry.camera import Camera, Rendered
from nerfcore.viewer.options import RenderOptions

LEAST_OPAQUE_SHARE: Final = 0.005
TOUCHING_M: Final = 0.5
WAY_OUT: Final = "Reset view brings you back."


def is_empty(rendered: Rendered) -> bool:
    """Say whether a render shows next to nothing of the scene."""
    return float(np.isfinite(rendered.depth_m).mean()) < LEAST_OPAQUE_SHARE


def limits_of(options: RenderOptions) -> list[str]:
    """Return the page's controls that hide parts of the scene, with their settings."""
    limits = []
    if options.near_m is not None:
        limits.append(f"Near (m) {options.near_m:g}")
    if options.far_m is not None:
        limits.append(f"Far (m) {options.far_m:g}")
    if options.crop_enu_m is not None:
        limits.append("Crop box")
    if options.expert is not None:
        limits.append(f"Expert {options.expert}")
    return limits


def hidden_hint(limits: list[str]) -> str:
    """Return the line about a scene that is in view but hidden by controls (one or more)."""
    return f"The scene is hidden by {' and '.join(limits)}: change it under View, What is shown."


def hint_of(camera: Camera, rendered: Rendered, frame: SceneFrame) -> str | None:
    """Return one line about what is wrong with a view, or None.

    Args:
        camera, rendered: the view.
        frame: the scene's frame; its altitude range gives the ground.
    """
    up_m = float(frame.world_to_enu_m(camera.c2w[:, 3])[2])
    if up_m < frame.altitude_range_enu_m[0]:
        below_m = frame.altitude_range_enu_m[0] - up_m
        return f"The camera is {below_m:.0f} m below the ground. {WAY_OUT}"
    is_hit = np.isfinite(rendered.depth_m)
    if is_empty(rendered):
        return f"Nothing of the scene is in view. {WAY_OUT}"
    if float(np.median(rendered.depth_m[is_hit])) < TOUCHING_M and is_hit.mean() > 0.9:
        return f"The camera is inside the ground or a building. {WAY_OUT}"
    return None
