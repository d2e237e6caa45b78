#!/usr/bin/env python3
"""Measures a running viewer over its page's raw websocket, as `make bench-viewer` does.

A camera moves in a circle for some seconds as a dragging hand moves it: poses come at 30 a second,
the newest counts. Told are the time from a drag's first pose to the first picture after a rest,
pictures a second while moving and their size, and the time from the last pose to the picture at
full size. Machine load is told beside them: on a busy machine the figures are the load's.

It starts a view job of a checkpoint itself (--checkpoint JOB_FOLDER --dataset PREPARED --partition
NAME), or measures a viewer that runs (--url).
"""

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np
import zstandard
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

SUBPROTOCOL = "viser-v1.1.1"
POSES_A_SECOND = 30.0
DRAGS = 20
REST_S = 0.4
FINAL_LIMIT_S = 60.0
START_LIMIT_S = 120.0


@dataclass(frozen=True)
class Figures:
    """What was measured.

    Attributes:
        first_ms: p50 and p95 of drag to first picture.
        pictures_s: pictures a second while moving; moving_px: their median size.
        full_s: last pose to the picture at full size; full_px: that size.
        load: the machine's load average before and after.
    """

    first_ms: tuple[float, float]
    pictures_s: float
    moving_px: tuple[int, int]
    full_s: float
    full_px: tuple[int, int]
    load: tuple[float, float]


class PageSocket:
    """One page without a browser: sends poses, notes when pictures of which size arrive."""

    def __init__(self, url: str, width_px: int, height_px: int) -> None:
        self._size = width_px, height_px
        self._socket = connect(
            url.replace("http", "ws", 1),
            subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
            max_size=None,
            compression=None,
        )
        self.arrivals: list[tuple[float, tuple[int, int]]] = []
        self.start: dict[str, list[float]] = {}
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def close(self) -> None:
        self._socket.close()
        self._reader.join(5.0)

    def look(self, position: np.ndarray, target: np.ndarray) -> float:
        """Send a pose and return when."""
        forward = (target - position) / np.linalg.norm(target - position)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        rotation = np.column_stack([right, np.cross(forward, right), forward])
        width, height = self._size
        values = {
            "type": "ViewerCameraMessage",
            "wxyz": _quaternion(rotation),
            "position": position.tolist(),
            "fov": math.radians(50.0),
            "near": 0.01,
            "far": 1000.0,
            "image_height": height,
            "image_width": width,
            "look_at": target.tolist(),
            "up_direction": [0.0, 0.0, 1.0],
        }
        now = time.monotonic()
        self._socket.send(msgspec.msgpack.encode(values))
        return now

    def wait_after(self, since: float, width_px: int | None, limit_s: float) -> float:
        """Return when the first picture (of a width, if given) arrived after a time."""

        def found() -> float | None:
            for at, (width, _) in self.arrivals:
                if at > since and (width_px is None or width == width_px):
                    return at
            return None

        with self._changed:
            if not self._changed.wait_for(lambda: found() is not None, limit_s):
                raise TimeoutError(f"no picture within {limit_s:g} s")
            at = found()
        assert at is not None
        return at

    def wait_for_start(self) -> tuple[np.ndarray, np.ndarray]:
        """Return position and target of the view a visit starts with, page frame."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.start) == 2, START_LIMIT_S)
        return np.array(self.start["position"]), np.array(self.start["look_at"])

    def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            for raw in self._socket:
                assert isinstance(raw, bytes)
                self._take(raw, time.monotonic())

    def _take(self, raw: bytes, now: float) -> None:
        plain_size, packed_size = (int.from_bytes(raw[i : i + 8], "little") for i in (0, 8))
        end = 16 + packed_size
        plain = zstandard.ZstdDecompressor().decompress(raw[16:end], max_output_size=plain_size)
        content = msgspec.msgpack.decode(plain)
        buffers = _buffers(raw, end, content["binaryBufferLengths"])
        with self._changed:
            for message in content["messages"]:
                self._note(message, buffers, now)
            self._changed.notify_all()

    def _note(self, message: dict, buffers: list[bytes], now: float) -> None:
        kind, data = message["type"], message.get("rgb_data")
        if kind == "SetCameraPositionMessage":
            self.start.setdefault("position", message["position"])
        elif kind == "SetCameraLookAtMessage":
            self.start.setdefault("look_at", message["look_at"])
        elif kind == "BackgroundImageMessage" and data is not None:
            if isinstance(data, dict):
                data = buffers[data["__binary_index"]]
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            assert picture is not None
            self.arrivals.append((now, (picture.shape[1], picture.shape[0])))


def measure(url: str, seconds: float, width_px: int, height_px: int) -> Figures:
    """Measure a running viewer.

    Args:
        url: of its page.
        seconds: of moving.
        width_px, height_px: of the page's canvas.
    """
    before = os.getloadavg()[0]
    page = PageSocket(url, width_px, height_px)
    try:
        position, target = page.wait_for_start()
        page.wait_after(page.look(position, target), width_px, FINAL_LIMIT_S)
        firsts = [_drag(page, position, target, index) for index in range(DRAGS)]
        pictures = _move(page, position, target, seconds)
        last = page.look(position, target)
        full_s = page.wait_after(last, width_px, FINAL_LIMIT_S) - last
    finally:
        page.close()
    widths = sorted(size for _, size in pictures)
    p50, p95 = np.percentile(firsts, [50, 95])
    return Figures(
        (round(1e3 * float(p50), 1), round(1e3 * float(p95), 1)),
        round(len(pictures) / seconds, 2),
        widths[len(widths) // 2] if widths else (0, 0),
        round(full_s, 2),
        (width_px, height_px),
        (round(before, 2), round(os.getloadavg()[0], 2)),
    )


def _drag(page: PageSocket, position: np.ndarray, target: np.ndarray, index: int) -> float:
    """Begin a drag after a rest; return the time to its first picture, s."""
    time.sleep(REST_S)
    sent = page.look(_turned(position, target, 0.02 * (index + 1)), target)
    return page.wait_after(sent, None, FINAL_LIMIT_S) - sent


def _move(page: PageSocket, position: np.ndarray, target: np.ndarray, seconds: float) -> list:
    """Move for some seconds; return the pictures that arrived."""
    began = time.monotonic()
    while (now := time.monotonic()) < began + seconds:
        page.look(_turned(position, target, 0.4 * (now - began)), target)
        time.sleep(max(0.0, 1.0 / POSES_A_SECOND - (time.monotonic() - now)))
    return [entry for entry in page.arrivals if began < entry[0] <= began + seconds]


def _turned(position: np.ndarray, target: np.ndarray, angle: float) -> np.ndarray:
    offset = position - target
    cosine, sine = math.cos(angle), math.sin(angle)
    east, north = offset[:2]
    return target + np.array(
        [cosine * east - sine * north, sine * east + cosine * north, offset[2]]
    )


def _quaternion(rotation: np.ndarray) -> list[float]:
    from viser import transforms

    return transforms.SO3.from_matrix(rotation).wxyz.tolist()


def _buffers(raw: bytes, position: int, lengths: list[int]) -> list[bytes]:
    found = []
    for length in lengths:
        position += -position % 8
        found.append(raw[position : position + length])
        position += length
    return found


@contextlib.contextmanager
def running_job(given: argparse.Namespace) -> Iterator[str]:
    """Run a view job of a checkpoint until the block ends; give its page's URL."""
    out, name = given.dataset.resolve().parent, given.dataset.resolve().name
    with tempfile.TemporaryDirectory(prefix="skyline-bench-") as folder:
        job = {
            "op": "view", "job_id": "bench-view", "viewer_host": "127.0.0.1",
            "viewer_port": given.port, "data_path": str(out.parent), "data_dirname": name,
            "mask_dirname": given.partition, "downscale": 1.0,
            "checkpoint_path": str(given.checkpoint.resolve()),
        }  # fmt: skip
        (Path(folder) / "job.json").write_text(json.dumps(job))
        command = [sys.executable, "-m", "runner", f"{folder}/job.json", "--project-root", folder,
                   "--data-root", str(out.parent), "--data-root",
                   str(given.checkpoint.resolve().parent)]  # fmt: skip
        runner = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        url = f"http://127.0.0.1:{given.port}"
        try:
            _wait_until_up(url, runner)
            yield url
        finally:
            runner.terminate()
            runner.wait(30.0)


