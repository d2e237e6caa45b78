"""The viewer over its raw websocket as it lives: adaptation, followed runs, ends; no browser."""

import socket
import threading
import time

import numpy as np
import pytest
from boxes_scene import (
    CHANGED_RGB,
    BoxesAdapting,
    BoxesScene,
    BoxesVersions,
    boxes_photographs,
    painted,
)
from running_viewer import running_viewer, until
from wire import WireClient
from wire_views import DEPTH_MAX_M, front_view, side_view, tower_colour, truth

from nerfcore.errors import PortInUseError, SettingsError
from nerfcore.viewer import EndReason, ViewEnd, serve, server
from nerfcore.viewer.colours import Show
from nerfcore.viewer.look import Compare
from nerfcore.viewer.site_map import SiteMap

# A picture may be on its way when its client leaves: harmless, and said once by the page library.
pytestmark = pytest.mark.filterwarnings("ignore:Queued a .* on a closed connection")


class TestLiveAdaptation:
    def test_the_picture_follows_and_stops_and_goes_back(self, viewer, client):
        client.look(front_view(viewer))
        assert tower_colour(client.picture(480))[0] > 150
        client.wait_for_control("Start adaptation")
        client.set_control("Start adaptation", True)
        self._until_tower(client, lambda rgb: rgb[2] > 150 > rgb[0])
        client.set_control("Stop adaptation", True)
        start = client.controls["Start adaptation"]
        until(lambda: client.messages(5.0) and not client.disabled[start], "adaptation stopped")
        np.testing.assert_allclose(viewer.scene.tower_rgb, CHANGED_RGB, atol=0.2)
        client.set_control("Reset adaptation", True)
        self._until_tower(client, lambda rgb: rgb[0] > 150 > rgb[2])
        assert viewer.scene.most_users == 1, "steps and renders take turns"

    def test_before_and_now_can_be_switched(self, viewer, client):
        client.look(front_view(viewer))
        client.wait_for_control("Show model")
        client.set_control("Single step", True)
        until(lambda: viewer.scene.tower_rgb[2] > 0.15, "one step")
        client.set_control("Show model", "Before")
        original = painted(BoxesScene().seen_by(front_view(viewer)), Show.RGB, DEPTH_MAX_M)
        client.wait_for_picture(original, tolerance=3.0)
        client.set_control("Show model", "Now")
        client.wait_for_picture(truth(viewer, front_view(viewer)), tolerance=3.0)

    def test_photos_shows_what_adapt_compares_with(self, tmp_path):
        scene = BoxesScene()
        groups = boxes_photographs(tmp_path, scene)
        with (
            running_viewer(tmp_path, scene=scene, photographs=groups) as viewer,
            WireClient(viewer.port) as client,
        ):
            client.look(front_view(viewer))
            for label in ("Show model", "Compare with"):
                client.wait_for_control(label)
            for choice, kind in (("Before", Compare.BEFORE), ("Now", Compare.OFF)):
                client.set_control("Show model", choice)
                deadline = time.monotonic() + 10.0
                while client.value("Compare with") != kind.value:
                    client.messages(max(0.0, deadline - time.monotonic()))

    def test_a_run_that_is_followed_shows_its_new_checkpoints(self, tmp_path):
        scene = BoxesScene()
        versions = BoxesVersions(scene)
        with (
            running_viewer(tmp_path, scene=scene, versions=versions, is_following=True) as viewer,
            WireClient(viewer.port) as client,
        ):
            client.look(front_view(viewer))
            client.picture(480)
            versions.fault = FileNotFoundError("step200: pruned")
            versions.latest = "step200"
            assert "pruned" in client.wait_for_note("Training not followed")
            client.wait_for_note("Another version is shown")
            self._until_tower(client, lambda rgb: rgb[1] > 120 > rgb[0])
            assert sum("Training not followed" in note for note in client.notes) == 1

    def test_the_map_is_drawn_anew_when_a_run_has_ended(self, viewer, client, monkeypatch):
        drawn = []
        draw = SiteMap._draw_once
        monkeypatch.setattr(
            SiteMap, "_draw_once",
            lambda site_map: (drawn.append(viewer.scene.tower_rgb[2]), draw(site_map)),
        )  # fmt: skip
        client.look(front_view(viewer))
        client.wait_for_control("Single step")
        until(lambda: drawn, "the first map")
        client.set_control("Single step", True)
        until(lambda: drawn[-1] > 0.15, "a map of the adapted model")
        client.set_control("Reset adaptation", True)
        until(lambda: drawn[-1] < 0.15, "a map of the model as it was")

    def test_a_run_without_an_end_stops_when_everybody_has_left(self, viewer, monkeypatch):
        monkeypatch.setattr(server, "ABSENCE_S", 0.3)
        with WireClient(viewer.port) as client:
            client.look(front_view(viewer))
            client.picture()
            client.wait_for_control("Start adaptation")
            client.set_control("Start adaptation", True)
            until(self._adapts, "the run goes on")
            time.sleep(2 * server.ABSENCE_S)
            assert self._adapts(), "somebody is looking"
        until(lambda: not self._adapts(), "the run stopped")
        assert not viewer.end, "the viewer itself waits for others"

    @staticmethod
    def _adapts():
        return any(thread.name == "live-adaptation" for thread in threading.enumerate())

    def test_a_diverged_model_is_not_saved(self, tmp_path):
        """Given a run that Save finds diverged, the page says so and no version is written."""
        scene = BoxesScene()
        versions = BoxesVersions(scene)
        adapting = BoxesAdapting(scene, flat_at=4)
        with (
            running_viewer(tmp_path, scene=scene, adapting=adapting, versions=versions) as viewer,
            WireClient(viewer.port) as client,
        ):
            client.look(front_view(viewer))
            client.wait_for_control("Save checkpoint")
            client.set_control("Steps", 3)
            client.set_control("Start adaptation", True)
            until(lambda: abs(scene.tower_rgb[2] - (0.9 - 0.8 * 0.9**3)) < 1e-9, "three steps")
            start = client.controls["Start adaptation"]
            until(lambda: client.messages(5.0) and not client.disabled[start], "the run ended")
            adapting.last.flat_at = 3
            client.set_control("Save checkpoint", True)
            assert "all of one flat colour" in client.wait_for_note("Checkpoint not saved")
            assert not versions.saved
            client.wait_for_picture(truth(viewer, front_view(viewer)))
            np.testing.assert_array_equal(scene.tower_rgb, BoxesScene().tower_rgb)
            client.set_control("Single step", True)
            until(lambda: abs(scene.tower_rgb[2] - 0.18) < 1e-9, "one step")
            until(lambda: client.messages(5.0) and not client.disabled[start], "the run ended")
            client.set_control("Save checkpoint", True)
            client.wait_for_note("Checkpoint saved")
            assert versions.saved_batches == ["batch_0001"]

    def test_a_single_step(self, viewer, client):
        client.look(front_view(viewer))
        client.wait_for_control("Single step")
        client.set_control("Single step", True)
        until(lambda: abs(viewer.scene.tower_rgb[2] - 0.18) < 1e-9, "one step")

    @pytest.mark.parametrize(
        ("broken", "reason"),
        [({"diverge_at": 3}, "diverged"), ({"raise_at": 3}, "out of memory")],
    )
    def test_a_broken_adaptation_is_said_and_the_shown_model_kept(self, tmp_path, broken, reason):
        scene = BoxesScene()
        with (
            running_viewer(
                tmp_path, scene=scene, adapting=BoxesAdapting(scene, **broken)
            ) as viewer,
            WireClient(viewer.port) as client,
        ):
            before = truth(viewer, front_view(viewer))
            client.look(front_view(viewer))
            client.picture(480)
            client.wait_for_control("Start adaptation")
            client.set_control("Start adaptation", True)
            assert reason in client.wait_for_note("Adaptation ended")
            client.look(side_view())
            client.picture(480)
            client.look(front_view(viewer))
            client.wait_for_picture(before)

    @staticmethod
    def _until_tower(client, is_wanted):
        until(lambda: is_wanted(tower_colour(client.picture())), "the tower changed colour")


