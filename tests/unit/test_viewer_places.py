"""Places as texts, picking and distances, the map, photographs on renders, hints, options."""

from collections.abc import Callable

import numpy as np
import pytest
from boxes_scene import BoxesScene, boxes_photographs, make_frame
from hypothesis import given
from hypothesis import strategies as st

from nerfcore.data.records import SceneFrame
from nerfcore.errors import DataError
from nerfcore.geometry.aiming import camera_towards, looking_at
from nerfcore.geometry.camera import Camera, Rendered
from nerfcore.viewer.change import ChangeMap, best_photographs
from nerfcore.viewer.colours import to_bytes
from nerfcore.viewer.hints import hidden_hint, hint_of, limits_of
from nerfcore.viewer.look import Compare, Look
from nerfcore.viewer.options import RenderOptions
from nerfcore.viewer.photographs import PhotoShelf, blend, drape, surface_points, wipe
from nerfcore.viewer.picking import Distance, find_point, patch_camera
from nerfcore.viewer.places import BadPlaceError, heading_of, parse_place, place_record, place_text

FRAME = make_frame()
LOCAL = SceneFrame(100.0, np.array([-80.0, 0.0, 0.0]), None, (0.0, 80.0))
SCALE_M = FRAME.pose_scale_factor_m


def world(east: float, north: float, up: float) -> np.ndarray:
    return FRAME.enu_m_to_world([east, north, up])


class TestTexts:
    def test_a_point_is_written_in_degrees_or_metres(self):
        assert place_text(world(0, 0, 0), FRAME) == "47.000000° N, 8.000000° E, 400.0 m"
        assert place_text(LOCAL.enu_m_to_world([1, -2, 3]), LOCAL) == (
            "1.0 m E, -2.0 m N, 3.0 m up"
        )
        assert set(place_record(world(0, 0, 0), FRAME)) == {"enu_m", "geo"}
        assert set(place_record(world(0, 0, 0), LOCAL)) == {"enu_m"}

    @given(st.floats(-500, 500), st.floats(-500, 500), st.floats(-20, 200))
    def test_what_is_written_can_be_read(self, east, north, up):
        text = place_text(world(east, north, up), FRAME)
        found = FRAME.world_to_enu_m(parse_place(text, FRAME, 0.0))
        np.testing.assert_allclose(found, [east, north, up], atol=0.2)

    @pytest.mark.parametrize(
        "text",
        [
            "47.0009, 8.0013", "47.0009 8.0013", "47.0009° N, 8.0013° E", "N47.0009, 8.0013E",
            "47°0'3.24\"N 8°0'4.68\"E", "47° 0' 3.24\" N, 8° 0' 4.68\" E", "47.0009;8.0013;400",
        ],
    )  # fmt: skip
    def test_the_ways_people_write_a_place(self, text):
        if text.startswith("N"):
            with pytest.raises(BadPlaceError):
                parse_place(text, FRAME, 0.0)
            return
        east, north, up = FRAME.world_to_enu_m(parse_place(text, FRAME, 0.0))
        assert (north, east) == (pytest.approx(100.0, abs=1.0), pytest.approx(98.9, abs=1.0))
        assert up == pytest.approx(0.0, abs=0.1)

    @pytest.mark.parametrize("text", ["", "here", "47", "1,2,3,4", "47,x", "nan, 8", "1e9, 8"])
    def test_what_is_no_place_is_said(self, text):
        with pytest.raises(BadPlaceError, match=r"is no place; write 47\.12345"):
            parse_place(text, FRAME, 0.0)

    def test_a_latitude_beyond_the_pole(self):
        with pytest.raises(BadPlaceError, match="latitude -90 to 90"):
            parse_place("95, 8", FRAME, 0.0)

    def test_metres_where_the_scene_has_no_place_on_the_earth(self):
        found = LOCAL.world_to_enu_m(parse_place("12.5, -40", LOCAL, 7.0))
        np.testing.assert_allclose(found, [12.5, -40.0, 7.0], atol=1e-9)

    @given(st.floats(0, 359.9), st.floats(-85, 85))
    def test_a_heading_is_the_one_the_camera_was_made_with(self, heading, pitch):
        camera = camera_towards(world(0, 0, 50), heading, pitch, 0.0, 64, 48, 0.9)
        found = heading_of(camera, FRAME)
        assert (found.heading_deg - heading + 180) % 360 - 180 == pytest.approx(0.0, abs=0.01)
        assert found.pitch_deg == pytest.approx(pitch, abs=0.01)


def bounded(scene: BoxesScene, patch: Camera) -> Callable[[float | None], Rendered | None]:
    return lambda reach_m: scene.render(patch, options=RenderOptions(far_m=reach_m))


