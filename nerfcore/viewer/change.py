"""Owns the change map: where a render differs from the photographs of a flight.

The surfaces of the render are looked up in the photographs that see them best. A surface that the
model itself hides from a photograph is not compared with it; brightness is matched first, so that
another time of day is no change.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from nerfcore.geometry.camera import Camera, Rendered
from nerfcore.geometry.frames import project
from nerfcore.viewer.photographs import (
    Photograph,
    PhotoGroup,
    PhotoShelf,
    drape,
    surface_points,
)

COMPARED: Final = 4
PROBES: Final = (12, 9)
OCCLUSION_WIDTH_PX: Final = 128
OCCLUSION_SLACK_M: Final = 2.0
OCCLUSION_SLACK_SHARE: Final = 0.04
HELD_DEPTHS: Final = 16
BLUR_SHARE: Final = 1.0 / 200.0
GAIN_RANGE: Final = (0.5, 2.0)
LEAST_COMPARED_PX: Final = 50

RenderDepth = Callable[[Camera], NDArray[np.float32] | None]
"""Renders a camera's depth, f32[H, W] in m; None when given up."""


@dataclass(frozen=True, eq=False)
class _Seen:
    """A photograph's colours on the view: f32[H, W, 3] in [0, 1], bool[H, W] where they count."""

    rgb: NDArray[np.float32]
    is_seen: NDArray[np.bool_]


