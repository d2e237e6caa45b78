"""Parts of the viewer without a browser: colours, screenshots, address, turns, saving."""

import socket
import threading
import time

import cv2
import numpy as np
import pytest

from nerfcore.data.records import SceneFrame
from nerfcore.errors import NerfcoreError, PortInUseError, SettingsError
from nerfcore.geometry.camera import Camera, Rendered
from nerfcore.geometry.geodesy import GeoPoint
from nerfcore.viewer.address import check_free, page_url
from nerfcore.viewer.colours import (
    EXPERT_RGBS,
    NO_DEPTH_RGB,
    TURBO,
    DepthMap,
    Show,
    change_colours,
    depth_colours,
    expert_colours,
    nice_ceiling,
    opacity_greys,
    tone,
)
from nerfcore.viewer.legends import legend_html
from nerfcore.viewer.limits import one_of, within
from nerfcore.viewer.poses import BadViewError
from nerfcore.viewer.saving import CheckpointSaver
from nerfcore.viewer.screenshots import describe_view, encode_png, read_view, save_screenshot
from nerfcore.viewer.sharing import SharedScene, Turns

DEADLINE_S = 10.0


def make_frame(enu_ref=None) -> SceneFrame:
    return SceneFrame(100.0, np.array([-80.0, 0.0, 0.0]), enu_ref, (0.0, 80.0))


def make_camera() -> Camera:
    return Camera(np.eye(4, dtype=np.float32)[:3], 50.0, 50.0, 2.0, 1.5, 4, 3)


def make_rendered(rgb=0.5, depth_m=10.0, opacity=1.0) -> Rendered:
    return Rendered(
        np.full((3, 4, 3), rgb, np.float32),
        np.full((3, 4), depth_m, np.float32),
        np.full((3, 4), opacity, np.float32),
    )


class TestColours:
    def test_rgb_is_rounded_and_clipped(self):
        assert tone(make_rendered(0.5).rgb, 0.0, 1.0)[0, 0].tolist() == [128, 128, 128]
        assert tone(make_rendered(7.0).rgb, 0.0, 1.0).max() == 255

    def test_a_broken_render_is_black_and_not_noise(self):
        assert tone(make_rendered(np.nan).rgb, 0.0, 1.0).max() == 0
        assert tone(make_rendered(np.nan).rgb, 1.0, 1.0).max() == 0

    def test_exposure_and_gamma(self):
        grey = make_rendered(0.25).rgb
        assert tone(grey, 2.2, 1.0)[0, 0, 0] == 128, "2.2 stops double the display value"
        assert tone(grey, 0.0, 2.0)[0, 0, 0] == 128, "gamma 2 takes the square root"
        assert tone(grey, -2.2, 1.0)[0, 0, 0] == 32

    @pytest.mark.parametrize(("depth_m", "index"), [(0, 0), (100, 128), (200, 255), (900, 255)])
    def test_depth_has_one_fixed_scale(self, depth_m, index):
        picture = depth_colours(make_rendered(depth_m=depth_m).depth_m, 200.0)
        assert picture[0, 0].tolist() == TURBO[index].tolist()

    @pytest.mark.parametrize("colour_map", list(DepthMap))
    def test_depth_colours_and_their_legend_go_together(self, colour_map):
        ends = [
            tuple(depth_colours(make_rendered(depth_m=depth_m).depth_m, 300.0, colour_map)[0, 0])
            for depth_m in (0.0, 300.0)
        ]
        legend = legend_html(Show.DEPTH, 300.0, 4, colour_map)
        for (r, g, b), share in zip(ends, (0, 100), strict=True):
            assert f"rgb({r},{g},{b}) {share}%" in legend
        assert (
            ends[0] != ends[1] and "<span>0 m</span>" in legend and "<span>300 m</span>" in legend
        )

    def test_no_depth_is_grey(self):
        picture = depth_colours(make_rendered(depth_m=np.nan).depth_m, 200.0)
        assert tuple(picture[0, 0].tolist()) == NO_DEPTH_RGB

    def test_experts_have_their_own_colours_and_none_is_grey(self):
        owners = np.array([[0, 0, 1, -1]] * 3)
        picture = expert_colours(make_rendered(1.0), owners)
        assert tuple(picture[0, 3].tolist()) == NO_DEPTH_RGB
        assert picture[0, 0].tolist() == EXPERT_RGBS[0].tolist()
        assert picture[0, 2].tolist() == EXPERT_RGBS[1].tolist()

    def test_change_is_red_sameness_grey_and_the_unseen_dark(self):
        change = np.array([[0.0, 0.6, np.nan, 0.0]] * 3, np.float32)
        same, changed, unseen = change_colours(make_rendered(0.5), change)[0, :3].tolist()
        assert same[0] == same[1] == same[2]
        assert changed[0] > 200 and changed[1] < 100
        assert max(unseen) < same[0]

    def test_turbo_runs_from_dark_blue_to_dark_red_in_rgb_order(self):
        assert TURBO[30, 2] > TURBO[30, 0] and TURBO[230, 0] > TURBO[230, 2]

    def test_opacity_is_grey(self):
        picture = opacity_greys(make_rendered(opacity=0.2).opacity)
        assert picture.shape == (3, 4, 3) and picture[0, 0].tolist() == [51, 51, 51]

    @pytest.mark.parametrize(
        ("value", "expected"), [(1.0, 1.0), (1.2, 1.5), (226.0, 300.0), (0.07, 0.08), (99, 100)]
    )
    def test_nice_ceiling(self, value, expected):
        assert nice_ceiling(value) == pytest.approx(expected)

    def test_the_legend_states_metres(self):
        legend = legend_html(Show.DEPTH, 300.0, 4)
        assert all(f"<span>{mark} m</span>" in legend for mark in ("0", "75", "150", "225", "300"))

    def test_colours_need_no_legend_and_many_experts_say_so(self):
        assert legend_html(Show.RGB, 300.0, 4) == ""
        assert legend_html(Show.EXPERTS, 300.0, 4).count("background:rgb") == 4
        assert "colours repeat" in legend_html(Show.EXPERTS, 300.0, 64)


