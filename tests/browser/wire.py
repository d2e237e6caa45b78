"""A page without a browser: speaks the page library's websocket protocol.

A server message is a 16-byte header (sizes of the msgpack part, plain and compressed), the
zstd-compressed msgpack, padding to 8 bytes and the binary buffers, each padded to 8 bytes.
"""

import time
from typing import Any

import cv2
import msgspec
import numpy as np
import zstandard
from websockets.sync.client import ClientConnection, connect

from nerfcore.geometry.camera import Camera
from nerfcore.viewer.poses import page_from_camera

SUBPROTOCOL = "viser-v1.1.1"


def difference(picture: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference in grey levels; JPEG alone makes about 2."""
    assert picture.shape == other.shape
    return float(np.abs(picture.astype(float) - other).mean())


class WireClient:
    """One connected client; remembers the controls it was told of."""

    def __init__(self, port: int) -> None:
        self._socket: ClientConnection = connect(
            f"ws://127.0.0.1:{port}",
            subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
            max_size=None,
            compression=None,
        )
        self.controls: dict[str, str] = {}
        self.disabled: dict[str, bool] = {}
        self.values: dict[str, Any] = {}
        self.notes: list[str] = []

    def __enter__(self) -> "WireClient":
        return self

    def __exit__(self, *_) -> None:
        self._socket.close()

    def send(self, kind: str, **values: Any) -> None:
        self._socket.send(msgspec.msgpack.encode({"type": kind, **values}))

    def send_raw(self, content: bytes) -> None:
        self._socket.send(content)

    def look(self, camera: Camera, **changes: Any) -> None:
        """Send a camera message, with fields changed to whatever a test wants."""
        pose = page_from_camera(camera)
        values: dict[str, Any] = {
            "wxyz": pose.wxyz.tolist(),
            "position": pose.position.tolist(),
            "fov": pose.fov_rad,
            "near": 0.01,
            "far": 1000.0,
            "image_height": pose.height_px,
            "image_width": pose.width_px,
            "look_at": [0.0, 0.0, 0.0],
            "up_direction": [0.0, 0.0, 1.0],
        }
        self.send("ViewerCameraMessage", **{**values, **changes})

    def set_control(self, label: str, value: Any) -> None:
        self.send("GuiUpdateMessage", uuid=self.controls[label], updates={"value": value})

    def value(self, label: str) -> Any:
        """Give what the viewer last set a control to; None when it never did."""
        return self.values.get(self.controls[label])

    def messages(self, within_s: float) -> list[dict[str, Any]]:
        """Return one window of messages, noting controls and notifications."""
        window = _decode(self._socket.recv(timeout=within_s))
        for message in window:
            self._note(message)
        return window

    def wait_for_control(self, label: str, within_s: float = 10.0) -> None:
        deadline = time.monotonic() + within_s
        while label not in self.controls:
            self.messages(deadline - time.monotonic())

    def wait_for_note(self, part: str, within_s: float = 10.0) -> str:
        """Wait for a notification that holds a piece of text and return it."""
        deadline = time.monotonic() + within_s
        while not any(part in note for note in self.notes):
            self.messages(max(0.0, deadline - time.monotonic()))
        return next(note for note in self.notes if part in note)

    def picture(self, width_px: int | None = None, within_s: float = 10.0) -> np.ndarray:
        """Return the next picture (of a width, if given), u8[H, W, 3] RGB."""
        deadline = time.monotonic() + within_s
        while True:
            for message in self.messages(max(0.0, deadline - time.monotonic())):
                data = message.get("rgb_data")
                if message["type"] != "BackgroundImageMessage" or data is None:
                    continue
                picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
                assert picture is not None
                if width_px is None or picture.shape[1] == width_px:
                    return picture[..., ::-1]

    def wait_for_picture(
        self, expected: np.ndarray, tolerance: float = 4.0, within_s: float = 15.0
    ) -> None:
        """Wait for a picture like this one; earlier views may still be on their way."""
        deadline = time.monotonic() + within_s
        smallest = float("inf")
        while smallest > tolerance:
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"no such picture; the closest was {smallest:.1f} grey levels off"
            picture = self.picture(expected.shape[1], left_s)
            smallest = min(smallest, difference(picture, expected))

    def _note(self, message: dict[str, Any]) -> None:
        kind, props = message["type"], message.get("props", {})
        if kind == "NotificationShowMessage":
            self.notes.append(f"{props['title']}: {props['body']}")
        elif kind.startswith("Gui") and kind.endswith("Message") and props.get("label"):
            self.controls[props["label"]] = message["uuid"]
            self.disabled[message["uuid"]] = bool(props.get("disabled"))
        elif kind == "GuiUpdateMessage":
            updates = message["updates"]
            if "disabled" in updates:
                self.disabled[message["uuid"]] = updates["disabled"]
            if "value" in updates:
                self.values[message["uuid"]] = updates["value"]


def _decode(raw: str | bytes) -> list[dict[str, Any]]:
    assert isinstance(raw, bytes)
    plain_size, packed_size = (int.from_bytes(raw[i : i + 8], "little") for i in (0, 8))
    end = 16 + packed_size
    plain = zstandard.ZstdDecompressor().decompress(raw[16:end], max_output_size=plain_size)
    content = msgspec.msgpack.decode(plain)
    buffers, position = [], end
    for length in content["binaryBufferLengths"]:
        position += -position % 8
        buffers.append(raw[position : position + length])
        position += length
    return [_with_buffers(message, buffers) for message in content["messages"]]


def _with_buffers(value: Any, buffers: list[bytes]) -> Any:
    if isinstance(value, dict):
        if "__binary_index" in value:
            return buffers[value["__binary_index"]]
        return {name: _with_buffers(item, buffers) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_buffers(item, buffers) for item in value]
    return value