def layers(
    patch: Camera, depths_m: list[float], opacities: list[float]
) -> Callable[[float | None], Rendered]:
    """A patch whose rays meet layers that each hide a share of the picture."""
    depths, shares = np.array(depths_m), np.array(opacities)

    def render(reach_m: float | None) -> Rendered:
        met = depths <= (np.inf if reach_m is None else reach_m)
        opacity = float(shares[met].sum())
        depth_m = (depths * shares)[met].sum() / opacity if opacity >= 0.5 else np.nan
        size = (patch.height_px, patch.width_px)
        return Rendered(
            np.zeros((*size, 3), np.float32), np.full(size, depth_m, np.float32),
            np.full(size, opacity, np.float32),
        )  # fmt: skip

    return render


class TestPicking:
    def test_the_middle_of_the_tower_s_roof_is_found(self):
        scene = BoxesScene()
        camera = looking_at(world(0, -60, 120), world(0, 0, 45), 320, 240, 0.8)
        patch = patch_camera(camera, 0.5, 0.5)
        point = find_point(patch, bounded(scene, patch), SCALE_M)
        assert point is not None
        np.testing.assert_allclose(FRAME.world_to_enu_m(point), [0, 0, 45], atol=0.3)

    def test_the_sky_is_no_point(self):
        camera = camera_towards(world(0, 0, 50), 0.0, 60.0, 0.0, 64, 48, 0.5)
        patch = patch_camera(camera, 0.2, 0.2)
        assert find_point(patch, bounded(BoxesScene(), patch), SCALE_M) is None

    def test_haze_and_what_is_behind_an_edge_do_not_move_a_point(self):
        """Hazes and edges whose mean depth is another, median 100 m."""
        camera = looking_at(world(0, 0, 100), world(0, 0, 0), 64, 48, 0.8)
        patch = patch_camera(camera, 0.5, 0.5)
        for depths_m, shares in (
            ([10.0, 100.0, 300.0], [0.2, 0.7, 0.1]),
            ([100.0, 900.0], [0.55, 0.45]),
            ([100.0], [0.6]),
        ):
            point = find_point(patch, layers(patch, depths_m, shares), SCALE_M)
            assert point is not None
            reach_m = np.linalg.norm(point - camera.c2w[:, 3]) * SCALE_M
            assert reach_m == pytest.approx(100.0, rel=0.005)

    def test_a_view_that_ends_meanwhile_gives_no_point(self):
        patch = patch_camera(looking_at(world(0, 0, 100), world(0, 0, 0), 64, 48, 0.8), 0.5, 0.5)
        whole = layers(patch, [100.0], [1.0])
        assert find_point(patch, lambda reach: whole(reach) if reach is None else None, 1.0) is None

    def test_a_distance_by_hand(self):
        """3 m east, 4 m north, 12 m up: 5 m level, 13 m straight."""
        distance = Distance.between(world(1, 1, 1), world(4, 5, 13), FRAME)
        assert str(distance) == "13.0 m (5.0 m level, 12.0 m up)"


@pytest.fixture
def shelf(tmp_path) -> PhotoShelf:
    return PhotoShelf(boxes_photographs(tmp_path, BoxesScene()))


class TestPhotographs:
    def test_from_its_own_place_a_photograph_lies_on_the_render(self, shelf):
        scene, group = BoxesScene(), shelf.groups[0]
        camera = group.camera(1)
        rendered = scene.seen_by(camera)
        points = surface_points(camera, rendered, SCALE_M)
        drawn, is_there = drape(shelf.photograph(group, 1), points)
        assert is_there.mean() > 0.97
        difference = np.abs(drawn.astype(int) - to_bytes(rendered.rgb)).mean(axis=2)[is_there]
        assert difference.mean() < 2.0

    def test_behind_the_camera_is_not_in_the_photograph(self, shelf):
        group = shelf.groups[0]
        eye = group.camera(0).c2w[:, 3]
        behind = eye + group.camera(0).c2w[:, 2]
        _, is_there = drape(shelf.photograph(group, 0), behind.reshape(1, 1, 3))
        assert not is_there.any()

    def test_wipe_and_blend(self):
        ours, theirs = np.zeros((4, 10, 3), np.uint8), np.full((4, 10, 3), 200, np.uint8)
        is_there = np.ones((4, 10), np.bool_)
        is_there[0] = False
        wiped = wipe(ours, theirs, is_there, 0.5)
        assert wiped[1, 0, 0] == 200 and wiped[1, 9, 0] == 0 and wiped[0, 0, 0] == 0
        assert wiped[1, 5, 0] == 255, "the line is drawn"
        assert blend(ours, theirs, is_there, 0.25)[1:, :, 0].max() == 50

    def test_a_vanished_file_is_named_and_the_next_is_shown(self, shelf):
        shelf.groups[0].images.paths[0].unlink()
        with pytest.raises(DataError, match=r"first flight-0\.png"):
            shelf.photograph(shelf.groups[0], 0)
        assert shelf.photograph(shelf.groups[0], 1).pixels.shape == (120, 160, 3)

    def test_the_newest_flight_is_the_first_later_one(self, shelf):
        assert shelf.newest is shelf.groups[1]
        assert PhotoShelf(shelf.groups[:1]).newest is shelf.groups[0]
        assert PhotoShelf([]).newest is None


