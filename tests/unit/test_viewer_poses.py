"""Poses between the page and the scene, the first view, and refusal of impossible views."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from viser import transforms

from nerfcore.data.records import SceneFrame
from nerfcore.geometry.aiming import looking_at
from nerfcore.geometry.camera import Camera
from nerfcore.geometry.frames import project
from nerfcore.viewer.poses import (
    BadViewError,
    PagePose,
    camera_from_page,
    ground_height,
    ground_target,
    overview_camera,
    page_from_camera,
    page_from_world,
    world_from_page,
)

places = st.tuples(*[st.floats(-50.0, 50.0)] * 3)
angles = st.tuples(*[st.floats(-math.pi, math.pi)] * 3)
sizes = st.tuples(st.integers(100, 2000), st.integers(100, 2000))
fovs = st.floats(math.radians(5), math.radians(120))


def page_pose(position=(0.0, 0.0, 1.0), rpy=(0.0, 0.0, 0.0), fov=0.9, size=(640, 480)) -> PagePose:
    wxyz = transforms.SO3.from_rpy_radians(*rpy).wxyz
    return PagePose(np.asarray(wxyz, np.float64), np.asarray(position, float), fov, *size)


def make_frame(origin_down_m=-80.0, scale_m=100.0, ground_up_m=10.0) -> SceneFrame:
    return SceneFrame(scale_m, np.array([origin_down_m, 5.0, 7.0]), None, (ground_up_m, 90.0))


def middle_ray(camera: Camera) -> np.ndarray:
    return -camera.c2w[:, 2].astype(float)


class TestPageFrame:
    def test_up_east_and_north_are_the_page_axes(self):
        """World axes are Down, East, South: one step each way, worked by hand."""
        assert page_from_world([[-1, 0, 0], [0, 1, 0], [0, 0, -1]]).tolist() == [
            [0, 0, 1],
            [1, 0, 0],
            [0, 1, 0],
        ]

    @given(places)
    def test_points_round_trip(self, place):
        np.testing.assert_allclose(world_from_page(page_from_world(place)), place, atol=1e-12)


class TestCameraFromPage:
    def test_a_page_camera_looking_north_looks_to_minus_south(self):
        """OpenCV axes in the page: right = East, down = -Up, forward = North."""
        rotation = np.column_stack([[1, 0, 0], [0, 0, -1], [0, 1, 0]]).astype(float)
        wxyz = np.asarray(transforms.SO3.from_matrix(rotation).wxyz, np.float64)
        pose = PagePose(wxyz, np.array([1.0, 2.0, 3.0]), 0.9, 64, 48)
        camera = camera_from_page(pose, 1024)
        np.testing.assert_allclose(middle_ray(camera), [0, 0, -1], atol=1e-6)
        np.testing.assert_allclose(camera.c2w[:, 0], [0, 1, 0], atol=1e-6)
        np.testing.assert_allclose(camera.c2w[:, 1], [-1, 0, 0], atol=1e-6)
        np.testing.assert_allclose(camera.c2w[:, 3], [-3, 1, -2], atol=1e-6)

    @given(places, angles, fovs, sizes)
    def test_round_trip(self, position, rpy, fov, size):
        pose = page_pose(position, rpy, fov, size)
        back = page_from_camera(camera_from_page(pose, 4096))
        np.testing.assert_allclose(back.position, pose.position, atol=1e-4)
        assert abs(abs(float(back.wxyz @ pose.wxyz)) - 1.0) < 1e-5
        assert math.isclose(back.fov_rad, fov, rel_tol=1e-9)
        assert (back.width_px, back.height_px) == size

    @given(places, angles, fovs, sizes)
    def test_the_rotation_is_proper_and_our_axes_are_the_flipped_page_axes(
        self, position, rpy, fov, size
    ):
        camera = camera_from_page(page_pose(position, rpy, fov, size), 4096)
        rotation = camera.c2w[:, :3].astype(float)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)
        assert np.linalg.det(rotation) > 0.99

    @given(angles, fovs, sizes, st.tuples(st.floats(-0.9, 0.9), st.floats(-0.9, 0.9)))
    def test_a_point_projects_where_opencv_says(self, rpy, fov, size, spot):
        """Slow reference: a point at a given place of the page's picture lands there in ours."""
        pose = page_pose((1.0, 2.0, 3.0), rpy, fov, size)
        rotation = transforms.SO3(pose.wxyz).as_matrix()
        half_height = math.tan(fov / 2)
        half_width = half_height * size[0] / size[1]
        seen = np.array([spot[0] * half_width, spot[1] * half_height, 1.0])
        point = world_from_page(pose.position + 5.0 * rotation @ seen)
        camera = camera_from_page(pose, 256)
        intrinsics = np.array([camera.fx, camera.fy, camera.cx, camera.cy])
        pixels, depths = project(point[None], camera.c2w, intrinsics)
        expected = [
            (0.5 + 0.5 * spot[0]) * camera.width_px,
            (0.5 + 0.5 * spot[1]) * camera.height_px,
        ]
        np.testing.assert_allclose(pixels[0], expected, atol=0.02)
        assert depths[0] == pytest.approx(5.0, abs=1e-3)

    def test_a_large_canvas_is_rendered_smaller_at_its_aspect(self):
        camera = camera_from_page(page_pose(size=(3000, 1500)), 1024)
        assert (camera.width_px, camera.height_px) == (1024, 512)