class ChangeMap:
    """Compares renders with photographs; one for each client.

    Args:
        shelf: gives the photographs.
        scale_m: metres per world unit.
        render_depth: how the model sees from a photograph's place.
    """

    def __init__(self, shelf: PhotoShelf, scale_m: float, render_depth: RenderDepth) -> None:
        self._shelf = shelf
        self._scale_m = scale_m
        self._render_depth = render_depth
        self._depths: OrderedDict[tuple[str, int, int], NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    def compare(
        self,
        camera: Camera,
        rendered: Rendered,
        group: PhotoGroup,
        generation: int,
        *,
        may_render: bool,
    ) -> NDArray[np.float32]:
        """Return how much each pixel differs, f32[H, W] in [0, 1]; NaN where nothing sees it.

        Args:
            camera, rendered: the view.
            group: photographs to compare with.
            generation: counts changes of the model; what was rendered for another is not used.
            may_render: render what photographs see where it is not known yet (slow, exact);
                otherwise such photographs count as unhidden.

        Raises:
            DataError: a photograph is gone or damaged.
        """
        points = surface_points(camera, rendered, self._scale_m)
        points[~np.isfinite(rendered.depth_m)] = np.nan
        change = np.full(rendered.depth_m.shape, np.nan, np.float32)
        shown = _blurred(np.nan_to_num(rendered.rgb))
        for index in best_photographs(camera, points, group):
            photograph = self._shelf.photograph(group, index)
            depth_m = self._depth(group, index, photograph.camera, generation, may_render)
            seen = self._look(photograph, points, depth_m)
            is_new = seen.is_seen & ~np.isfinite(change)
            if is_new.sum() >= LEAST_COMPARED_PX:
                difference = np.abs(_matched(seen, shown) - shown).mean(axis=2)
                change[is_new] = difference[is_new]
        return change

    def _look(
        self, photograph: Photograph, points: NDArray[np.float64], depth_m: NDArray | None
    ) -> _Seen:
        drawn, is_seen = drape(photograph, np.nan_to_num(points, nan=0.0))
        is_seen &= np.isfinite(points[..., 0])
        if depth_m is not None:
            is_seen &= ~self._is_hidden(photograph.camera, points, depth_m)
        return _Seen(_blurred(drawn.astype(np.float32) / 255.0), is_seen)

    def _is_hidden(
        self, camera: Camera, points: NDArray[np.float64], depth_m: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        """Tell which points lie behind what the model shows from the photograph's place."""
        flat = np.nan_to_num(points.reshape(-1, 3), nan=0.0)
        small = camera.scaled_to(depth_m.shape[1])
        pixels, _ = project(flat, small.c2w, np.array([small.fx, small.fy, small.cx, small.cy]))
        found = np.nan_to_num(pixels, nan=0.0, posinf=0.0, neginf=0.0).astype(np.int64)
        column = np.clip(found[:, 0], 0, depth_m.shape[1] - 1)
        row = np.clip(found[:, 1], 0, depth_m.shape[0] - 1)
        distance_m = np.linalg.norm(flat - camera.c2w[:, 3], axis=1) * self._scale_m
        slack_m = OCCLUSION_SLACK_M + OCCLUSION_SLACK_SHARE * distance_m
        return (distance_m > depth_m[row, column] + slack_m).reshape(points.shape[:2])

    def _depth(
        self, group: PhotoGroup, index: int, camera: Camera, generation: int, may_render: bool
    ) -> NDArray[np.float32] | None:
        key = (group.name, index, generation)
        with self._lock:
            if key in self._depths:
                self._depths.move_to_end(key)
                return self._depths[key]
        if not may_render:
            return None
        depth_m = self._render_depth(camera.scaled_to(min(OCCLUSION_WIDTH_PX, camera.width_px)))
        if depth_m is None:
            return None
        # The farthest surface nearby: a point at an edge is hidden only behind all of them.
        widest = np.nan_to_num(depth_m, nan=np.inf).astype(np.float32)
        depth_m = np.asarray(cv2.dilate(widest, np.ones((3, 3), np.uint8)), np.float32)
        with self._lock:
            self._depths[key] = depth_m
            while len(self._depths) > HELD_DEPTHS:
                self._depths.popitem(last=False)
        return depth_m


def best_photographs(camera: Camera, points: NDArray[np.float64], group: PhotoGroup) -> list[int]:
    """Return the photographs that see most of the view from the most similar direction.

    Args:
        camera: the view.
        points: f64[H, W, 3], its surfaces, NaN where there is none.
        group: to choose from.

    Returns:
        At most `COMPARED` indices, the best first.
    """
    rows = np.linspace(0, points.shape[0] - 1, PROBES[1]).astype(np.int64)
    columns = np.linspace(0, points.shape[1] - 1, PROBES[0]).astype(np.int64)
    probes = points[np.ix_(rows, columns)].reshape(-1, 3)
    probes = probes[np.isfinite(probes[:, 0])]
    if not len(probes) or not len(group):
        return []
    scores = np.array([_score(camera, probes, group.camera(i)) for i in range(len(group))])
    order = np.argsort(-scores)[:COMPARED]
    return [int(i) for i in order if scores[i] > 0.0]


def _score(camera: Camera, probes: NDArray[np.float64], other: Camera) -> float:
    """Tell how well another camera sees probes: the share it sees, less for another direction."""
    intrinsics = np.array([other.fx, other.fy, other.cx, other.cy])
    pixels, depths = project(probes, other.c2w, intrinsics)
    size = np.array([other.width_px, other.height_px])
    with np.errstate(invalid="ignore"):
        is_inside = (depths > 0) & (pixels > 0).all(axis=1) & (pixels < size).all(axis=1)
    if not is_inside.any():
        return 0.0
    own, theirs = probes[is_inside] - camera.c2w[:, 3], probes[is_inside] - other.c2w[:, 3]
    cosine = (own * theirs).sum(axis=1)
    cosine /= np.maximum(np.linalg.norm(own, axis=1) * np.linalg.norm(theirs, axis=1), 1e-12)
    return float(is_inside.mean() * np.clip(cosine, 0.0, 1.0).mean())


def _blurred(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    sigma = max(0.6, rgb.shape[1] * BLUR_SHARE)
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), sigma), np.float32)


def _matched(seen: _Seen, shown: NDArray[np.float32]) -> NDArray[np.float32]:
    """A photograph's colours as bright as the render's where both are known."""
    if not seen.is_seen.any():
        return seen.rgb
    theirs, ours = seen.rgb[seen.is_seen], shown[seen.is_seen]
    gain = np.median(ours, axis=0) / np.maximum(np.median(theirs, axis=0), 1e-3)
    return np.clip(seen.rgb * np.clip(gain, *GAIN_RANGE).astype(np.float32), 0.0, 1.0)
