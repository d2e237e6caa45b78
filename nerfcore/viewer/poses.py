"""Owns the change between the page's cameras and ours, and the view a visit starts with.

Page frame: axes [East, North, Up], unit and origin those of the world (scaled, no offset), so that
the page's orbit controls turn about the vertical. Page cameras are OpenCV: right, down, forward,
looking along +Z; a vertical field of view in rad, square pixels, principal point in the middle.
Ours: world DRB, camera RUB (see `nerfcore.geometry.frames`).
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from viser import transforms

from nerfcore.data.records import SceneFrame
from nerfcore.errors import NerfcoreError
from nerfcore.geometry.aiming import looking_at
from nerfcore.geometry.camera import Camera
from nerfcore.geometry.frames import ENU_TO_DRB, RDF_TO_RUB

FARTHEST_UNITS: Final = 1e4
LARGEST_SIDE_PX: Final = 16384
LARGEST_ASPECT: Final = 20.0
FOV_RANGE_RAD: Final = (math.radians(1.0), math.radians(170.0))
START_FOV_RAD: Final = math.radians(50.0)


class BadViewError(NerfcoreError):
    """A client asked for a view that cannot be rendered."""


@dataclass(frozen=True, eq=False)
class PagePose:
    """A camera as the page states it.

    Attributes:
        wxyz: f64[4], unit quaternion, camera (OpenCV) to page.
        position: f64[3], page frame.
        fov_rad: vertical field of view, rad.
        width_px, height_px: canvas size.
    """

    wxyz: NDArray[np.float64]
    position: NDArray[np.float64]
    fov_rad: float
    width_px: int
    height_px: int


def page_from_world(points: ArrayLike) -> NDArray[np.float64]:
    """Return world points [..., 3] in the page frame."""
    return np.asarray(points, np.float64) @ ENU_TO_DRB


def world_from_page(points: ArrayLike) -> NDArray[np.float64]:
    """Return page points [..., 3] in the world frame."""
    return np.asarray(points, np.float64) @ ENU_TO_DRB.T


def camera_from_page(pose: PagePose, max_side_px: int) -> Camera:
    """Return our camera of a page's camera, at the canvas's aspect.

    Args:
        pose: as the client sent it, unchecked.
        max_side_px: the picture's longer side is at most this long.

    Raises:
        BadViewError: a value is not finite or out of its range.
    """
    _check(pose)
    rotation = ENU_TO_DRB @ transforms.SO3(pose.wxyz).as_matrix() @ RDF_TO_RUB
    c2w = np.column_stack([rotation, world_from_page(pose.position)]).astype(np.float32)
    shrink = min(1.0, max_side_px / max(pose.width_px, pose.height_px))
    width_px = max(1, round(pose.width_px * shrink))
    height_px = max(1, round(pose.height_px * shrink))
    focal_y = 0.5 * height_px / math.tan(0.5 * pose.fov_rad)
    # The page stretches the picture to its canvas: rounding must not change the horizontal field.
    focal_x = focal_y * (width_px / height_px) / (pose.width_px / pose.height_px)
    return Camera(c2w, focal_x, focal_y, 0.5 * width_px, 0.5 * height_px, width_px, height_px)


def page_from_camera(camera: Camera) -> PagePose:
    """Return the page's camera of ours (an off-centre principal point is lost)."""
    rotation = ENU_TO_DRB.T @ camera.c2w[:, :3].astype(np.float64) @ RDF_TO_RUB
    return PagePose(
        np.asarray(transforms.SO3.from_matrix(rotation).wxyz, np.float64),
        page_from_world(camera.c2w[:, 3]),
        2.0 * math.atan(0.5 * camera.height_px / camera.fy),
        camera.width_px,
        camera.height_px,
    )


def overview_camera(
    frame: SceneFrame, c2w: NDArray[np.floating] | None, width_px: int = 960, height_px: int = 640
) -> Camera:
    """Return an oblique view of the scene's centre from the south, 45 degrees down.

    Args:
        frame: the scene's frame; its altitude range gives the ground.
        c2w: [N, 3, 4], the dataset's cameras; None = one camera in the world's origin.
        width_px, height_px: size of the view.
    """
    positions = np.zeros((1, 3)) if c2w is None else np.asarray(c2w, np.float64)[:, :, 3]
    ground = ground_height(frame)
    centre = np.array([ground, *np.median(positions[:, 1:], axis=0)])
    low, high = np.percentile(positions[:, 1:], [5.0, 95.0], axis=0)
    height = ground - float(np.median(positions[:, 0]))
    reach = max(height, 0.5 * float((high - low).max()), 1e-3)
    return looking_at(
        centre + reach * np.array([-1.0, 0.0, 1.0]), centre, width_px, height_px, START_FOV_RAD
    )


def ground_height(frame: SceneFrame) -> float:
    """Return the ground's world coordinate on the vertical axis (positive downwards)."""
    up_m = frame.altitude_range_enu_m[0]
    return (-up_m - float(frame.origin_drb_m[0])) / frame.pose_scale_factor_m


def ground_target(camera: Camera, frame: SceneFrame) -> NDArray[np.float64]:
    """Return where the camera's axis meets the ground, world; one unit ahead if it does not."""
    eye = camera.c2w[:, 3].astype(np.float64)
    forward = -camera.c2w[:, 2].astype(np.float64)
    distance = 1.0
    if forward[0] > 0.05:
        distance = (ground_height(frame) - float(eye[0])) / float(forward[0])
    return eye + (distance if 0.01 < distance < FARTHEST_UNITS else 1.0) * forward


def _check(pose: PagePose) -> None:
    values = np.concatenate([np.ravel(pose.wxyz), np.ravel(pose.position), [pose.fov_rad]])
    if values.shape != (8,) or not np.isfinite(values).all():
        raise BadViewError("camera: its position, rotation or field of view is not finite")
    if not 0.9 < float(np.linalg.norm(pose.wxyz)) < 1.1:
        raise BadViewError(f"camera: the rotation {pose.wxyz.tolist()} is no unit quaternion")
    if float(np.abs(pose.position).max()) > FARTHEST_UNITS:
        raise BadViewError(f"camera: farther than {FARTHEST_UNITS:g} units from the scene")
    if not FOV_RANGE_RAD[0] <= pose.fov_rad <= FOV_RANGE_RAD[1]:
        raise BadViewError(
            f"camera: field of view {math.degrees(pose.fov_rad):.3g} degrees, allowed 1 to 170"
        )
    sides = (pose.width_px, pose.height_px)
    if not (min(sides) >= 1 and max(sides) <= LARGEST_SIDE_PX):
        raise BadViewError(
            f"camera: picture of {sides[0]} x {sides[1]} px, allowed 1 to {LARGEST_SIDE_PX} a side"
        )
    if max(sides) > LARGEST_ASPECT * min(sides):
        raise BadViewError(f"camera: picture of {sides[0]} x {sides[1]} px is too narrow a strip")
