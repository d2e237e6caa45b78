"""The remote client against a running viewer, and the door: tokens, big messages."""

import http.client
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from boxes_scene import BoxesScene, make_frame, painted
from running_viewer import running_viewer, until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from wire import SUBPROTOCOL, WireClient, difference

from nerfcore.errors import PortInUseError
from nerfcore.geometry.aiming import camera_towards
from nerfcore.view_client import RemoteView, RemoteViewError
from nerfcore.viewer.address import check_free
from nerfcore.viewer.colours import Show
from nerfcore.viewer.door import MOST_MESSAGE_BYTES

pytestmark = pytest.mark.filterwarnings("ignore:Queued a .* on a closed connection")

TOKEN = "correct-horse-battery"
FRAME = make_frame()
VIEW = {
    "position_enu_m": (0.0, -100.0, 80.0),
    "heading_deg": 0.0,
    "pitch_deg": -35.0,
    "width_px": 320,
    "height_px": 240,
}


@pytest.fixture
def viewer(tmp_path):
    with running_viewer(tmp_path, name="job-7") as running:
        yield running


def truth(show: Show = Show.RGB, width_px: int = 320, height_px: int = 240) -> np.ndarray:
    eye = FRAME.enu_m_to_world(VIEW["position_enu_m"])
    camera = camera_towards(eye, 0.0, -35.0, 0.0, width_px, height_px, np.radians(50.0))
    return painted(BoxesScene().seen_by(camera), show, 300.0)


class TestRemoteView:
    def test_it_shows_what_the_scene_is(self, viewer):
        with RemoteView(viewer.url) as view:
            assert view.hello["name"] == "job-7" and view.hello["enu_ref"] == [47.0, 8.0, 400.0]
            number = view.update_camera(**VIEW, image_format="png")
            picture = view.wait_for_final(20.0)
            assert picture.update_id == number
            assert difference(picture.pixels, truth()) < 0.5
            view.update_camera(**VIEW, show="Depth")
            assert difference(view.wait_for_final(20.0).pixels, truth(Show.DEPTH)) < 6.0

    def test_a_place_on_the_earth_is_the_same_place(self, viewer):
        lat, lon, alt = FRAME.world_to_geo(FRAME.enu_m_to_world(VIEW["position_enu_m"]))
        with RemoteView(viewer.url) as view:
            view.update_camera(
                position_geo=(float(lat), float(lon), float(alt)), pitch_deg=-35.0,
                width_px=320, height_px=240, image_format="png",
            )  # fmt: skip
            assert difference(view.wait_for_final(20.0).pixels, truth()) < 1.0

    def test_the_same_view_again_is_the_same_update(self, viewer):
        with RemoteView(viewer.url) as view:
            first = view.update_camera(**VIEW)
            view.wait_for_final(20.0)
            assert view.update_camera(**VIEW) == first
            assert view.wait_for_final(20.0).update_id == first

    def test_no_way_back(self, viewer):
        """Whatever the timing: update ids never fall, and within an update rungs only rise."""
        marks: list[tuple[int, int]] = []
        is_over = threading.Event()
        with RemoteView(viewer.url) as view:

            def read() -> None:
                while not is_over.is_set():
                    picture = view.get_picture()
                    if picture is not None:
                        marks.append((picture.update_id, picture.rung))

            reader = threading.Thread(target=read)
            reader.start()
            rng = np.random.default_rng(0)
            for heading in np.linspace(0, 90, 40):
                view.update_camera(**{**VIEW, "heading_deg": float(heading)})
                time.sleep(float(rng.uniform(0, 0.06)))
            last = view.wait_for_final(20.0)
            until(lambda: marks and marks[-1] == (last.update_id, last.rung), "the last is read")
            is_over.set()
            reader.join(10.0)
        assert marks == sorted(set(marks)) and len(marks) > 5

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"position_enu_m": None}, "give one of position_enu_m"),
            ({"position_geo": (47, 8, 400)}, "give one of position_enu_m"),
            ({"width_px": 4000}, "at most 480 a side"),
            ({"width_px": 0}, "width_px"),
            ({"fov_deg": 179}, "fov_deg"),
            ({"show": "Experts"}, "show 'Experts'"),
            ({"position_enu_m": (1e12, 0, 0)}, "farther than"),
            ({"position_enu_m": (float("nan"), 0, 0)}, "position_enu_m.0"),
        ],
    )
    def test_what_is_wrong_is_said_and_the_connection_goes_on(self, viewer, wrong, said):
        with RemoteView(viewer.url) as view:
            view.update_camera(**{**VIEW, **wrong})
            with pytest.raises(RemoteViewError, match=re.escape(said)):
                view.wait_for_final(20.0)
            view.update_camera(**VIEW, image_format="png")
            assert difference(view.wait_for_final(20.0).pixels, truth()) < 0.5

    @pytest.mark.parametrize("junk", ["", "{", "[]", "null", '{"type": "hello"}', b"\x00\xff"])
    def test_junk_is_answered(self, viewer, junk):
        with connect(viewer.url.replace("http", "ws") + "/remote") as socket:
            socket.recv(timeout=10.0)
            socket.send(junk)
            assert json.loads(socket.recv(timeout=10.0))["type"] == "error"

    def test_the_end_of_the_viewer_is_told(self, viewer):
        with RemoteView(viewer.url) as view:
            viewer.stop_asked.set()
            viewer.wait_for_end()
            with pytest.raises(RemoteViewError):
                until(lambda: view.get_picture() and False, "the end")

    def test_no_viewer_there(self):
        with pytest.raises(RemoteViewError, match="ws://127"):
            RemoteView("http://127.0.0.1:9", timeout_s=2.0)

    def test_the_example_saves_its_pictures_without_the_engine(self, viewer, tmp_path):
        """The script runs from a folder that holds the client's one file and no package of ours."""
        root = Path(__file__).parents[2]
        for name in ("scripts/remote_view.py", "nerfcore/view_client.py"):
            (tmp_path / Path(name).name).write_bytes((root / name).read_bytes())
        places = [str(tmp_path), str(Path(np.__file__).parents[1])]
        wanted = ["remote_view.py", "--url", viewer.url, "--views", "2", "--size", "160x120"]
        program = (
            "import runpy, sys\n"
            f"sys.path[:0] = {places}\n"
            f"sys.argv = {[*wanted, '--out', 'out']}\n"
            "sys.modules['nerfcore'] = None\n"
            "runpy.run_path('remote_view.py', run_name='__main__')\n"
        )
        command = [sys.executable, "-S", "-c", program]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, text=True)
        assert done.returncode == 0, done.stderr
        assert len(list((tmp_path / "out").glob("*.png"))) == 2


