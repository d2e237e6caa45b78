"""Owns repairing camera centres that lost precision because a model was written in ECEF.

ECEF coordinates are 6.4e6 m. COLMAP stores a quaternion and a translation t = -R C, so a rotation
that was ever held in float32 (relative error 6e-8) moves C = -R^T t by decimetres, although the
sparse points keep their millimetres. The observations tell: with exact poses, reprojecting the
points gives the errors that the model lists for them. Where it does not, each camera is moved (its
orientation kept) to where its own observations put it, by no more than such rounding explains. What
that cannot mend is refused: such poses, lenses and points are not of one reconstruction.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nerfcore.data.colmap import ColmapModel
from nerfcore.errors import DataError
from nerfcore.geometry.frames import camera_centres

Float64 = NDArray[np.float64]
TOLERANCE_PX: Final = 0.05  # reprojecting may differ this much from the listed mean error
MOST_EXCESS_PX: Final = 3.0  # and after moving cameras at most this much
ROUNDING: Final = 1.2e-7  # float32's spacing at 1: bounds a move, relative to the coordinates
_MIN_OBSERVATIONS: Final = 12
_ITERATIONS: Final = 8
_HUBER_PX: Final = 1.0


@dataclass(frozen=True)
class Recentring:
    """What was found and done.

    Attributes:
        listed_px: mean error the model lists for its points.
        before_px, after_px: mean error of reprojecting them, as read and as returned.
        moved: number of cameras moved.
        largest_move_m: by how much at most.
    """

    listed_px: float
    before_px: float
    after_px: float
    moved: int
    largest_move_m: float


def recentre(model: ColmapModel) -> tuple[ColmapModel, Recentring | None]:
    """Return the model with exact camera centres, and what was done (None: nothing was wrong).

    Raises:
        DataError: the cameras do not see the points where the model says they do.
    """
    original = model
    model, rays, focal_px = _observed(model)
    points = model.points
    if len(rays) == 0:
        return original, None
    before_px = _mean_error_px(model, model.cam_from_world)
    listed_px = float(points.error_px[np.unique(points.point_ids)].mean())
    if before_px - listed_px <= TOLERANCE_PX:
        return original, None
    poses, moves_m = model.cam_from_world.copy(), np.zeros(len(model.names))
    starts = np.searchsorted(points.image_ids, np.arange(len(model.names) + 1))
    centres = camera_centres(model.cam_from_world)
    for index in range(len(model.names)):
        seen = slice(starts[index], starts[index + 1])
        if seen.stop - seen.start < _MIN_OBSERVATIONS:
            continue
        rotation, xyz_m = poses[index, :, :3], points.xyz_m[points.point_ids[seen]]
        moved = _resected(rotation, centres[index], xyz_m, rays[seen], focal_px[seen])
        distance_m = float(np.linalg.norm(moved - centres[index]))
        if distance_m <= ROUNDING * float(np.linalg.norm(centres[index])):
            poses[index, :, 3] = -rotation @ moved
            moves_m[index] = distance_m
    after_px = _mean_error_px(model, poses)
    if after_px - max(listed_px, 0.0) > MOST_EXCESS_PX:
        raise DataError(
            f"{model.folder}: its cameras see its points {after_px:.1f} px from where they were "
            f"observed, on average, while it lists errors of {listed_px:.2f} px (at most "
            f"{MOST_EXCESS_PX:g} px more are plausible); poses, lenses and points are not of one "
            "reconstruction: export the model again"
        )
    done = Recentring(
        listed_px, before_px, after_px, int((moves_m > 0).sum()), float(moves_m.max())
    )
    return replace(original, cam_from_world=poses), done


def _observed(model: ColmapModel) -> tuple[ColmapModel, Float64, Float64]:
    """Return the model less observations outside a lens's domain, each observation's undistorted
    direction (x/z, y/z) f64[T, 2], and its focal length f64[T], px."""
    points = model.points
    rays, focal_px = np.empty_like(points.xy_px), np.empty(len(points.xy_px))
    starts = np.searchsorted(points.image_ids, np.arange(len(model.names) + 1))
    for index, camera in enumerate(model.cameras):
        seen = slice(starts[index], starts[index + 1])
        if seen.stop > seen.start:
            rays[seen] = camera.cam_from_img(points.xy_px[seen])
            focal_px[seen] = camera.mean_focal_length()
    usable = np.isfinite(rays).all(axis=1)
    tracks = replace(
        points,
        image_ids=points.image_ids[usable],
        point_ids=points.point_ids[usable],
        xy_px=points.xy_px[usable],
    )
    return replace(model, points=tracks), rays[usable], focal_px[usable]


def _mean_error_px(model: ColmapModel, poses: Float64) -> float:
    """Return the mean over points of the mean reprojection error of their observations, through
    the cameras' own lenses, as COLMAP computes it."""
    points, centres = model.points, camera_centres(poses)
    starts = np.searchsorted(points.image_ids, np.arange(len(model.names) + 1))
    errors = np.empty(len(points.image_ids))
    for index, camera in enumerate(model.cameras):
        seen = slice(starts[index], starts[index + 1])
        offsets = points.xyz_m[points.point_ids[seen]] - centres[index]
        pixels = np.asarray(camera.img_from_cam(offsets @ poses[index, :, :3].T), np.float64)
        errors[seen] = np.linalg.norm(pixels.reshape(-1, 2) - points.xy_px[seen], axis=1)
    usable = np.isfinite(errors)  # beside what the lens can show
    sums = np.bincount(points.point_ids[usable], errors[usable], len(points.xyz_m))
    counts = np.bincount(points.point_ids[usable], minlength=len(points.xyz_m))
    return float((sums[counts > 0] / counts[counts > 0]).mean()) if usable.any() else 0.0


def _resected(
    rotation: Float64, centre: Float64, xyz_m: Float64, rays: Float64, focal_px: Float64
) -> Float64:
    """Return the centre f64[3] that best explains the observations (Gauss-Newton, Huber loss)."""
    offsets, move = xyz_m - centre, np.zeros(3)
    for _ in range(_ITERATIONS):
        local = (offsets - move) @ rotation.T
        projected = local[:, :2] / local[:, 2:]
        residuals = (projected - rays) * focal_px[:, None]
        # d(x/z, y/z)/d(local) = [1, 0, -x/z; 0, 1, -y/z] / z, and d(local)/d(move) = -rotation.
        slopes = rotation[None, :2, :] - projected[:, :, None] * rotation[None, 2:, :]
        jacobian = -slopes * (focal_px / local[:, 2])[:, None, None]
        sizes = np.linalg.norm(residuals, axis=1)
        weights = _HUBER_PX / np.maximum(sizes, _HUBER_PX)
        normal = np.einsum("n,nij,nik->jk", weights, jacobian, jacobian)
        gradient = np.einsum("n,nij,ni->j", weights, jacobian, residuals)
        step = np.linalg.lstsq(normal, -gradient, rcond=None)[0]
        move = move + step
        if float(np.abs(step).max()) < 1e-5:
            break
    return centre + move
