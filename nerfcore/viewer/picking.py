"""Owns picking: the point under a place of the picture, and the distance between two of them."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nerfcore.data.records import SceneFrame
from nerfcore.geometry.camera import Camera, Rendered

PATCH_PX: Final = 3


def patch_camera(camera: Camera, across: float, down: float) -> Camera:
    """Return a camera of `PATCH_PX` x `PATCH_PX` pixels around a place of another's picture.

    Args:
        camera: the view.
        across, down: 0 to 1 from the upper left corner.
    """
    u = np.clip(across, 0.0, 1.0) * camera.width_px - 0.5 * PATCH_PX
    v = np.clip(down, 0.0, 1.0) * camera.height_px - 0.5 * PATCH_PX
    return Camera(
        camera.c2w, camera.fx, camera.fy, camera.cx - u, camera.cy - v, PATCH_PX, PATCH_PX
    )


def point_of_patch(patch: Camera, rendered: Rendered, scale_m: float) -> NDArray[np.float64] | None:
    """Return the world point f64[3] in a patch's middle at its median depth; None without depth."""
    is_known = np.isfinite(rendered.depth_m)
    if is_known.mean() < 0.5:
        return None
    origins, directions = patch.rays()
    middle = len(origins) // 2
    reach = float(np.median(rendered.depth_m[is_known])) / scale_m
    return origins[middle].astype(np.float64) + reach * directions[middle].astype(np.float64)


@dataclass(frozen=True)
class Distance:
    """From one point to another, m.

    Attributes:
        straight_m: through the air.
        level_m: on the map.
        climb_m: the second point above the first.
    """

    straight_m: float
    level_m: float
    climb_m: float

    @staticmethod
    def between(a: NDArray[np.floating], b: NDArray[np.floating], frame: SceneFrame) -> "Distance":
        """Return the distance of two world points f[3]."""
        east, north, up = frame.world_to_enu_m(b) - frame.world_to_enu_m(a)
        level = float(np.hypot(east, north))
        return Distance(float(np.hypot(level, up)), level, float(up))

    def __str__(self) -> str:
        direction = "up" if self.climb_m >= 0 else "down"
        return (
            f"{self.straight_m:.1f} m ({self.level_m:.1f} m level, {abs(self.climb_m):.1f} m "
            f"{direction})"
        )