class TestEnds:
    def test_by_the_button(self, viewer, client):
        client.look(front_view(viewer))
        client.wait_for_control("End viewer")
        client.set_control("End viewer", True)
        client.wait_for_note("Viewer ended")
        assert viewer.wait_for_end() == ViewEnd(EndReason.BUTTON)

    def test_when_asked(self, viewer, client):
        client.look(front_view(viewer))
        client.picture()
        viewer.stop_asked.set()
        assert viewer.wait_for_end() == ViewEnd(EndReason.STOPPED)

    def test_when_nobody_looks_for_long_but_not_while_somebody_does(self, tmp_path):
        with running_viewer(tmp_path, idle_timeout_s=1.0) as viewer:
            with WireClient(viewer.port) as client:
                client.look(front_view(viewer))
                client.picture()
                time.sleep(1.5)
                assert not viewer.end
            assert viewer.wait_for_end() == ViewEnd(EndReason.IDLE)

    def test_no_thread_and_no_port_is_left(self, tmp_path):
        before = set(threading.enumerate())
        with running_viewer(tmp_path) as viewer:
            port = viewer.port
            for _ in range(3):
                with WireClient(viewer.port) as client:
                    client.look(front_view(viewer))
                    client.picture()
                    client.wait_for_control("Start adaptation")
                    client.set_control("Start adaptation", True)
        until(lambda: set(threading.enumerate()) <= before, "threads ended")
        with socket.create_server(("127.0.0.1", port)):
            pass

    def test_views_of_gone_clients_are_forgotten(self, viewer):
        for _ in range(3):
            with WireClient(viewer.port) as client:
                client.look(front_view(viewer))
                client.picture()
        until(
            lambda: not [t for t in threading.enumerate() if t.name.startswith("view-")],
            "the views' threads ended",
        )

    def test_a_failing_listener_closes_the_page(self, tmp_path):
        def fail(url):
            raise BrokenPipeError(url)

        with pytest.raises(BrokenPipeError) as caught:
            self._serve(tmp_path, on_ready=fail)
        port = int(str(caught.value).rpartition(":")[2])
        with socket.create_server(("127.0.0.1", port)):
            pass

    def test_a_taken_port_is_an_error_and_never_another_port(self, viewer, tmp_path):
        with pytest.raises(PortInUseError, match=f"viewer_port {viewer.port}: .*choose another"):
            self._serve(tmp_path, port=viewer.port)
        assert not viewer.end, "the first viewer goes on"

    def test_an_idle_time_of_nothing_is_refused(self, tmp_path):
        with pytest.raises(SettingsError, match="viewer_timeout 0: must be more than 0 s"):
            self._serve(tmp_path, idle_timeout_s=0)

    @staticmethod
    def _serve(folder, **options):
        settings = {
            "host": "127.0.0.1",
            "port": 0,
            "idle_timeout_s": 60.0,
            "folder": folder,
            "start_camera": None,
            "should_stop": lambda: True,
            "on_ready": lambda url: None,
        }
        return serve(BoxesScene(), **{**settings, **options})
