"""Owns cameras made from where they stand and where they look.

World DRB, camera RUB (see `nerfcore.geometry.frames`); square pixels, the principal point in the
middle.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from nerfcore.geometry.camera import Camera
from nerfcore.geometry.frames import ENU_TO_DRB

UP_WORLD: Final = np.array([-1.0, 0.0, 0.0])
UP_WORLD.setflags(write=False)


def looking_at(
    eye: ArrayLike, target: ArrayLike, width_px: int, height_px: int, fov_rad: float
) -> Camera:
    """Return a camera at `eye` that looks at `target`, world points, the horizon level.

    Looking straight down, north is at the top.
    """
    position = np.asarray(eye, np.float64)
    back = position - np.asarray(target, np.float64)
    back /= np.linalg.norm(back)
    right = np.cross(UP_WORLD, back)
    if np.linalg.norm(right) < 1e-6:
        right = np.array([0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    c2w = np.column_stack([right, np.cross(back, right), back, position]).astype(np.float32)
    focal = 0.5 * height_px / math.tan(0.5 * fov_rad)
    return Camera(c2w, focal, focal, 0.5 * width_px, 0.5 * height_px, width_px, height_px)


def camera_towards(
    eye: ArrayLike,
    heading_deg: float,
    pitch_deg: float,
    roll_deg: float,
    width_px: int,
    height_px: int,
    fov_rad: float,
) -> Camera:
    """Return a camera by its heading and pitch.

    Args:
        eye: world point f[3].
        heading_deg: from north over east; pitch_deg: above the horizon; roll_deg: clockwise.
        width_px, height_px: size.
        fov_rad: vertical field of view.
    """
    heading, pitch, roll = np.radians([heading_deg, pitch_deg, roll_deg])
    level = np.array([np.sin(heading), np.cos(heading), 0.0])
    forward = np.cos(pitch) * level + np.sin(pitch) * np.array([0.0, 0.0, 1.0])
    right = np.array([np.cos(heading), -np.sin(heading), 0.0])
    up = np.cross(right, forward)
    turned = np.cos(roll) * right - np.sin(roll) * up, np.sin(roll) * right + np.cos(roll) * up
    axes_enu = np.column_stack([*turned, -forward])
    c2w = np.column_stack([ENU_TO_DRB @ axes_enu, np.asarray(eye, np.float64)]).astype(np.float32)
    focal = 0.5 * height_px / math.tan(0.5 * fov_rad)
    return Camera(c2w, focal, focal, 0.5 * width_px, 0.5 * height_px, width_px, height_px)
