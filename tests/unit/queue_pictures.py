"""For the render queue: pictures that say what they show, renders let through chunk by chunk."""

import threading
import time

import numpy as np

from nerfcore.geometry.camera import Camera, Rendered
from nerfcore.viewer.queue import Picture
from nerfcore.viewer.sharing import TimedRender

DEADLINE_S = 10.0


def camera_at(place: float, width_px: int = 64, height_px: int = 48) -> Camera:
    c2w = np.eye(4, dtype=np.float32)[:3].copy()
    c2w[0, 3] = place
    return Camera(c2w, 50.0, 50.0, width_px / 2, height_px / 2, width_px, height_px)


def picture_of(camera: Camera, busy_s: float = 0.001) -> TimedRender:
    """A picture that says by its colour which place it shows."""
    shape = (camera.height_px, camera.width_px)
    rgb = np.full((*shape, 3), camera.c2w[0, 3], np.float32)
    return TimedRender(Rendered(rgb, np.zeros(shape, np.float32), rgb[..., 0]), busy_s)


def place_of(picture: Picture) -> float:
    return float(picture.rendered.rgb[0, 0, 0])


def until(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.001)


class GatedRender:
    """A render of `chunks` chunks, each let through by `gate.release()`."""

    def __init__(self, chunks: int = 1) -> None:
        self.gate = threading.Semaphore(0)
        self.chunks = chunks
        self.started: list[Camera] = []
        self.abandoned: list[Camera] = []
        self.has_started = threading.Semaphore(0)

    def __call__(self, camera, cancelled):
        self.started.append(camera)
        self.has_started.release()
        for _ in range(self.chunks):
            assert self.gate.acquire(timeout=DEADLINE_S)
            if cancelled():
                self.abandoned.append(camera)
                return None
        return picture_of(camera)
