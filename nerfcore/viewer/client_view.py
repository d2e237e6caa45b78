"""Owns one browser's view: its camera, its render queue, what it shows and what it is told.

Camera and connection callbacks run on the page's event loop, in order, and never block; pictures
are painted and sent on the queue's worker thread, screenshots on a worker of the page.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import viser

from nerfcore.geometry.camera import Camera
from nerfcore.viewer.colours import Show, paint
from nerfcore.viewer.poses import BadViewError, PagePose, camera_from_page
from nerfcore.viewer.queue import Picture, RenderFailedError, RenderQueue, same_view
from nerfcore.viewer.screenshots import describe_view, save_screenshot
from nerfcore.viewer.sharing import SharedScene, TimedRender

REPEAT_MESSAGE_S: Final = 5.0
MESSAGE_SHOWN_S: Final = 10.0
FOLLOW_EVERY_S: Final = 3.0
ROUGH_JPEG_QUALITY: Final = 80
FINAL_JPEG_QUALITY: Final = 92

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ViewLimits:
    """What holds for every client of a viewer.

    Attributes:
        max_side_px: longer side of the largest picture.
        depth_max_m: end of the depth colour scale, m.
    """

    max_side_px: int
    depth_max_m: float


class ClientView:
    """One client's view of the scene.

    Args:
        client: the page's handle of the browser.
        scene: the scene all clients share.
        limits: picture size and depth scale.
        on_picture: called with a line about every picture sent.
    """

    def __init__(
        self,
        client: viser.ClientHandle,
        scene: SharedScene,
        limits: ViewLimits,
        on_picture: Callable[[str], None],
    ) -> None:
        self._client = client
        self._scene = scene
        self._limits = limits
        self._on_picture = on_picture
        self._picture_lock = threading.Lock()
        self._message_lock = threading.Lock()
        self._show = Show.RGB
        self._camera: Camera | None = None
        self._shown: Picture | None = None
        self._said: dict[str, float] = {}
        self._followed_at = 0.0
        self._is_closed = False
        self._queue = RenderQueue(
            scene.render, on_news=self._take_news, name=f"view-{client.client_id}"
        )

    def follow_camera(self) -> None:
        """Render what the client's camera sees now; a view that cannot be rendered is said."""
        try:
            camera = camera_from_page(self._page_pose(), self._limits.max_side_px)
        except BadViewError as error:
            self.say("View ignored", str(error))
            return
        if not self._is_closed:
            self._camera = camera
            self._queue.update_camera(camera)

    def follow_scene(self) -> None:
        """Render again because the model changed, soon: a long series is cut short for it."""
        now = time.monotonic()
        is_overdue = now - self._followed_at > FOLLOW_EVERY_S
        if self._queue.refresh(after_this=not is_overdue) is not None:
            self._followed_at = now

    def show(self, what: Show) -> None:
        """Show colour, depth or opacity, of the picture at hand and of later ones."""
        with self._picture_lock:
            self._show = what
            if self._shown is not None:
                self._send(self._shown)

    def save_screenshot(self, folder: Path) -> Path:
        """Write what the client sees at full size and return the file; blocks while it renders.

        Raises:
            BadViewError: no view was rendered yet.
            OSError: the file cannot be written.
        """
        with self._picture_lock:
            shown, camera, show = self._shown, self._camera, self._show
        if camera is None:
            raise BadViewError("screenshot: no view yet; move the camera once")
        if shown is not None and shown.is_final and same_view(shown.camera, camera):
            rendered = shown.rendered
        else:
            shot: TimedRender | None = self._scene.render(camera, lambda: self._is_closed)
            if shot is None:
                raise BadViewError("screenshot: the viewer closed before it was rendered")
            rendered = shot.rendered
        view = describe_view(camera, self._scene.frame, show.value)
        if show is Show.DEPTH:
            view["depth_max_m"] = self._limits.depth_max_m
        return save_screenshot(folder, paint(rendered, show, self._limits.depth_max_m), view)

    def say(self, title: str, body: str, colour: str = "red") -> None:
        """Show a message in this client's page; the same one again only after some seconds."""
        now = time.monotonic()
        with self._message_lock:
            self._said = {k: at for k, at in self._said.items() if now - at < REPEAT_MESSAGE_S}
            if self._is_closed or body in self._said:
                return
            self._said[body] = now
        is_error = colour == "red"
        self._client.add_notification(
            title,
            body,
            color="red" if is_error else "green",
            auto_close_seconds=None if is_error else MESSAGE_SHOWN_S,
        )
        self._client.flush()
        _log.log(logging.WARNING if is_error else logging.INFO, "%s: %s", title, body)

    def part(self, farewell: str, timeout_s: float) -> None:
        """Say that the viewer ended, and wait until the client has it or the time is up."""
        self._client.add_notification("Viewer ended", farewell, with_close_button=False)
        self._client.flush()
        # An answer to any later question shows that the farewell arrived; what it says is no
        # matter. A client that is stuck, gone or keeps no storage gives none.
        with contextlib.suppress(TimeoutError, RuntimeError):
            self._client.local_storage.get_item("farewell", timeout=timeout_s)

    def close(self) -> None:
        """Abandon the view's renders; returns at once."""
        self._is_closed = True
        self._queue.close()

    def join(self, timeout_s: float) -> bool:
        """Wait for the view's thread after `close`; False when a render does not end."""
        return self._queue.join(timeout_s)

    def _page_pose(self) -> PagePose:
        camera = self._client.camera
        try:
            return PagePose(
                np.asarray(camera.wxyz, np.float64),
                np.asarray(camera.position, np.float64),
                float(camera.fov),
                int(camera.image_width),
                int(camera.image_height),
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise BadViewError(f"camera: {error}") from error

    def _take_news(self) -> None:
        try:
            picture = self._queue.get_picture()
        except RenderFailedError as error:
            self.say("Render failed", f"{error}; the viewer goes on")
            picture = self._queue.get_picture()
        if picture is None or self._is_closed:
            return
        with self._picture_lock:
            self._shown = picture
            self._send(picture)
        self._on_picture(_describe(picture))

    def _send(self, picture: Picture) -> None:
        self._client.scene.set_background_image(
            paint(picture.rendered, self._show, self._limits.depth_max_m),
            format="jpeg",
            jpeg_quality=FINAL_JPEG_QUALITY if picture.is_final else ROUGH_JPEG_QUALITY,
        )
        self._client.flush()


def _describe(picture: Picture) -> str:
    size = f"{picture.camera.width_px} x {picture.camera.height_px}"
    return f"{size} px, {picture.busy_s:.2f} s{'' if picture.is_final else ', refining'}"
