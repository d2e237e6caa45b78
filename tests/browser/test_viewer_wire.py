"""The viewer's page over its raw websocket: pictures, bad clients, errors, controls. No browser."""

import json
import re
import time

import cv2
import numpy as np
import pytest
from boxes_scene import (
    SCALE_M,
    BoxesScene,
    BoxesVersions,
)
from running_viewer import running_viewer, until
from wire import WireClient, difference
from wire_views import DEPTH_MAX_M, front_view, side_view, truth

from nerfcore.geometry.aiming import looking_at
from nerfcore.viewer.colours import NO_DEPTH_RGB, Show
from nerfcore.viewer.screenshots import read_view

# A picture may be on its way when its client leaves: harmless, and said once by the page library.
pytestmark = pytest.mark.filterwarnings("ignore:Queued a .* on a closed connection")


class TestPictures:
    def test_the_first_is_small_and_quick_and_the_last_is_the_view(self, viewer, client):
        began = time.monotonic()
        client.look(front_view(viewer))
        first = client.picture()
        assert time.monotonic() - began < 2.0
        assert first.shape[1] < 480 and first.shape[0] / first.shape[1] == pytest.approx(2 / 3, 0.1)
        last = client.picture(480)
        assert difference(last, truth(viewer, front_view(viewer))) < 4.0

    def test_the_page_starts_with_the_start_camera(self, viewer, client):
        client.wait_for_control("End viewer")
        client.look(front_view(viewer))
        found: dict[str, list[float]] = {}
        with WireClient(viewer.port) as other:
            until(lambda: self._collect(other, found) >= 4, "the first camera")
        distance = front_view(viewer).c2w[:, 3] - [0.8, 0.0, 0.0]
        np.testing.assert_allclose(found["SetCameraLookAtMessage"], [0, 0, -0.8], atol=1e-5)
        np.testing.assert_allclose(
            found["SetCameraPositionMessage"], [0, -distance[2], -0.8 - distance[0]], atol=1e-5
        )

    @staticmethod
    def _collect(client, found):
        for message in client.messages(5.0):
            if message["type"].startswith("SetCamera"):
                found[message["type"]] = message.get("position") or message.get("look_at")
            found[message["type"]] = found.get(message["type"]) or [0.0]
        return len(found)

    def test_while_moving_pictures_keep_coming_and_the_last_view_wins(self, viewer, client):
        cameras = [
            looking_at([0.0, x, 1.6], [0.8, 0.0, 0.0], 480, 320, 0.9)
            for x in np.linspace(0.0, 1.5, 20)
        ]
        for camera in cameras[:-1]:
            client.look(camera)
            client.picture()
        client.look(cameras[-1])
        client.wait_for_picture(truth(viewer, cameras[-1]))

    def test_two_clients_see_their_own_views(self, viewer, client):
        with WireClient(viewer.port) as other:
            client.look(front_view(viewer))
            other.look(side_view(360, 360))
            mine, theirs = client.picture(480), other.picture(360)
        assert difference(mine, truth(viewer, front_view(viewer))) < 4.0
        assert difference(theirs, truth(viewer, side_view(360, 360))) < 4.0
        assert viewer.scene.most_users == 1, "renders of one scene take turns"

    def test_a_large_canvas_gets_its_aspect_at_the_largest_size(self, viewer, client):
        client.look(front_view(viewer, 1920, 960))
        assert client.picture(480).shape == (240, 480, 3)

    def test_depth_and_opacity(self, viewer, client):
        skyward = looking_at([0.0, 0.0, 1.0], [-0.05, 0.0, 0.0], 480, 320, 1.2)
        client.look(skyward)
        client.picture(480)
        client.wait_for_control("Show")
        client.set_control("Show", "Depth")
        depth = client.picture(480)
        assert difference(depth, truth(viewer, skyward, Show.DEPTH)) < 6.0, "the scale is fixed"
        assert np.abs(depth[5, 240].astype(int) - NO_DEPTH_RGB).max() < 12
        client.set_control("Show", "Opacity")
        opacity = client.picture(480)
        assert difference(opacity, truth(viewer, skyward, Show.OPACITY)) < 3.0
        client.set_control("Show", "RGB")
        client.wait_for_picture(truth(viewer, skyward))


