"""Owns looks: what the model shows where a photograph looks, beside the photograph, both reduced.

A look is small (about `LOOK_WIDTH_PX` wide), so a flight of a hundred photographs is looked over in
seconds. Colours are sRGB in [0, 1], places world coordinates (DRB).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from nerfcore.colour import bytes_to_srgb
from nerfcore.data.images import ImageStore
from nerfcore.geometry.camera import Camera
from nerfcore.sampling.ground import GroundGrid
from nerfcore.scene import SceneModel

LOOK_WIDTH_PX = 128
LEAST_PIXELS = 2
Float32 = NDArray[np.float32]
Asked = Callable[[], bool]
"""Called between chunks of rays: may let others use the model, raises to give up, is else False."""


@dataclass(frozen=True, eq=False)
class Look:
    """One photograph and what the model shows in its place.

    Attributes:
        image: index in the store it was made from.
        shown, truth: f32[h, w, 3], sRGB.
        valid: bool[h, w], all that a reduced pixel averages is valid.
        depth_m: f32[h, w], metres along the ray to what the model shows, NaN where it shows sky.
        points: f32[h, w, 3], world places of what the model shows, NaN where it shows sky.
        origin: f32[3]; directions: f32[h, w, 3], unit: the reduced pixels' rays.
    """

    image: int
    shown: Float32
    truth: Float32
    valid: NDArray[np.bool_]
    depth_m: Float32
    points: Float32
    origin: Float32
    directions: Float32


def reduced_camera(store: ImageStore, image: int, width_px: int = LOOK_WIDTH_PX) -> Camera:
    """The camera that took an image of a store, with at most `width_px` columns."""
    width, height = int(store.widths[image]), int(store.heights[image])
    columns = min(width, width_px)
    rows = max(1, round(height * columns / width))
    fx, fy, cx, cy = (float(value) for value in store.intrinsics[image])
    across, down = columns / width, rows / height
    return Camera(store.c2w[image], fx * across, fy * down, cx * across, cy * down, columns, rows)


def look(scene: SceneModel, store: ImageStore, image: int, asked: Asked | None = None) -> Look:
    """Look at one image of a store."""
    camera = reduced_camera(store, image)
    shown = scene.render(camera, cancelled=asked)
    if shown is None:
        raise RuntimeError("a rendering that nobody may cancel was cancelled")
    size = (camera.width_px, camera.height_px)
    truth = cv2.resize(store.image(image), size, interpolation=cv2.INTER_AREA)
    whole = store.valid_mask(image).astype(np.float32)
    valid = cv2.resize(whole, size, interpolation=cv2.INTER_AREA) > 0.999
    origins, directions = camera.rays()
    distance = (shown.depth_m / scene.scale_m).reshape(-1, 1)
    points = (origins + distance * directions).astype(np.float32)
    shape = (camera.height_px, camera.width_px, 3)
    return Look(
        image, shown.rgb, bytes_to_srgb(np.asarray(truth, np.uint8)), np.asarray(valid, np.bool_),
        shown.depth_m, points.reshape(shape), origins[0], directions.reshape(shape),
    )  # fmt: skip


LookAt = Callable[[SceneModel, ImageStore, int], Look]
"""Looks at one image of a store as `look` does; may wait for the model, raises to give up."""


def look_over(
    scene: SceneModel,
    store: ImageStore,
    images: Iterable[int] | None = None,
    look_at: LookAt = look,
) -> list[Look]:
    """Look at some images of a store (None: all)."""
    every = range(len(store)) if images is None else images
    return [look_at(scene, store, image) for image in every]


def cell_means(look: Look, grid: GroundGrid, values: Float32) -> Float32:
    """Mean of a look's pixels by the ground cell under what the model shows there.

    Args:
        values: f32[h, w].

    Returns:
        f32[cells]; NaN where fewer than 2 usable pixels look.
    """
    cells = grid.index(np.nan_to_num(look.points[..., 1:], nan=np.inf))
    usable = look.valid & np.isfinite(look.depth_m) & (cells >= 0)
    count = grid.shape[0] * grid.shape[1]
    pixels = np.bincount(cells[usable], minlength=count)
    total = np.bincount(cells[usable], weights=values[usable], minlength=count)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pixels >= LEAST_PIXELS, total / pixels, np.nan).astype(np.float32)