def _wait_until_up(url: str, runner: subprocess.Popen) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        if runner.poll() is not None:
            raise SystemExit(f"bench_viewer: the view job ended with exit code {runner.returncode}")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/about", timeout=5.0).close()
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"bench_viewer: {url} does not answer")
        time.sleep(0.2)


def main() -> None:
    """Measure and print; --out writes JSON."""
    parser = argparse.ArgumentParser(description="Measure the viewer over a raw websocket.")
    parser.add_argument("--url", help="of a running viewer")
    parser.add_argument("--checkpoint", type=Path, help="a train job's folder")
    parser.add_argument("--dataset", type=Path, help="prepared dataset")
    parser.add_argument("--partition", help="folder below its masks/")
    parser.add_argument("--port", type=int, default=7099, help="of the view job")
    parser.add_argument("--seconds", type=float, default=20.0, help="of moving")
    parser.add_argument("--size", default="640x480", help="of the page's canvas")
    parser.add_argument("--out", type=Path, help="JSON file")
    given = parser.parse_args()
    width, height = (int(part) for part in given.size.split("x"))
    if given.url is None and None in (given.checkpoint, given.dataset, given.partition):
        parser.error("give --url, or --checkpoint, --dataset and --partition")
    with contextlib.nullcontext(given.url) if given.url else running_job(given) as url:
        figures = measure(url, given.seconds, width, height)
    print(f"drag to first picture: p50 {figures.first_ms[0]} ms, p95 {figures.first_ms[1]} ms")
    size = "{} x {}".format(*figures.moving_px)
    print(f"while moving: {figures.pictures_s} pictures a second, median {size}")
    print(f"rest to {width} x {height}: {figures.full_s} s")
    print(f"load average: {figures.load[0]} before, {figures.load[1]} after")
    if given.out:
        given.out.write_text(json.dumps(asdict(figures), indent=1) + "\n")


if __name__ == "__main__":
    main()