class TestBadViews:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"position": np.array([np.nan, 0, 0])}, "not finite"),
            ({"wxyz": np.array([np.inf, 0, 0, 0])}, "not finite"),
            ({"fov_rad": math.nan}, "not finite"),
            ({"wxyz": np.zeros(4)}, "no unit quaternion"),
            ({"wxyz": np.zeros(3)}, "not finite|no unit"),
            ({"position": np.array([1e9, 0, 0])}, "farther than"),
            ({"fov_rad": 0.0}, "field of view 0 degrees"),
            ({"fov_rad": 3.1}, "field of view 178 degrees"),
            ({"width_px": 0}, "0 x 480 px"),
            ({"height_px": -5}, "640 x -5 px"),
            ({"width_px": 10**7}, "allowed 1 to 16384"),
            ({"width_px": 10_000, "height_px": 10}, "too narrow"),
        ],
    )
    def test_are_refused_by_name(self, change, reason):
        good = page_pose()
        values = {
            name: getattr(good, name)
            for name in ("wxyz", "position", "fov_rad", "width_px", "height_px")
        }
        with pytest.raises(BadViewError, match=reason):
            camera_from_page(PagePose(**{**values, **change}), 1024)


class TestFirstView:
    def test_ground_height_by_hand(self):
        """Origin 80 m up, ground 10 m up, 100 m a unit: the ground lies 0.7 below the origin."""
        assert ground_height(make_frame()) == pytest.approx(0.7)

    def test_it_looks_at_the_middle_of_the_cameras_on_the_ground_from_the_south(self):
        c2w = np.tile(np.eye(4)[:3], (5, 1, 1)).astype(np.float32)
        c2w[:, :, 3] = [[0, 1, 2], [0, 2, 2], [0, 3, 2], [0, 2, 1], [0, 2, 3]]
        camera = overview_camera(make_frame(), c2w)
        target = ground_target(camera, make_frame())
        np.testing.assert_allclose(target, [0.7, 2.0, 2.0], atol=1e-5)
        assert camera.c2w[0, 3] < 0.7, "above the ground"
        assert camera.c2w[2, 3] > 2.0, "south of the middle"
        assert middle_ray(camera)[0] == pytest.approx(math.sqrt(0.5), abs=1e-6)

    def test_without_cameras_it_looks_at_the_ground_below_the_origin(self):
        camera = overview_camera(make_frame(), None)
        np.testing.assert_allclose(ground_target(camera, make_frame()), [0.7, 0, 0], atol=1e-6)

    def test_a_level_view_targets_one_unit_ahead(self):
        camera = looking_at([0, 0, 0], [0, 0, -1], 64, 48, 0.9)
        np.testing.assert_allclose(ground_target(camera, make_frame()), [0, 0, -1], atol=1e-6)

    @given(places, places)
    def test_looking_at_keeps_the_horizon_level(self, eye, target):
        if np.linalg.norm(np.subtract(eye, target)) < 1e-2:
            return
        camera = looking_at(eye, target, 64, 48, 0.9)
        assert abs(float(camera.c2w[0, 0])) < 1e-5, "right is horizontal"
        assert float(camera.c2w[0, 1]) <= 1e-5, "up is not down"
        assert np.linalg.det(camera.c2w[:, :3].astype(float)) == pytest.approx(1.0, abs=1e-4)

    def test_straight_down_has_north_at_the_top(self):
        camera = looking_at([0, 0, 0], [1, 0, 0], 64, 48, 0.9)
        np.testing.assert_allclose(camera.c2w[:, 1], [0, 0, -1], atol=1e-6)
