"""Owns the dataset's photographs as the viewer uses them: groups, cameras, pixels on the render.

A photograph is laid over a render by way of the surfaces that the render shows: at the
photograph's own place both coincide, from elsewhere it is draped over the scene. World frame and
cameras as in `nerfcore.geometry.camera`.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from nerfcore.data.images import read_photograph
from nerfcore.data.records import ImageSet
from nerfcore.geometry.camera import Camera, Rendered
from nerfcore.geometry.frames import project

LONGEST_SIDE_PX: Final = 1024
HELD_PHOTOGRAPHS: Final = 12
FAR_UNITS: Final = 1e4


@dataclass(frozen=True, eq=False)
class PhotoGroup:
    """Photographs of one flight.

    Attributes:
        name: "first flight", or the name of a later batch.
        images: where they are and how they were taken.
        is_later: taken after the model's own images.
    """

    name: str
    images: ImageSet
    is_later: bool

    def __len__(self) -> int:
        return len(self.images)

    def camera(self, index: int) -> Camera:
        """Return a photograph's camera at its stored size."""
        fx, fy, cx, cy = (float(v) for v in self.images.intrinsics[index])
        size = int(self.images.widths_px[index]), int(self.images.heights_px[index])
        return Camera(np.asarray(self.images.c2w[index], np.float32), fx, fy, cx, cy, *size)


@dataclass(frozen=True, eq=False)
class Photograph:
    """One photograph in memory: its camera at this size, and u8[H, W, 3] RGB."""

    camera: Camera
    pixels: NDArray[np.uint8]


class PhotoShelf:
    """Reads photographs, reduced, and keeps the last few; any thread may ask.

    Args:
        groups: the flights, the first one first.
    """

    def __init__(self, groups: Sequence[PhotoGroup]) -> None:
        self.groups = tuple(groups)
        self._held: OrderedDict[tuple[str, int], Photograph] = OrderedDict()
        self._lock = threading.Lock()

    def group(self, name: str) -> PhotoGroup:
        """Return the group of this name.

        Raises:
            KeyError: there is none.
        """
        return next(group for group in self.groups if group.name == name)

    @property
    def newest(self) -> PhotoGroup | None:
        """The first later flight, or the model's own where there is none; None without any."""
        later = [group for group in self.groups if group.is_later]
        return (later or [*self.groups, None])[0]

    def photograph(self, group: PhotoGroup, index: int) -> Photograph:
        """Return a photograph with its longer side at most `LONGEST_SIDE_PX`.

        Raises:
            DataError: the file is gone or damaged.
        """
        key = (group.name, index)
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        found = _read(group, index)
        with self._lock:
            self._held[key] = found
            while len(self._held) > HELD_PHOTOGRAPHS:
                self._held.popitem(last=False)
        return found


def surface_points(camera: Camera, rendered: Rendered, scale_m: float) -> NDArray[np.float64]:
    """Return the world points that a render's pixels show, f64[H, W, 3]; very far without depth."""
    origins, directions = camera.rays()
    reach = np.where(np.isfinite(rendered.depth_m), rendered.depth_m / scale_m, FAR_UNITS)
    points = origins.astype(np.float64) + directions * reach.reshape(-1, 1)
    return points.reshape(*rendered.depth_m.shape, 3)


def drape(
    photograph: Photograph, points: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return what a photograph shows at world points [H, W, 3].

    Returns:
        u8[H, W, 3] RGB, and bool[H, W]: inside the photograph (occlusion is not looked at).
    """
    camera = photograph.camera
    intrinsics = np.array([camera.fx, camera.fy, camera.cx, camera.cy])
    pixels, depths = project(points.reshape(-1, 3), camera.c2w, intrinsics)
    shape = points.shape[:2]
    # OpenCV counts from the first pixel's centre.
    u = (pixels[:, 0] - 0.5).reshape(shape)
    v = (pixels[:, 1] - 0.5).reshape(shape)
    is_inside = (
        (depths.reshape(shape) > 0)
        & (u > -0.5) & (u < camera.width_px - 0.5)
        & (v > -0.5) & (v < camera.height_px - 0.5)
    )  # fmt: skip
    u, v = (np.where(is_inside, c, -10.0).astype(np.float32) for c in (u, v))
    drawn = cv2.remap(photograph.pixels, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(drawn, np.uint8), is_inside


def wipe(
    picture: NDArray[np.uint8],
    other: NDArray[np.uint8],
    is_there: NDArray[np.bool_],
    share: float,
) -> NDArray[np.uint8]:
    """Return the other picture left of a line, the picture right of it.

    Args:
        picture, other: u8[H, W, 3].
        is_there: bool[H, W], where the other picture is known.
        share: place of the line, 0 (left edge) to 1.
    """
    width = picture.shape[1]
    line = round(width * share)
    shown = picture.copy()
    left = is_there[:, :line, None]
    shown[:, :line] = np.where(left, other[:, :line], picture[:, :line])
    if 0 < line < width:
        half = max(1, width // 400)
        shown[:, max(0, line - half) : line + half] = 255
    return shown


def blend(
    picture: NDArray[np.uint8],
    other: NDArray[np.uint8],
    is_there: NDArray[np.bool_],
    share: float,
) -> NDArray[np.uint8]:
    """Return both pictures mixed, `share` of the other where it is known."""
    mixed = cv2.addWeighted(other, share, picture, 1.0 - share, 0.0)
    return np.where(is_there[..., None], np.asarray(mixed, np.uint8), picture)


def _read(group: PhotoGroup, index: int) -> Photograph:
    pixels = read_photograph(group.images.paths[index], group.images.checksum(index))
    camera = group.camera(index)
    height, width = pixels.shape[:2]
    shrink = min(1.0, LONGEST_SIDE_PX / max(height, width))
    camera = camera.scaled_to(max(1, round(camera.width_px * shrink)))
    size = (camera.width_px, camera.height_px)
    if (width, height) != size:
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    return Photograph(camera, pixels)
