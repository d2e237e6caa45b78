"""Owns one browser's view: its camera, its render queue, what it shows and what it is told.

Camera and connection callbacks run on the page's event loop, in order, and never block; pictures
are painted and sent on the queue's worker thread, everything a control asks for on a worker of the
page.
"""

import asyncio
import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import viser
from numpy.typing import ArrayLike, NDArray

from nerfcore.geometry.camera import Camera, Rendered
from nerfcore.viewer.change import ChangeMap
from nerfcore.viewer.colours import Show
from nerfcore.viewer.hints import hidden_hint, hint_of, is_empty, limits_of
from nerfcore.viewer.look import Compare, Look
from nerfcore.viewer.painting import Painter
from nerfcore.viewer.picking import find_point, patch_camera
from nerfcore.viewer.poses import (
    BadViewError,
    PagePose,
    camera_from_page,
    page_from_camera,
    page_from_world,
)
from nerfcore.viewer.queue import Picture, RenderFailedError, RenderQueue, same_view
from nerfcore.viewer.reasons import reason_of
from nerfcore.viewer.screenshots import describe_view, save_screenshot
from nerfcore.viewer.sharing import SharedScene, TimedRender
from nerfcore.viewer.site import Site

REPEAT_MESSAGE_S: Final = 5.0
MESSAGE_SHOWN_S: Final = 10.0
FOLLOW_EVERY_S: Final = 3.0
PROBE_PX: Final = 48
LED_WITHIN_S: Final = 10.0
ROUGH_JPEG_QUALITY: Final = 80
FINAL_JPEG_QUALITY: Final = 92

_log = logging.getLogger(__name__)