class TestScreenshots:
    def test_the_file_holds_the_picture_and_its_view(self, tmp_path):
        frame = make_frame(GeoPoint(47.0, 8.0, 400.0))
        picture = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
        view = describe_view(make_camera(), frame, "RGB")
        path = save_screenshot(tmp_path / "screenshots", picture, view)
        assert path.suffix == ".png" and list(path.parent.iterdir()) == [path]
        written = cv2.imread(str(path))
        assert written is not None
        np.testing.assert_array_equal(written[..., ::-1], picture)
        stored = read_view(path)
        assert stored is not None
        assert stored["show"] == "RGB" and stored["world_axes"] == "DRB"
        assert stored["position_enu_m"] == pytest.approx([0.0, 0.0, 80.0])
        assert stored["position_geo"]["lat_deg"] == pytest.approx(47.0)
        assert stored["position_geo"]["alt_m"] == pytest.approx(480.0)
        np.testing.assert_allclose(stored["c2w"], make_camera().c2w)

    def test_a_scene_without_a_place_on_earth_says_null(self):
        assert describe_view(make_camera(), make_frame(), "Depth")["position_geo"] is None

    def test_a_png_without_a_view_says_none(self, tmp_path):
        path = tmp_path / "plain.png"
        cv2.imwrite(str(path), np.zeros((3, 4, 3), np.uint8))
        assert read_view(path) is None

    def test_another_program_reads_the_metadata(self):
        """Pillow, where it is installed, finds the text and accepts the checksums."""
        image = pytest.importorskip("PIL.Image")
        import io

        png = encode_png(np.zeros((3, 4, 3), np.uint8), {"show": "RGB"})
        with image.open(io.BytesIO(png)) as opened:
            opened.load()
            assert opened.text["skyline:view"] == '{"show": "RGB"}'

    def test_a_folder_that_cannot_be_written_leaves_nothing(self, tmp_path):
        blocked = tmp_path / "screenshots"
        blocked.write_text("a file stands where the folder should be")
        with pytest.raises(OSError):
            save_screenshot(blocked, np.zeros((3, 4, 3), np.uint8), {"show": "RGB"})
        assert list(tmp_path.iterdir()) == [blocked]


