"""Owns making photographs, exact depth and change masks from a packed scene."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pycolmap
from numpy.typing import NDArray

from nerfcore.city import kernels
from nerfcore.city.flight import Shot
from nerfcore.city.plan import Plan
from nerfcore.city.raycast import FAR
from nerfcore.city.scene import Scene
from nerfcore.machine import usable_cores

CHANGED_DEPTH_M = 0.25
CHANGED_ALBEDO = 0.04

Item = TypeVar("Item")
Result = TypeVar("Result")


def pixel_rays(camera: pycolmap.Camera, per_side: int) -> NDArray[np.float64]:
    """Return the ray of every sample of every pixel, through the camera's true distortion.

    Args:
        camera: any COLMAP camera.
        per_side: samples a side of a pixel, evenly spaced.

    Returns:
        f64[H * per_side, W * per_side, 3], unit, in camera axes (right, down, forward).
    """
    step = 1.0 / per_side
    u = np.arange(camera.width * per_side) * step + step / 2
    v = np.arange(camera.height * per_side) * step + step / 2
    grid = np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2)
    rays = np.ones((len(grid), 3))
    rays[:, :2] = camera.cam_from_img(grid)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    return rays.reshape(len(v), len(u), 3)


def city_pose(shot: Shot, plan: Plan) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return camera-to-city rotation f64[3, 3] and centre f64[3] of a shot."""
    city_from_enu = plan.enu_from_city().T
    return city_from_enu @ shot.axes.T, city_from_enu @ shot.centre_m


def trace(
    scene: Scene, origins: NDArray[np.float64], directions: NDArray[np.float64], width_m: float
) -> tuple[NDArray[np.float64], NDArray[np.int32], NDArray[np.float64]]:
    """Return depth f64[N] (m, inf for the sky), what was met i32[N], albedo f64[N, 3] of rays."""
    count = len(origins)
    depth, items, albedo = np.empty(count), np.empty(count, np.int32), np.zeros((count, 3))
    kernels.cast(
        scene, np.ascontiguousarray(origins), np.ascontiguousarray(directions), width_m,
        depth, items, albedo,
    )  # fmt: skip
    depth[depth >= FAR] = np.inf
    return depth, items, albedo


def encode_srgb(linear: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return linear light as 8-bit sRGB, the brightest tones rolled off softly."""
    soft = np.where(linear > 0.8, 0.8 + 0.2 * np.tanh((linear - 0.8) / 0.2), linear)
    low, high = 12.92 * soft, 1.055 * np.maximum(soft, 0.0) ** (1 / 2.4) - 0.055
    return np.round(255 * np.clip(np.where(soft <= 0.0031308, low, high), 0, 1)).astype(np.uint8)


def photograph(
    scene: Scene, plan: Plan, camera: pycolmap.Camera, rays: NDArray[np.float64], shot: Shot
) -> NDArray[np.uint8]:
    """Take one photograph.

    Args:
        scene, plan: the city.
        camera, rays: the flight's camera and its `pixel_rays`.
        shot: the pose.

    Returns:
        u8[H, W, 3], sRGB.
    """
    turn, centre = city_pose(shot, plan)
    per_side = rays.shape[0] // camera.height
    light = np.empty((camera.height, camera.width, 3))
    spread = 1.0 / (camera.mean_focal_length() * per_side)
    kernels.expose(scene, rays, turn, centre, spread, per_side, light)
    return encode_srgb(light)


def depth_map(
    scene: Scene, plan: Plan, rays: NDArray[np.float64], shot: Shot
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return exact depth f64[H, W] (m along the ray) and albedo f64[H, W, 3] of a shot's pixels.

    Args:
        scene, plan: the city.
        rays: `pixel_rays(camera, 1)`: the pixels' centres.
        shot: the pose.
    """
    turn, centre = city_pose(shot, plan)
    directions = rays.reshape(-1, 3) @ turn.T
    depth, _, albedo = trace(scene, np.broadcast_to(centre, directions.shape), directions, 0.4)
    return depth.reshape(rays.shape[:2]), albedo.reshape(rays.shape)


def change_mask(
    before: Scene, after: Scene, plan: Plan, rays: NDArray[np.float64], shot: Shot
) -> NDArray[np.bool_]:
    """Return bool[H, W]: pixels whose surface moved or changed colour; shadows do not count."""
    depth_old, albedo_old = depth_map(before, plan, rays, shot)
    depth_new, albedo_new = depth_map(after, plan, rays, shot)
    both_sky = np.isinf(depth_old) & np.isinf(depth_new)
    with np.errstate(invalid="ignore"):
        moved = ~both_sky & ~(np.abs(depth_old - depth_new) <= CHANGED_DEPTH_M)
    return moved | (np.abs(albedo_old - albedo_new).max(axis=-1) > CHANGED_ALBEDO)


def in_parallel(work: Callable[[Item], Result], items: list[Item]) -> Iterator[Result]:
    """Yield the work's results in order, done by as many threads as there are cores."""
    workers = usable_cores()
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(work, items)
