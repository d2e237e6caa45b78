"""Owns the pinhole camera and its rays.

World frame DRB (down, right = east, back = south; scaled units, see `nerfcore.data.dataset`).
Camera axes RUB (right, up, back): the camera looks along its -Z. Pixel centres lie at +0.5.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Camera:
    """A pinhole camera at one pose.

    Attributes:
        c2w: f32[3, 4], camera (RUB) to world (DRB).
        fx, fy, cx, cy: focal lengths and principal point, px.
        width_px, height_px: image size.
    """

    c2w: NDArray[np.float32]
    fx: float
    fy: float
    cx: float
    cy: float
    width_px: int
    height_px: int

    def scaled_to(self, width_px: int) -> "Camera":
        """Return the same view at another width, aspect kept (height rounded, at least 1)."""
        height_px = max(1, round(self.height_px * width_px / self.width_px))
        sx, sy = width_px / self.width_px, height_px / self.height_px
        return Camera(
            self.c2w, self.fx * sx, self.fy * sy, self.cx * sx, self.cy * sy, width_px, height_px
        )

    def rays(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return origins and unit directions, each f32[H * W, 3] in row-major pixel order."""
        u = (np.arange(self.width_px, dtype=np.float64) + 0.5 - self.cx) / self.fx
        v = -(np.arange(self.height_px, dtype=np.float64) + 0.5 - self.cy) / self.fy
        local = np.empty((self.height_px, self.width_px, 3))
        local[..., 0], local[..., 1], local[..., 2] = u[None, :], v[:, None], -1.0
        directions = local.reshape(-1, 3) @ self.c2w[:, :3].astype(np.float64).T
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        origins = np.broadcast_to(self.c2w[:, 3], directions.shape)
        return np.ascontiguousarray(origins, np.float32), directions.astype(np.float32)


@dataclass(frozen=True)
class Rendered:
    """One rendered picture.

    Attributes:
        rgb: f32[H, W, 3], sRGB in [0, 1].
        depth_m: f32[H, W], metres along the ray, NaN where opacity < 0.5.
        opacity: f32[H, W] in [0, 1].
    """

    rgb: NDArray[np.float32]
    depth_m: NDArray[np.float32]
    opacity: NDArray[np.float32]