class ClientView:
    """One client's view of the scene.

    Args:
        client: the page's handle of the browser.
        scene: the scene all clients share.
        site: the place.
        is_connected: whether the browser is still there.
        loop: on which the page's words come in.

    Attributes:
        client: as given.
        site: as given.
        on_picture: called with every picture sent; set by the panels, once each.
    """

    def __init__(
        self,
        client: viser.ClientHandle,
        scene: SharedScene,
        site: Site,
        is_connected: Callable[[], bool],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.client = client
        self.site = site
        self.on_picture: list[Callable[[Picture], None]] = []
        self._scene = scene
        self._picture_lock = threading.Lock()
        self._message_lock = threading.Lock()
        self._look = Look()
        self._look_number = self._sent_look_number = 0
        self._camera: Camera | None = None
        self._shown: Picture | None = None
        self._said: dict[str, float] = {}
        self._hint: str | None = None
        self._followed_at = 0.0
        self._is_closed = False
        self._is_connected = is_connected
        self._loop = loop
        changes = ChangeMap(site.shelf, site.frame.pose_scale_factor_m, self._depth_seen_from)
        self._painter = Painter(site, changes)
        self._queue = RenderQueue(
            self._render, on_news=self._take_news, name=f"view-{client.client_id}"
        )

    @property
    def look(self) -> Look:
        """What the client wants to see."""
        return self._look

    @property
    def camera(self) -> Camera | None:
        """The client's camera at full size; None before the first."""
        return self._camera

    @property
    def shown(self) -> Picture | None:
        """The newest picture; None before the first."""
        return self._shown

    def follow_camera(self) -> None:
        """Render what the client's camera sees now; a view that cannot be rendered is said."""
        try:
            camera = camera_from_page(self._page_pose(), self.site.max_side_px)
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

    def change_look(self, read: Callable[[], dict[str, Any]] | None = None, **changes: Any) -> None:
        """Change what is shown, of the picture at hand and of later ones.

        Args:
            read: returns fields of `Look`. It is called when this change has its turn, so that of
                changes on several threads the last one has the newest settings of the controls.
            changes: more such fields.
        """
        with self._picture_lock:
            fields = {**({} if read is None else read()), **changes}
            before, self._look = self._look, replace(self._look, **fields)
            self._look_number += 1
            shown = self._shown
        if before.needs_render(self._look):
            self._queue.refresh()
        elif shown is not None:
            self._show(shown)

    def fly_to(self, eye: ArrayLike, target: ArrayLike, fov_rad: float | None = None) -> None:
        """Move the client's camera.

        Args:
            eye, target: world points f[3]; the horizon stays level.
            fov_rad: vertical field of view; None = as it is.
        """

        def lead() -> None:
            camera = self.client.camera
            camera.position = page_from_world(eye)
            camera.look_at = page_from_world(target)
            if fov_rad is not None:
                camera.fov = fov_rad

        self._lead(lead)

    def zoom(self, fov_rad: float) -> None:
        """Give the client's camera another vertical field of view, where it is."""
        self._lead(lambda: setattr(self.client.camera, "fov", fov_rad))

    def _lead(self, write: Callable[[], None]) -> None:
        async def lead() -> None:  # on the loop no word of the page can undo half of it
            with self.client.atomic():
                write()

        asyncio.run_coroutine_threadsafe(lead(), self._loop).result(LED_WITHIN_S)
        self.client.flush()

    def fly_into(self, camera: Camera, distance: float) -> None:
        """Move the client's camera into another one, which then turns about a point ahead.

        Args:
            camera: its place, direction and field of view (a roll is lost).
            distance: to the point, world units.
        """
        eye = camera.c2w[:, 3].astype(np.float64)
        ahead = eye - distance * camera.c2w[:, 2].astype(np.float64)
        self.fly_to(eye, ahead, page_from_camera(camera).fov_rad)

    def point_at(self, across: float, down: float) -> NDArray[np.float64] | None:
        """Return the world point at a place of the picture, or None where there is only sky.

        Args:
            across, down: 0 to 1 from the upper left corner.
        """
        if self._camera is None:
            return None
        patch, options = patch_camera(self._camera, across, down), self._look.options

        def render(reach_m: float | None) -> Rendered | None:
            nearer = [bound for bound in (reach_m, options.far_m) if bound is not None]
            bounded = replace(options, far_m=min(nearer, default=None))
            shot = self._scene.render(patch, lambda: self._is_closed, bounded)
            return None if shot is None else shot.rendered

        return find_point(patch, render, self.site.frame.pose_scale_factor_m)

    def save_screenshot(self, folder: Path, scale: float = 1.0) -> Path:
        """Write what the client sees at full size and return the file; blocks while it renders.

        Args:
            folder: made if missing.
            scale: times the size of the page's picture.

        Raises:
            BadViewError: no view was rendered yet.
            OSError: the file cannot be written.
        """
        with self._picture_lock:
            shown, camera, look = self._shown, self._camera, self._look
        if camera is None:
            raise BadViewError("screenshot: no view yet; move the camera once")
        if scale != 1.0:
            camera = camera.scaled_to(round(camera.width_px * scale))
        if shown is not None and shown.is_final and same_view(shown.camera, camera):
            shot = TimedRender(shown.rendered, 0.0, shown.other)
        else:
            shot = self._render_at(camera, look, lambda: self._is_closed)
        if shot is None:
            raise BadViewError("screenshot: the viewer closed before it was rendered")
        picture = self._painter.paint(
            camera, shot.rendered, look, other=shot.other, generation=self._scene.generation
        )
        view = describe_view(camera, self.site.frame, look.show.value)
        if look.show is Show.DEPTH:
            view["depth_max_m"] = self.site.depth_max_m
            view["depth_map"] = look.depth_map.value
        return save_screenshot(folder, picture, view)

    def say(self, title: str, body: str, colour: str = "red") -> None:
        """Show a message in this client's page; the same one again only after some seconds.

        Args:
            title, body: the message.
            colour: "red" for an error (stays until closed), "yellow" for a hint, "green" else.
        """
        now = time.monotonic()
        with self._message_lock:
            self._said = {k: at for k, at in self._said.items() if now - at < REPEAT_MESSAGE_S}
            if self.is_closed or body in self._said:
                return
            self._said[body] = now
        is_error = colour == "red"
        self.client.add_notification(
            title,
            body,
            color="red" if is_error else "yellow" if colour == "yellow" else "green",
            auto_close_seconds=None if is_error else MESSAGE_SHOWN_S,
        )
        self.client.flush()
        _log.log(logging.WARNING if is_error else logging.INFO, "%s: %s", title, body)

    @contextlib.contextmanager
    def busy(self, title: str, body: str):
        """Show that something is under way, for as long as the block runs."""
        note = self.client.add_notification(title, body, loading=True, with_close_button=False)
        self.client.flush()
        try:
            yield note
        finally:
            note.remove()

    def part(self, farewell: str, timeout_s: float) -> None:
        """Say that the viewer ended, and wait until the client has it or the time is up."""
        self.client.add_notification("Viewer ended", farewell, with_close_button=False)
        self.client.flush()
        # An answer to any later question shows that the farewell arrived; what it says is no
        # matter. A client that is stuck, gone or keeps no storage gives none.
        with contextlib.suppress(TimeoutError, RuntimeError):
            self.client.local_storage.get_item("farewell", timeout=timeout_s)

    @property
    def is_closed(self) -> bool:
        """Whether the client has gone."""
        return self._is_closed or not self._is_connected()

    def update_panel(self, write: Callable[[], object]) -> None:
        """Write to the client's controls; a client that leaves meanwhile is no error."""
        try:
            write()
        except RuntimeError:  # how the page library refuses the controls of a client that left
            if not self.is_closed:
                raise

    def close(self) -> None:
        """Abandon the view's renders; returns at once."""
        self._is_closed = True
        self._queue.close()

    def join(self, timeout_s: float) -> bool:
        """Wait for the view's thread after `close`; False when a render does not end."""
        return self._queue.join(timeout_s)

    def _page_pose(self) -> PagePose:
        camera = self.client.camera
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

    def _render(self, camera: Camera, cancelled: Callable[[], bool]) -> TimedRender | None:
        return self._render_at(camera, self._look, cancelled)

    def _render_at(
        self, camera: Camera, look: Look, cancelled: Callable[[], bool]
    ) -> TimedRender | None:
        options = look.options_for(camera, self._camera)
        shot = self._scene.render(camera, cancelled, options)
        if shot is None or look.compare is not Compare.BEFORE:
            return shot
        before = self._scene.render(camera, cancelled, replace(options, is_before=True))
        if before is None:
            return None
        return TimedRender(shot.rendered, shot.busy_s + before.busy_s, before.rendered)

    def _depth_seen_from(self, camera: Camera) -> NDArray[np.float32] | None:
        shot = self._scene.render(camera, lambda: self._is_closed)
        return None if shot is None else shot.rendered.depth_m

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
        self._show(picture)
        for listen in self.on_picture:
            self.update_panel(functools.partial(listen, picture))
        if picture.is_final:
            self._give_hint(picture)

    def _give_hint(self, picture: Picture) -> None:
        limits = limits_of(self._look.options)
        if limits and is_empty(picture.rendered) and self._is_scene_ahead(picture.camera):
            hint = hidden_hint(limits)
        else:
            hint = hint_of(picture.camera, picture.rendered, self.site.frame)
        if hint is not None and hint != self._hint:
            self.say("Little to see", hint, "yellow")
        self._hint = hint

    def _is_scene_ahead(self, camera: Camera) -> bool:
        """Whether a view would show the scene if no control hid parts of it."""
        small = camera.scaled_to(min(camera.width_px, PROBE_PX))
        shot = self._scene.render(small, lambda: self._is_closed)
        return shot is not None and not is_empty(shot.rendered)

    def _show(self, picture: Picture) -> None:
        """Paint and send a picture, unless a newer one or a newer look was sent meanwhile."""
        with self._picture_lock:
            look, number = self._look, self._look_number
        try:
            painted = self._painter.paint(
                picture.camera,
                picture.rendered,
                look,
                other=picture.other,
                generation=self._scene.generation,
                is_final=picture.is_final,
            )
        except Exception as error:  # noqa: BLE001 - said in the page; the colours are shown
            self.say("Cannot be shown", reason_of(error))
            painted = self._painter.paint(picture.camera, picture.rendered, Look())
        with self._picture_lock:
            is_old = self._shown is not None and self._shown is not picture
            if self._is_closed or is_old or number < self._sent_look_number:
                return
            self._sent_look_number = number
            self.client.scene.set_background_image(
                painted,
                format="jpeg",
                jpeg_quality=FINAL_JPEG_QUALITY if picture.is_final else ROUGH_JPEG_QUALITY,
            )
        self.client.flush()