class TestChange:
    def compare(self, shelf, group, camera=None):
        scene = BoxesScene()
        camera = camera or looking_at(world(5, -100, 80), world(0, 0, 10), 160, 120, 0.8)
        changes = ChangeMap(shelf, SCALE_M, lambda c: scene.seen_by(c).depth_m)
        rendered = scene.seen_by(camera)
        return rendered, changes.compare(camera, rendered, group, 0, may_render=True)

    def test_the_changed_tower_is_found_and_the_ground_is_not(self, shelf):
        rendered, change = self.compare(shelf, shelf.groups[1])
        is_tower = (rendered.rgb[..., 0] > 0.35) & (rendered.rgb[..., 1] < 0.2)
        is_known = np.isfinite(change)
        assert is_known[is_tower].mean() > 0.5
        assert np.nanmedian(change[is_tower]) > 0.25
        assert np.nanmedian(change[~is_tower]) < 0.05

    def test_against_its_own_photographs_nothing_has_changed(self, shelf):
        _, change = self.compare(shelf, shelf.groups[0])
        assert np.nanquantile(change, 0.9) < 0.1

    def test_what_the_tower_hides_from_the_photographs_is_unknown(self, shelf):
        """The ground right behind the tower is seen from above, and from no photograph."""
        camera = looking_at(world(0, 25, 150), world(0, 25, 0), 64, 64, 0.4)
        rendered, change = self.compare(shelf, shelf.groups[0], camera)
        assert np.isfinite(rendered.depth_m).all()
        middle = change[24:40, 24:40]
        assert np.isnan(middle).mean() > 0.5

    def test_the_sky_has_no_photograph(self, shelf):
        points = np.full((8, 8, 3), np.nan)
        assert best_photographs(shelf.groups[0].camera(0), points, shelf.groups[0]) == []

    def test_the_best_photograph_of_its_own_view_is_itself(self, shelf):
        camera = shelf.groups[0].camera(2)
        points = surface_points(camera, BoxesScene().seen_by(camera), SCALE_M)
        assert best_photographs(camera, points, shelf.groups[0])[0] == 2


class TestHints:
    def hint(self, eye, target) -> str | None:
        camera = looking_at(world(*eye), world(*target), 64, 48, 0.9)
        return hint_of(camera, BoxesScene().seen_by(camera), FRAME)

    def test_a_good_view_has_none(self):
        assert self.hint((0, -100, 80), (0, 0, 0)) is None

    def test_the_sky_and_below_the_ground(self):
        assert "Nothing of the scene" in str(self.hint((0, 0, 80), (0, 10, 200)))
        assert "12 m below the ground" in str(self.hint((0, 0, -12), (0, 50, -12)))

    def test_controls_that_hide_the_scene_are_named(self):
        assert limits_of(RenderOptions()) == [] and limits_of(RenderOptions(max_samples=8)) == []
        box = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        limits = limits_of(RenderOptions(near_m=2.0, far_m=5.5, crop_enu_m=box, expert=3))
        assert limits == ["Near (m) 2", "Far (m) 5.5", "Crop box", "Expert 3"]
        assert "hidden by Far (m) 5.5 and Crop box: change it under View" in hidden_hint(
            limits[1:3]
        )


class TestLook:
    def test_moving_pictures_take_fewer_samples_but_never_more(self):
        full = looking_at(world(0, -100, 80), world(0, 0, 0), 64, 48, 0.9)
        small = full.scaled_to(16)
        look = Look(moving_samples=24)
        assert look.options_for(small, full).max_samples == 24
        assert look.options_for(full, full).max_samples is None
        few = Look(moving_samples=24, options=look.options_for(small, full))
        assert few.options_for(small, full).max_samples == 24

    def test_colours_need_no_render_and_bounds_do(self):
        plain = Look()
        assert not plain.needs_render(Look(gamma=2.0, compare=Compare.WIPE))
        assert plain.needs_render(Look(moving_samples=8))
        assert plain.needs_render(Look(compare=Compare.BEFORE))
        assert not Look(compare=Compare.BEFORE).needs_render(plain)
