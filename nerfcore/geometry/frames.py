"""Owns the axis conventions and the change between them.

- ENU: East, North, Up in metres around a geodetic reference.
- DRB (world): [Down, East, South] = [-Up, East, -North]; index 0 is vertical, positive downwards.
- RDF: COLMAP's camera axes (right, down, front); COLMAP stores world-to-camera.
- RUB: our camera axes (right, up, back); a camera looks along its -Z; we store camera-to-world.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

ENU_TO_DRB: Final[NDArray[np.float64]] = np.array(
    [[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]
)
RDF_TO_RUB: Final[NDArray[np.float64]] = np.diag([1.0, -1.0, -1.0])
for _constant in (ENU_TO_DRB, RDF_TO_RUB):
    _constant.setflags(write=False)


def roughness(rotation: NDArray[np.float64]) -> float:
    """Return how far a matrix f64[3, 3] is from a rotation: 0 for one, 2 or more if mirrored."""
    off = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    return off if np.linalg.det(rotation) > 0.0 else max(off, 2.0)


def camera_centres(cam_from_world: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return camera centres f64[N, 3] of world-to-camera poses f64[N, 3, 4]: C = -R^T t."""
    return -np.einsum("nji,nj->ni", cam_from_world[:, :, :3], cam_from_world[:, :, 3])


def colmap_to_c2w(
    rotations_c2w_rdf: NDArray[np.float64],
    centres_enu_m: NDArray[np.float64],
    origin_drb_m: NDArray[np.float64],
    scale_m: float,
) -> NDArray[np.float64]:
    """Return camera-to-world poses (RUB, scaled DRB) of COLMAP cameras expressed in ENU.

    Args:
        rotations_c2w_rdf: f64[N, 3, 3], camera (RDF) to ENU.
        centres_enu_m: f64[N, 3], camera centres in ENU metres.
        origin_drb_m: f64[3], the world's origin in DRB metres.
        scale_m: metres per world unit.

    Returns:
        f64[N, 3, 4].
    """
    c2w = np.empty((len(centres_enu_m), 3, 4))
    c2w[:, :, :3] = ENU_TO_DRB @ rotations_c2w_rdf @ RDF_TO_RUB
    c2w[:, :, 3] = (centres_enu_m @ ENU_TO_DRB.T - origin_drb_m) / scale_m
    return c2w


def c2w_to_colmap(
    c2w: NDArray[np.floating], origin_drb_m: NDArray[np.float64], scale_m: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what `colmap_to_c2w` was given: rotations c2w (RDF to ENU) and centres in ENU metres.

    Args:
        c2w: [N, 3, 4], camera (RUB) to scaled DRB world.
        origin_drb_m: f64[3], the world's origin in DRB metres.
        scale_m: metres per world unit.
    """
    poses = np.asarray(c2w, np.float64)
    rotations = ENU_TO_DRB.T @ poses[:, :, :3] @ RDF_TO_RUB
    centres = (poses[:, :, 3] * scale_m + origin_drb_m) @ ENU_TO_DRB
    return rotations, centres


def project(
    points: NDArray[np.floating], c2w: NDArray[np.floating], intrinsics: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Project world points, one camera per point.

    Args:
        points: [N, 3], world.
        c2w: [N, 3, 4] (or [3, 4] for all), camera (RUB) to world.
        intrinsics: [N, 4] (or [4] for all), fx, fy, cx, cy, px.

    Returns:
        Pixels f64[N, 2] (pixel centres at +0.5) and depths along the optical axis f64[N] (world
        units; not positive = behind the camera, where the pixel means nothing).
    """
    pose = np.asarray(c2w, np.float64)
    fx, fy, cx, cy = np.moveaxis(np.asarray(intrinsics, np.float64), -1, 0)
    offsets = np.asarray(points, np.float64) - pose[..., 3]
    local = np.einsum("...ji,...j->...i", pose[..., :3], offsets)
    depths = -local[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = np.stack(
            [cx + fx * local[..., 0] / depths, cy - fy * local[..., 1] / depths], axis=-1
        )
    return pixels, depths