def ask(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10.0)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read().decode()
    connection.close()
    return found


class TestDoor:
    def test_without_a_token_nothing_is_served(self, tmp_path):
        with running_viewer(tmp_path, token=TOKEN) as viewer:
            for path in ("/", "/index.html", "/assets/x.js", "/?token=wrong", "/?token="):
                status, _, body = ask(viewer.port, path)
                assert status == 401 and "access token" in body and TOKEN not in body
            for path in ("", "/remote", "/x"):
                with pytest.raises(InvalidStatus) as caught:
                    connect(f"ws://127.0.0.1:{viewer.port}{path}", subprotocols=[SUBPROTOCOL])
                assert caught.value.response.status_code == 401
            for token in (None, "wrong-token", TOKEN[:-1]):
                with pytest.raises(RemoteViewError):
                    RemoteView(viewer.url, token)
            with pytest.raises(InvalidStatus):
                WireClient(viewer.port)

    def test_with_the_token_page_and_sockets_open(self, tmp_path):
        with running_viewer(tmp_path, token=TOKEN) as viewer:
            status, headers, _ = ask(viewer.port, f"/?token={TOKEN}")
            assert status == 303 and headers["Location"] == "/"
            cookie = headers["Set-Cookie"].split(";")[0]
            assert "HttpOnly" in headers["Set-Cookie"] and TOKEN not in headers["Set-Cookie"]
            assert ask(viewer.port, "/", Cookie=cookie)[0] == 200
            assert ask(viewer.port, "/", Cookie=f"a=b; {cookie}")[0] == 200
            assert ask(viewer.port, "/", Cookie=cookie[:-1] + "x")[0] == 401
            assert ask(viewer.port, "/", Authorization=f"Bearer {TOKEN}")[0] == 200
            with connect(
                f"ws://127.0.0.1:{viewer.port}", subprotocols=[SUBPROTOCOL],
                additional_headers={"Cookie": cookie}, max_size=None,
            ) as socket:  # fmt: skip
                assert socket.recv(timeout=10.0)
            with RemoteView(viewer.url, TOKEN) as view:
                view.update_camera(**VIEW)
                assert view.wait_for_final(20.0).is_final

    def test_a_cookie_of_another_viewer_opens_nothing(self, tmp_path):
        with (
            running_viewer(tmp_path / "a", token=TOKEN) as one,
            running_viewer(tmp_path / "b", token=TOKEN) as other,
        ):
            cookie = ask(one.port, f"/?token={TOKEN}")[1]["Set-Cookie"].split(";")[0]
            value = cookie.partition("=")[2]
            assert ask(other.port, "/", Cookie=cookie)[0] == 401
            renamed = f"skyline_token_{other.port}={value}"
            assert ask(other.port, "/", Cookie=renamed)[0] == 401

    def test_two_viewers_on_two_ports_and_a_taken_port_names_the_job(self, viewer, tmp_path):
        with running_viewer(tmp_path / "b", name="job-8") as other:
            assert json.loads(ask(viewer.port, "/about")[2])["name"] == "job-7"
            assert json.loads(ask(other.port, "/about")[2])["name"] == "job-8"
        with pytest.raises(PortInUseError, match=r"the viewer of job job-7 listens"):
            check_free("127.0.0.1", viewer.port)

    def test_a_huge_message_costs_its_sender_the_connection_and_is_told_the_others(self, viewer):
        with WireClient(viewer.port) as client:
            client.wait_for_control("End viewer")
            client.send("ViewerCameraMessage", **_camera())
            client.picture()
            with WireClient(viewer.port) as other:
                other.send_raw(b"x" * (MOST_MESSAGE_BYTES + 1))
                assert "4 MiB" in client.wait_for_note("cut off")
                with pytest.raises(ConnectionClosed):
                    while True:
                        other.messages(10.0)


def _camera() -> dict[str, object]:
    return {
        "wxyz": [0.0, 1.0, 0.0, 0.0], "position": [0.0, 0.0, 0.5], "fov": 0.9, "near": 0.01,
        "far": 1000.0, "image_height": 240, "image_width": 320, "look_at": [0.0, 0.0, 0.0],
        "up_direction": [0.0, 0.0, 1.0],
    }  # fmt: skip
