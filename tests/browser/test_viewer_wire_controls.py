"""The page's controls over the wire: limits by name, what hides the scene, the newest setting."""

import math
import threading
import time

import pytest
from boxes_scene import BoxesScene, boxes_photographs
from running_viewer import running_viewer, until
from wire import WireClient, difference
from wire_views import DEPTH_MAX_M, front_view, truth

from nerfcore.viewer import photographs
from nerfcore.viewer.colours import DepthMap, Show, depth_colours

pytestmark = pytest.mark.filterwarnings("ignore:Queued a .* on a closed connection")


@pytest.mark.parametrize(
    ("control", "value", "said"),
    [
        ("Gamma", 0.0, "Gamma 0.0: must be 0.4 to 2.5"),
        ("Exposure", 1e9, "Exposure 1000000000.0: must be -3 to 3"),
        ("Expert", "99", "Expert '99': must be one of All, 0, 1"),
        ("Samples, still", 10**9, "Samples, still 1000000000: must be 0 to 512"),
        ("Far (m)", -1.0, "Far (m) -1.0: must be 0 to"),
        ("Rays a step", 10**12, None),
    ],
)
def test_a_value_beyond_its_limits_is_refused_by_name(viewer, client, control, value, said):
    client.look(front_view(viewer))
    client.wait_for_control("End viewer")
    client.wait_for_control(control)
    client.set_control(control, value)
    if said is None:
        client.send("GuiUpdateMessage", uuid=client.controls["Start adaptation"],
                    updates={"value": True})  # fmt: skip
        said = "Rays a step 1000000000000: must be 16 to 262144"
    client.wait_for_note(said)


def test_zoom_leads_the_camera_and_follows_it(viewer, client):
    """Given the slider, the page's camera gets its angle; given a camera, the slider gets its."""
    client.look(front_view(viewer))
    client.wait_for_control("Zoom (°)")
    client.set_control("Zoom (°)", 25.0)
    led: list[float] = []

    def is_led() -> bool:
        led.extend(m["fov"] for m in client.messages(5.0) if m["type"] == "SetCameraFovMessage")
        return bool(led)

    until(is_led, "the camera was led")
    assert led == [pytest.approx(math.radians(25.0))]
    client.look(front_view(viewer), fov=math.radians(70.0))
    slider, shown = client.controls["Zoom (°)"], []

    def is_shown() -> bool:
        told = [m for m in client.messages(5.0) if m["type"] == "GuiUpdateMessage"]
        shown.extend(m["updates"].get("value") for m in told if m["uuid"] == slider)
        return 70.0 in shown

    until(is_shown, "the slider shows the camera's angle")


def test_depth_is_shown_in_the_chosen_colours(viewer, client):
    camera = front_view(viewer)
    client.look(camera)
    client.wait_for_control("Depth colours")
    client.set_control("Show", "Depth")
    client.wait_for_picture(truth(viewer, camera, Show.DEPTH))
    client.set_control("Depth colours", "Grey")
    depth_m = viewer.scene.copy().seen_by(camera).depth_m
    client.wait_for_picture(depth_colours(depth_m, DEPTH_MAX_M, DepthMap.GREY))
    client.set_control("Depth colours", "Rainbow")
    client.wait_for_note("Depth colours 'Rainbow': must be one of Turbo, Viridis")


def test_what_hides_the_scene_is_named(viewer, client):
    client.look(front_view(viewer))
    client.wait_for_picture(truth(viewer, front_view(viewer)))
    client.set_control("Far (m)", 1.0)
    client.wait_for_note("hidden by Far (m) 1: change it under View, What is shown")


def test_the_newest_setting_wins_over_a_slow_older_one(tmp_path, monkeypatch):
    """Given a photograph that takes its time, what was set after the comparison is shown."""
    read, is_first, gate = photographs._read, threading.Event(), threading.Event()

    def slow(group, index):
        if not is_first.is_set():
            is_first.set()
            assert gate.wait(10.0)
        return read(group, index)

    monkeypatch.setattr(photographs, "_read", slow)
    scene = BoxesScene()
    groups = boxes_photographs(tmp_path, scene)
    with (
        running_viewer(tmp_path, scene=scene, photographs=groups) as viewer,
        WireClient(viewer.port) as client,
    ):
        expected = truth(viewer, front_view(viewer))
        client.look(front_view(viewer))
        client.wait_for_picture(expected)
        client.set_control("Flight", "batch_0001")
        client.set_control("Compare", 90.0)
        client.set_control("Compare with", "Photograph, blend")
        until(is_first.is_set, "the photograph is read")
        client.set_control("Compare", 0.0)
        client.wait_for_picture(expected)
        gate.set()
        last, deadline = None, time.monotonic() + 1.5
        while time.monotonic() < deadline:
            try:
                last = client.picture(480, deadline - time.monotonic())
            except TimeoutError:
                break
        assert last is None or difference(last, expected) < 4.0


def test_the_end_of_a_film_is_said_in_its_line(viewer, client):
    """A cancelled film says so, and a finished one names its file."""
    client.look(front_view(viewer))
    client.wait_for_control("End viewer")
    for control in ("Use preset", "Render MP4", "Size", "Cancel", "Seconds a key"):
        client.wait_for_control(control)
    press(client, "Use preset")
    wait_for_line(client, "key frames,")
    client.set_control("Size", "320 x 180")
    press(client, "Render MP4")
    wait_for_line(client, "Rendering picture 2")
    press(client, "Cancel")
    wait_for_line(client, "Film cancelled; nothing was kept")
    client.set_control("Seconds a key", 0.1)
    client.set_control("Pictures a second", 4.0)
    press(client, "Render MP4")
    wait_for_line(client, "Film rendered: videos/")


def press(client: WireClient, button: str) -> None:
    client.send("GuiUpdateMessage", uuid=client.controls[button], updates={"value": True})


def wait_for_line(client: WireClient, part: str) -> None:
    """Wait until a line of the page's text holds a part."""
    deadline = time.monotonic() + 20.0
    while True:
        for message in client.messages(max(0.0, deadline - time.monotonic())):
            if part in str(message.get("updates", "")):
                return
