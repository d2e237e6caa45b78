"""Owns picking: the point under a place of the picture, and the distance between two of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nerfcore.data.records import SceneFrame
from nerfcore.geometry.camera import Camera, Rendered

PATCH_PX: Final = 3
PRECISION: Final = 1e-4  # of a depth
RenderUpTo = Callable[[float | None], Rendered | None]  # bounded by a reach in m; None = unbounded


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


def find_point(patch: Camera, render: RenderUpTo, scale_m: float) -> NDArray[np.float64] | None:
    """Return the world point f64[3] in a patch's middle; None without depth, or when cancelled.

    Its depth is where half of what the rays meet lies in front. Their mean depth is pulled away
    from the surface by haze, and by whatever a ray meets behind an edge.

    Args:
        patch: of `patch_camera`.
        render: renders the patch.
        scale_m: metres per world unit.
    """
    whole = render(None)
    if whole is None or np.isfinite(whole.depth_m).mean() < 0.5:
        return None
    reach_m = _median_reach_m(whole, render)
    if reach_m is None:
        return None
    origins, directions = patch.rays()
    middle = len(origins) // 2
    step = directions[middle].astype(np.float64) * (reach_m / scale_m)
    return origins[middle].astype(np.float64) + step


def _median_reach_m(whole: Rendered, render: RenderUpTo) -> float | None:
    """Halve the depths between which the median lies: it is at most twice the mean."""
    is_known = np.isfinite(whole.depth_m)
    mean_m = float(np.median(whole.depth_m[is_known]))
    low_m, high_m = 0.0, 2.0 * mean_m
    while high_m - low_m > PRECISION * mean_m:
        reach_m = 0.5 * (low_m + high_m)
        part = render(reach_m)
        if part is None:
            return None
        if np.median(part.opacity[is_known] / whole.opacity[is_known]) < 0.5:
            low_m = reach_m
        else:
            high_m = reach_m
    return 0.5 * (low_m + high_m)


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
