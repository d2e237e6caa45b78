"""Views of the boxes scene for tests over the wire: two cameras, what they must show, the tower."""

import numpy as np
from boxes_scene import painted
from running_viewer import RunningViewer

from nerfcore.geometry.aiming import looking_at
from nerfcore.geometry.camera import Camera
from nerfcore.viewer import overview_camera
from nerfcore.viewer.colours import Show

DEPTH_MAX_M = 300.0


def front_view(viewer: RunningViewer, width_px: int = 480, height_px: int = 320) -> Camera:
    return overview_camera(viewer.scene.frame, None, width_px, height_px)


def side_view(width_px: int = 480, height_px: int = 320) -> Camera:
    return looking_at([0.0, 1.6, 0.3], [0.8, 0.0, 0.0], width_px, height_px, 0.9)


def truth(viewer: RunningViewer, camera: Camera, show: Show = Show.RGB) -> np.ndarray:
    return painted(viewer.scene.copy().seen_by(camera), show, DEPTH_MAX_M)


def tower_colour(picture: np.ndarray) -> np.ndarray:
    """The mean colour of the tower's roof in the front view."""
    height, width = picture.shape[:2]
    rows = slice(int(0.08 * height), int(0.14 * height))
    columns = slice(int(0.45 * width), int(0.55 * width))
    return picture[rows, columns].mean(axis=(0, 1))
