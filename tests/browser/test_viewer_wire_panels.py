"""The page's panels over the wire: turning about a point, the crop box, one's own photograph."""

import time
from typing import Any

import numpy as np
import pytest
from boxes_scene import BoxesScene, boxes_photographs
from running_viewer import running_viewer
from wire import WireClient
from wire_views import front_view, truth

from nerfcore.geometry.aiming import looking_at
from nerfcore.viewer.poses import world_from_page

pytestmark = pytest.mark.filterwarnings("ignore:Queued a .* on a closed connection")
LED_S = 20.0


def flight(client: WireClient) -> tuple[np.ndarray, np.ndarray]:
    """Wait until the page is led elsewhere; eye and target, world."""
    found: dict[str, Any] = {}
    deadline = time.monotonic() + LED_S
    while len(found) < 2:
        for message in client.messages(max(0.0, deadline - time.monotonic())):
            if message["type"] == "SetCameraPositionMessage":
                found["eye"] = world_from_page(message["position"])
            elif message["type"] == "SetCameraLookAtMessage":
                found["target"] = world_from_page(message["look_at"])
    return found["eye"], found["target"]


def test_turning_round_the_compass_comes_back_to_where_it_began(viewer, client):
    """The tower, before the point when seen from the north, must not draw the view nearer."""
    place, eye = viewer.scene.frame.enu_m_to_world([(0.0, -30.0, 0.0), (0.0, -120.0, 80.0)])
    start = looking_at(eye, place, 480, 320, 0.9)
    client.look(start)
    client.wait_for_picture(truth(viewer, start))
    client.wait_for_control("Look")
    flights = []
    for where in ("North", "East", "South", "West", "Down", "North"):
        client.set_control("Look", where)
        flights.append(flight(client))
        client.look(looking_at(*flights[-1], 480, 320, 0.9))
        client.picture(480)
    eyes, targets = (np.array(parts) for parts in zip(*flights, strict=True))
    distances = np.linalg.norm(eyes - targets, axis=1)
    np.testing.assert_allclose(targets, np.broadcast_to(targets[0], targets.shape), atol=1e-6)
    np.testing.assert_allclose(distances, distances[0], rtol=1e-6)
    np.testing.assert_allclose(eyes[-1], eyes[0], atol=1e-6)
    np.testing.assert_allclose(targets[0], place, atol=0.02)
    aside = np.array([0.0, 0.3, 0.0])
    client.look(looking_at(eyes[0], targets[0] + aside, 480, 320, 0.9))
    client.picture(480)
    client.set_control("Look", "North")
    np.testing.assert_allclose(flight(client)[1], targets[0] + aside, atol=0.02)


def test_the_crop_box_says_its_numbers(viewer, client):
    client.look(front_view(viewer))
    for control in ("Crop box", "Render MP4"):
        client.wait_for_control(control)
    client.set_control("Crop box", True)
    deadline, said = time.monotonic() + LED_S, ""
    while "Up " not in said:
        for message in client.messages(max(0.0, deadline - time.monotonic())):
            said = str(message.get("updates", {}).get("_markdown", said))
    for side in ("East", "North", "Up"):
        assert f"{side} " in said and " m" in said, said


def test_the_camera_one_is_in_is_not_drawn(tmp_path):
    scene = BoxesScene()
    groups = boxes_photographs(tmp_path, scene)
    with (
        running_viewer(tmp_path, scene=scene, photographs=groups) as viewer,
        WireClient(viewer.port) as client,
    ):
        client.look(front_view(viewer))
        for control in ("Jump there", "Show cameras", "Render MP4"):
            client.wait_for_control(control)
        client.set_control("Show cameras", True)
        own = f"/cameras/{groups[0].name}/0"
        drawn = wait_for(client, "CameraFrustumMessage", own)
        assert drawn
        client.send("GuiUpdateMessage", uuid=client.controls["Jump there"],
                    updates={"value": True})  # fmt: skip
        wait_for(client, "SetSceneNodeVisibilityMessage", own, visible=False)
        for is_shown in (False, True):  # and not when they are drawn from inside it
            client.set_control("Show cameras", is_shown)
        wait_for(client, "SetSceneNodeVisibilityMessage", own, visible=False)
        client.look(groups[0].camera(0))
        client.picture()
        client.look(front_view(viewer))  # and from elsewhere it is
        wait_for(client, "SetSceneNodeVisibilityMessage", own, visible=True)


def wait_for(client: WireClient, kind: str, name: str, **said: Any) -> dict[str, Any]:
    """Wait for a message about a thing in the scene, with these fields."""
    deadline = time.monotonic() + LED_S
    while True:
        for message in client.messages(max(0.0, deadline - time.monotonic())):
            about = message["type"] == kind and message["name"] == name
            if about and all(message[field] == value for field, value in said.items()):
                return message