class TestBadClients:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"position": [float("nan"), 0.0, 0.0]}, "View ignored: camera: .*not finite"),
            ({"wxyz": [0.0, 0.0, 0.0, 0.0]}, "View ignored: camera: .*quaternion"),
            ({"image_width": 10**8}, "View ignored: camera: picture of 100000000 x 320 px"),
            ({"image_height": 0}, "View ignored: camera: picture of 480 x 0 px"),
            ({"fov": 3.14159}, "View ignored: camera: field of view"),
        ],
    )
    def test_an_impossible_view_is_said_and_ignored(self, viewer, client, changes, said):
        client.look(front_view(viewer))
        client.picture(480)
        for _ in range(5):
            client.look(front_view(viewer), **changes)
        note = client.wait_for_note("View ignored")
        assert re.match(said, note), note
        client.look(side_view())
        client.wait_for_picture(truth(viewer, side_view()))
        assert len(client.notes) == 1, "said once, not once a message"

    def test_an_impossible_first_view(self, viewer, client):
        client.look(front_view(viewer), position=[float("inf")] * 3)
        client.wait_for_note("not finite")
        client.look(front_view(viewer))
        client.picture(480)

    @pytest.mark.parametrize("junk", [b"", b"\xff\xff\xff", b"\x81\xa4type\xa4None", b"x" * 10**6])
    def test_junk_costs_only_the_one_who_sent_it(self, viewer, client, junk):
        with WireClient(viewer.port) as other:
            other.send_raw(junk)
            client.look(front_view(viewer))
            client.picture(480)

    @pytest.mark.parametrize("changes", [{"fov": "wide"}, {"wxyz": ["a", "b", "c", "d"]}])
    def test_a_view_of_the_wrong_types_costs_only_the_one_who_sent_it(
        self, viewer, client, changes
    ):
        with WireClient(viewer.port) as other:
            other.look(front_view(viewer), **changes)
            client.look(front_view(viewer))
            client.picture(480)

    @pytest.mark.parametrize(
        ("eye", "target", "said"),
        [
            ([0.9, 0.5, 0.5], [0.9, 0.0, 0.0], "10 m below the ground"),
            ([0.0, 0.0, 1.0], [-2.0, 0.0, 0.9], "Nothing of the scene is in view"),
        ],
    )
    def test_a_view_of_nothing_gets_a_hint_with_the_way_back(
        self, viewer, client, eye, target, said
    ):
        client.look(looking_at(eye, target, 480, 320, 0.6))
        assert "Reset view" in client.wait_for_note(said)
        client.look(side_view())
        client.wait_for_picture(truth(viewer, side_view()))

    def test_nobody_can_open_a_tunnel(self, viewer, client, monkeypatch):
        opened = []
        monkeypatch.setattr("viser._viser.ViserTunnel", lambda *_: opened.append(1))
        client.look(front_view(viewer))
        client.send("ShareUrlRequest")
        client.picture(480)
        assert not opened


class TestErrors:
    def test_a_render_error_is_said_and_the_viewer_goes_on(self, viewer, client):
        viewer.scene.fail_next = 1
        client.look(front_view(viewer))
        note = client.wait_for_note("Render failed")
        assert "the boxes fell over" in note
        client.look(side_view())
        client.wait_for_picture(truth(viewer, side_view()))

    def test_screenshot_and_checkpoint_that_cannot_be_written(self, tmp_path):
        scene = BoxesScene()
        versions = BoxesVersions(scene)
        versions.fault = OSError(28, "No space left on device")
        (tmp_path / "screenshots").write_text("a file stands here")
        with running_viewer(tmp_path, scene=scene, versions=versions) as viewer:  # noqa: SIM117
            with WireClient(viewer.port) as client:
                client.look(front_view(viewer))
                client.wait_for_control("Screenshot")
                client.set_control("Screenshot", True)
                client.wait_for_note("Screenshot not saved")
                client.set_control("Save checkpoint", True)
                assert "No space left" in client.wait_for_note("Checkpoint not saved")
                client.look(side_view())
                client.wait_for_picture(truth(viewer, side_view()))


class TestControls:
    def test_the_screenshot_is_the_view_at_full_size(self, viewer, client):
        client.look(front_view(viewer))
        client.wait_for_control("Screenshot")
        client.set_control("Show", "Depth")
        client.picture(480)
        client.set_control("Screenshot", True)
        note = client.wait_for_note("Screenshot saved")
        (path,) = (viewer.folder / "screenshots").iterdir()
        assert path.name in note
        picture = cv2.imread(str(path))
        assert picture is not None
        expected = truth(viewer, front_view(viewer), Show.DEPTH)
        assert difference(picture[..., ::-1], expected) < 0.5
        view = read_view(path)
        assert view is not None and view["show"] == "Depth"
        assert view["depth_max_m"] == DEPTH_MAX_M
        assert view["pose_scale_factor_m"] == SCALE_M
        np.testing.assert_allclose(view["c2w"], front_view(viewer).c2w, atol=1e-5)
        assert json.dumps(view)

    def test_saved_checkpoints_are_told(self, viewer, client):
        client.look(front_view(viewer))
        client.wait_for_control("Save checkpoint")
        client.set_control("Save checkpoint", True)
        assert "checkpoints/adapted0" in client.wait_for_note("Checkpoint saved")
        assert (viewer.folder / "checkpoints" / "adapted0").is_dir()

    def test_without_images_and_checkpoints_the_buttons_are_off(self, tmp_path):
        with (
            running_viewer(tmp_path, adapting=None, versions=None) as viewer,
            WireClient(viewer.port) as client,
        ):
            client.look(front_view(viewer))
            client.wait_for_control("End viewer")
            off = {
                name for name, uuid in client.controls.items() if client.disabled.get(uuid, False)
            }
        assert off == {
            "Start adaptation",
            "Pause",
            "Single step",
            "Stop adaptation",
            "Reset adaptation",
            "Version",
            "Load version",
            "Follow training",
            "Save checkpoint",
        }
