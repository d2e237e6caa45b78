"""Owns the client of a running view job for other programs: Python 3.9 or newer, no engine.

It needs `websockets`, `numpy` and `Pillow` only, and exchanges JSON and image files (see
`nerfcore.viewer.remote`), so it may run in another process, on another machine and under another
version of Python than the viewer (copy this one file there). Poses: East, North, Up in metres (or
latitude, longitude, height), heading from north over east, pitch above the horizon, degrees.

No way back: once a picture of an update has arrived, read or not, nothing of an earlier update is
ever given out; within an update pictures only get finer.

    with RemoteView("ws://localhost:7070", token="...") as view:
        view.update_camera(position_enu_m=(0, -80, 60), heading_deg=0, pitch_deg=-35)
        picture = view.wait_for_final(timeout_s=10)
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

MOST_PICTURE_BYTES = 64 * 1024 * 1024


class RemoteViewError(Exception):
    """The viewer refused a request, or is gone."""


class RemotePicture:
    """One picture.

    Attributes:
        update_id: of the `update_camera` that it shows, as that returned it.
        rung: 0 is the coarsest of its series; is_final: nothing finer follows.
        pixels: u8[H, W, 3] RGB.
    """

    def __init__(self, head: dict[str, Any], content: bytes) -> None:
        self.update_id = int(head["id"])
        self.rung = int(head["rung"])
        self.is_final = bool(head["is_final"])
        self.pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


class RemoteView:
    """A view of a running view job.

    Args:
        url: ws://host:port of the viewer (http:// will do).
        token: the job's `viewer_token`, if it has one.
        timeout_s: for connecting.

    Attributes:
        hello: what the viewer said of itself: name, frame, start view.

    Raises:
        RemoteViewError: no viewer there, or the token is wrong.
    """

    def __init__(self, url: str, token: str | None = None, timeout_s: float = 10.0) -> None:
        address = url.rstrip("/").replace("http://", "ws://", 1).replace("https://", "wss://", 1)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            self._socket = connect(
                f"{address}/remote",
                additional_headers=headers,
                open_timeout=timeout_s,
                max_size=MOST_PICTURE_BYTES,
                compression=None,
            )
            self.hello: dict[str, Any] = json.loads(self._socket.recv(timeout=timeout_s))
        except (OSError, ValueError, TimeoutError, ConnectionClosed) as error:
            raise RemoteViewError(f"{address}: {error}") from error
        except Exception as error:
            # Pythons and versions of websockets name a refused handshake differently.
            raise RemoteViewError(f"{address}: refused: {error}") from error
        self._changed = threading.Condition()
        self._next_id = 0
        self._asked: dict[str, Any] | None = None
        self._final: RemotePicture | None = None
        self._unread: RemotePicture | None = None
        self._newest: tuple[int, int] = (-1, -1)
        self._error: str | None = None
        self._end: str | None = None
        self._reader = threading.Thread(target=self._read, name="remote-view", daemon=True)
        self._reader.start()

    def __enter__(self) -> RemoteView:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update_camera(
        self,
        position_enu_m: Sequence[float] | None = None,
        *,
        position_geo: Sequence[float] | None = None,
        heading_deg: float = 0.0,
        pitch_deg: float = -45.0,
        roll_deg: float = 0.0,
        fov_deg: float = 50.0,
        width_px: int = 640,
        height_px: int = 480,
        show: str = "RGB",
        image_format: str = "jpeg",
    ) -> int:
        """Ask for a view; returns at once.

        Args:
            position_enu_m: East, North, Up, m.
            position_geo: latitude, longitude (degrees), height (m), in place of it.
            heading_deg: from north over east; pitch_deg: above the horizon; roll_deg: clockwise.
            fov_deg: vertical field of view.
            width_px, height_px: size.
            show: "RGB", "Depth" or "Opacity".
            image_format: "jpeg" or "png".

        Returns:
            The update's id, which `RemotePicture.update_id` repeats; the same view again has the
            same id and is not rendered again.

        Raises:
            RemoteViewError: the connection has ended.
        """
        request: dict[str, Any] = {
            "type": "update_camera",
            "heading_deg": heading_deg,
            "pitch_deg": pitch_deg,
            "roll_deg": roll_deg,
            "fov_deg": fov_deg,
            "width_px": width_px,
            "height_px": height_px,
            "show": show,
            "format": image_format,
        }
        if position_enu_m is not None:
            request["position_enu_m"] = [float(v) for v in position_enu_m]
        if position_geo is not None:
            request["position_geo"] = [float(v) for v in position_geo]
        with self._changed:
            self._check_open()
            if request == self._asked:
                return self._next_id - 1
            self._asked, self._final = dict(request), None
            request["id"] = self._next_id
            self._next_id += 1
            try:
                self._socket.send(json.dumps(request))
            except ConnectionClosed as error:
                raise RemoteViewError(f"the viewer is gone: {error}") from error
            return int(request["id"])

    def get_picture(self) -> RemotePicture | None:
        """Return the newest picture not yet returned, or None.

        Raises:
            RemoteViewError: the viewer refused a request since the last call (said once), or is
                gone.
        """
        with self._changed:
            if self._error is not None:
                reason, self._error = self._error, None
                raise RemoteViewError(reason)
            picture, self._unread = self._unread, None
            if picture is None:
                self._check_open()
            return picture

    def get_rgb_image(self) -> np.ndarray | None:
        """Return the newest unread picture's pixels, u8[H, W, 3] RGB, or None."""
        picture = self.get_picture()
        return None if picture is None else picture.pixels

    def wait_for_final(self, timeout_s: float = 60.0) -> RemotePicture:
        """Return the newest update's picture at full size, read before or not.

        Raises:
            RemoteViewError: refused, gone, or not ready in time.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._final or self._error or self._end, timeout_s)
            if self._error is not None:
                reason, self._error = self._error, None
                raise RemoteViewError(reason)
            if self._final is not None:
                return self._final
            self._check_open()
        raise RemoteViewError(f"no final picture within {timeout_s:g} s")

    def close(self) -> None:
        """End the connection."""
        self._socket.close()
        self._reader.join(5.0)

    def _check_open(self) -> None:
        if self._end is not None:
            raise RemoteViewError(self._end)

    def _read(self) -> None:
        head: dict[str, Any] | None = None
        try:
            for message in self._socket:
                if isinstance(message, bytes):
                    if head is not None:
                        self._take(head, message)
                    head = None
                    continue
                record = json.loads(message)
                if record.get("type") == "error":
                    self._note(error=str(record.get("message")))
                elif record.get("type") == "picture":
                    head = record
            reason = "the viewer has ended the connection"
        except (ConnectionClosed, ValueError, KeyError, OSError) as error:
            reason = f"the connection broke: {error}"
        self._note(end=reason)

    def _take(self, head: dict[str, Any], content: bytes) -> None:
        mark = int(head["update"]), int(head["rung"])
        picture = RemotePicture(head, content)
        with self._changed:
            if mark <= self._newest:
                return
            self._newest, self._unread = mark, picture
            if picture.is_final and picture.update_id == self._next_id - 1:
                self._final = picture
            self._changed.notify_all()

    def _note(self, error: str | None = None, end: str | None = None) -> None:
        with self._changed:
            self._error = error if error is not None else self._error
            self._end = end if end is not None else self._end
            self._changed.notify_all()