class TestAddress:
    @pytest.mark.parametrize("listener_host", ["127.0.0.1", "0.0.0.0"])
    @pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
    def test_a_taken_port_is_named_with_the_mend(self, listener_host, host):
        with socket.create_server((listener_host, 0)) as listener:
            port = listener.getsockname()[1]
            with pytest.raises(
                PortInUseError, match=rf"viewer_port {port}: .*{host}:{port}.*choose another"
            ):
                check_free(host, port)

    def test_a_free_port_is_left_free(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        check_free("127.0.0.1", port)
        check_free("127.0.0.1", port)

    @pytest.mark.parametrize(
        ("host", "port", "reason"),
        [
            ("203.0.113.7", 0, "viewer_host '203.0.113.7': no address of this machine"),
            ("no such host", 0, "viewer_host 'no such host': no address found"),
            ("127.0.0.1", 70000, "viewer_port 70000: allowed are 0 to 65535"),
        ],
    )
    def test_an_unusable_address_is_named(self, host, port, reason):
        with pytest.raises(SettingsError, match=reason):
            check_free(host, port)

    def test_urls(self):
        assert page_url("0.0.0.0", 7070) == "http://localhost:7070"
        assert page_url("10.0.0.5", 7071) == "http://10.0.0.5:7071"
        assert page_url("::1", 7070) == "http://[::1]:7070"


class TestTurns:
    def test_first_come_first_served(self):
        """Given a holder who asks again at once, those in line come first."""
        turns = Turns()
        order: list[str] = []
        with turns.turn():
            thread = threading.Thread(target=lambda: self._take(turns, order, "waiting"))
            thread.start()
            self._until(turns.has_waiting)
        self._take(turns, order, "again")
        thread.join(DEADLINE_S)
        assert order == ["waiting", "again"]

    def test_a_long_render_gives_way_between_chunks(self):
        """Given a render of many chunks, a step that waits gets in before its end."""
        turns = Turns()
        finished: list[str] = []
        chunks_done = 0
        stepped_at: list[int] = []

        class SlowScene:
            frame = make_frame()
            experts = None

            def render(self, camera, *, options=None, cancelled=None):
                nonlocal chunks_done
                deadline = time.monotonic() + DEADLINE_S
                while not stepped_at and time.monotonic() < deadline:
                    assert cancelled is not None and not cancelled()
                    chunks_done += 1
                    time.sleep(0.005)
                finished.append("render")
                return make_rendered()

        scene = SharedScene(SlowScene(), turns)
        thread = threading.Thread(target=lambda: scene.render(make_camera(), lambda: False))
        thread.start()
        self._until(lambda: chunks_done > 0)
        with turns.turn():
            stepped_at.append(chunks_done)
            assert not finished
        thread.join(DEADLINE_S)
        assert finished == ["render"] and stepped_at[0] > 1

    def test_time_spent_waiting_is_not_counted_as_rendering(self):
        turns = Turns()
        timed = []

        class ShortScene:
            frame = make_frame()
            experts = None

            def render(self, camera, *, options=None, cancelled=None):
                return make_rendered()

        scene = SharedScene(ShortScene(), turns)
        with turns.turn():
            thread = threading.Thread(
                target=lambda: timed.append(scene.render(make_camera(), lambda: False))
            )
            thread.start()
            self._until(turns.has_waiting)
            time.sleep(0.2)
        thread.join(DEADLINE_S)
        assert timed[0] is not None and timed[0].busy_s < 0.15

    def test_a_view_given_up_while_waiting_is_not_rendered(self):
        class NoScene:
            frame = make_frame()
            experts = None

            def render(self, camera, *, options=None, cancelled=None):
                raise AssertionError("rendered though nobody wants it")

        assert SharedScene(NoScene(), Turns()).render(make_camera(), lambda: True) is None

    @staticmethod
    def _take(turns, order, name):
        with turns.turn():
            order.append(name)

    @staticmethod
    def _until(condition):
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.001)


class TestLimits:
    def test_what_is_within_is_given_back(self):
        assert within("Gamma", 1, 0.4, 2.5) == 1.0
        assert one_of("Expert", "All", ["All", "0"]) == "All"

    @pytest.mark.parametrize("value", [0, -1e9, 2.6, float("nan"), float("inf"), "1", None, [1]])
    def test_a_number_outside_is_refused_by_name(self, value):
        with pytest.raises(BadViewError, match=r"^Gamma .*must be 0.4 to 2.5"):
            within("Gamma", value, 0.4, 2.5)

    @pytest.mark.parametrize("value", ["99", "", None, 0, ["All"]])
    def test_a_choice_that_is_not_offered_is_refused_by_name(self, value):
        with pytest.raises(BadViewError, match=r"^Expert .*must be one of All, 0"):
            one_of("Expert", value, ["All", "0"])


class TestSaving:
    def test_each_checkpoint_gets_a_name_of_its_own(self, tmp_path):
        folder = tmp_path / "checkpoints"
        saver = CheckpointSaver(folder, lambda p: p.mkdir(), Turns(), lambda: 16, lambda: None)
        assert [saver().name for _ in range(3)] == ["adapted16", "adapted16-2", "adapted16-3"]

    def test_what_is_judged_unfit_is_not_saved(self, tmp_path):
        def refuse():
            raise NerfcoreError("it diverged")

        folder = tmp_path / "checkpoints"
        saver = CheckpointSaver(folder, lambda p: p.mkdir(), Turns(), lambda: 16, refuse)
        with pytest.raises(NerfcoreError, match="it diverged"):
            saver()
        assert not folder.exists()

    def test_a_failed_save_frees_the_model(self, tmp_path):
        turns = Turns()

        def fail(_):
            raise OSError(28, "No space left on device")

        saver = CheckpointSaver(tmp_path / "checkpoints", fail, turns, lambda: 0, lambda: None)
        with pytest.raises(OSError, match="No space left") as caught:
            saver()
        assert str(tmp_path / "checkpoints" / "adapted0") in str(caught.value)
        assert "make room" in str(caught.value)
        with turns.turn():
            pass
