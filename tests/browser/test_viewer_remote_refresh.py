"""Other programs' views while the model changes: each picture is of the view it names."""

import asyncio
import contextlib
import threading
import time

import numpy as np
import pytest
from boxes_scene import BoxesScene, painted
from websockets.asyncio.server import serve

from nerfcore.geometry.aiming import camera_towards
from nerfcore.view_client import RemoteView
from nerfcore.viewer import overview_camera
from nerfcore.viewer.colours import Show
from nerfcore.viewer.photographs import PhotoShelf
from nerfcore.viewer.remote import RemoteDesk
from nerfcore.viewer.sharing import SharedScene, Turns
from nerfcore.viewer.site import Site

DEADLINE_S = 20.0
GROUND = {"pitch_deg": -45.0, "show": "Depth", "image_format": "png"}
SKY = {**GROUND, "pitch_deg": 60.0}
SIZE = {"width_px": 96, "height_px": 64}


class Desk:
    """A remote desk on a socket of its own, whose model changes when the test says so."""

    def __init__(self, folder):
        scene = BoxesScene()
        shelf, start = PhotoShelf(()), overview_camera(scene.frame, None)
        site = Site(scene.frame, scene.experts, shelf, start, 300.0, 480, folder, "job-7")
        self.desk = RemoteDesk(SharedScene(scene, Turns()), site)
        self.url = ""
        self._is_up = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._over: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    async def _run(self):
        self._over = asyncio.Event()
        async with serve(self.desk.serve, "127.0.0.1", 0) as server:
            self.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            self._is_up.set()
            await self._over.wait()

    def __enter__(self):
        self._thread.start()
        assert self._is_up.wait(DEADLINE_S)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        self._loop.close()


@contextlib.contextmanager
def changing(desk: RemoteDesk):
    """The model changes again and again, as under live adaptation, while the block runs."""
    is_over = threading.Event()

    def change():
        while not is_over.wait(0.001):
            desk.follow_scene()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(DEADLINE_S)


@pytest.fixture
def desk(tmp_path):
    with Desk(tmp_path) as running:
        yield running


def is_sky(pixels) -> bool:
    return float(pixels.std()) < 3.0


def test_no_way_back_while_the_model_changes(desk):
    """Given refreshes all the time, an update's pictures are its own, and ids never fall."""
    seen = []
    with RemoteView(desk.url) as view, changing(desk.desk):
        for turn in range(60):
            wanted = SKY if turn % 2 else GROUND
            number = view.update_camera((0.0, 0.0, 80.0 + 0.01 * turn), **wanted, **SIZE)
            final = view.wait_for_final(DEADLINE_S)
            assert final.update_id == number
            seen.append((number, is_sky(final.pixels), wanted is SKY))
            until_s = time.monotonic() + 0.003 * (turn % 7)
            while time.monotonic() < until_s:
                picture = view.get_picture()
                if picture is not None:
                    seen.append((picture.update_id, is_sky(picture.pixels), wanted is SKY))
    assert [number for number, *_ in seen] == sorted(number for number, *_ in seen)
    wrong = [number for number, found, wanted in seen if found is not wanted]
    assert not wrong, f"{len(wrong)} of {len(seen)} pictures show another update's view"


def test_the_same_camera_in_another_way_after_the_model_changed(desk):
    place = (0.0, -100.0, 80.0)
    eye = BoxesScene().frame.enu_m_to_world(place)
    camera = camera_towards(eye, 0.0, -45.0, 0.0, 96, 64, np.radians(50.0))
    wanted = painted(BoxesScene().seen_by(camera), Show.DEPTH, 300.0)
    with RemoteView(desk.url) as view:
        view.update_camera(place, **{**GROUND, "show": "RGB"}, **SIZE)
        colours = view.wait_for_final(DEADLINE_S)
        assert view.get_picture() is colours, "read, so that the next is of the change"
        desk.desk.follow_scene()
        refreshed, deadline = None, time.monotonic() + DEADLINE_S
        while refreshed is None or not refreshed.is_final:
            refreshed = view.get_picture() or refreshed
            assert time.monotonic() < deadline, "the change was not shown"
            time.sleep(0.005)
        number = view.update_camera(place, **GROUND, **SIZE)
        depth = view.wait_for_final(DEADLINE_S)
    assert number > colours.update_id == refreshed.update_id and depth.update_id == number
    assert np.abs(depth.pixels.astype(float) - wanted).mean() < 6.0
