"""Axis conventions, poses there and back, and projection against the camera's rays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nerfcore.geometry.camera import Camera
from nerfcore.geometry.frames import (
    ENU_TO_DRB,
    c2w_to_colmap,
    camera_centres,
    colmap_to_c2w,
    project,
)

vectors = arrays(np.float64, 3, elements=st.floats(-500.0, 500.0))
quaternions = arrays(np.float64, 4, elements=st.floats(-1.0, 1.0)).filter(
    lambda q: np.linalg.norm(q) > 0.1
)


def rotation_of(quaternion):
    x, y, z, w = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def test_world_axes():
    """East, North and Up become right, -back and -down of the world [Down, East, South]."""
    assert np.array_equal(ENU_TO_DRB @ [1.0, 0.0, 0.0], [0.0, 1.0, 0.0])
    assert np.array_equal(ENU_TO_DRB @ [0.0, 1.0, 0.0], [0.0, 0.0, -1.0])
    assert np.array_equal(ENU_TO_DRB @ [0.0, 0.0, 1.0], [-1.0, 0.0, 0.0])


def test_camera_looking_straight_down():
    """A nadir camera with north on top: right is East, up is North, it looks along Down."""
    rdf_to_enu = np.array([[[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0]]])
    c2w = colmap_to_c2w(rdf_to_enu, np.array([[10.0, 20.0, 30.0]]), np.array([-30.0, 0, 0]), 10.0)
    right, up, back = c2w[0, :, 0], c2w[0, :, 1], c2w[0, :, 2]
    assert np.allclose(right, [0.0, 1.0, 0.0])
    assert np.allclose(up, [0.0, 0.0, -1.0])
    assert np.allclose(-back, [1.0, 0.0, 0.0])
    assert np.allclose(c2w[0, :, 3], [0.0, 1.0, -2.0])


@given(quaternions, vectors, vectors, st.floats(0.01, 1e4))
def test_poses_return(quaternion, centre, origin, scale):
    """COLMAP -> c2w -> COLMAP is the identity."""
    rotation = rotation_of(quaternion)[None]
    c2w = colmap_to_c2w(rotation, centre[None], origin, scale)
    assert np.linalg.det(c2w[0, :, :3]) == pytest.approx(1.0)
    again, centres = c2w_to_colmap(c2w, origin, scale)
    assert np.allclose(again, rotation, atol=1e-12)
    assert np.allclose(centres, centre, atol=1e-8)


@given(quaternions, vectors)
def test_camera_centres(quaternion, centre):
    """C = -R^T t recovers the centre that t = -R C was made from."""
    rotation = rotation_of(quaternion)
    pose = np.column_stack([rotation, -rotation @ centre])
    assert np.allclose(camera_centres(pose[None])[0], centre, atol=1e-9)


@given(quaternions, st.integers(0, 47), st.integers(0, 35), st.floats(0.1, 50.0))
def test_projection_inverts_rays(quaternion, column, row, distance):
    """A point on the ray of pixel (column, row) projects to that pixel's centre."""
    c2w = np.column_stack([rotation_of(quaternion), [0.3, -0.2, 0.1]]).astype(np.float32)
    camera = Camera(c2w, 40.0, 42.0, 23.0, 18.5, 48, 36)
    origins, directions = camera.rays()
    index = row * 48 + column
    point = origins[index].astype(np.float64) + distance * directions[index]
    pixel, depth = project(point, c2w, np.array([40.0, 42.0, 23.0, 18.5]))
    assert np.allclose(pixel, [column + 0.5, row + 0.5], atol=2e-3)
    assert depth > 0


def test_points_behind_have_no_positive_depth():
    """A point behind the camera is told by its depth."""
    c2w = np.column_stack([np.eye(3), np.zeros(3)])
    _, depths = project(np.array([[0, 0, 1.0], [0, 0, -1.0]]), c2w, np.array([1.0, 1, 0, 0]))
    assert depths.tolist() == [-1.0, 1.0]
