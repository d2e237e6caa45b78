"""Owns the page: a viser server with one view per client and the shared controls.

The page frame is the world in East, North, Up axes (see `nerfcore.viewer.poses`), so that dragging
turns about the vertical. Nothing here leaves the machine: the page library's public share tunnel
is shut off.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import viser

from nerfcore.geometry.camera import Camera
from nerfcore.viewer.adaptation import Adaptation, AdaptStatus
from nerfcore.viewer.address import check_free, port_taken
from nerfcore.viewer.client_view import ClientView, ViewLimits
from nerfcore.viewer.colours import nice_ceiling
from nerfcore.viewer.controls import AdaptationControls, JobControls, ViewControls
from nerfcore.viewer.poses import ground_target, page_from_camera, page_from_world
from nerfcore.viewer.protocols import AdapterLike, SceneLike
from nerfcore.viewer.saving import CheckpointSaver
from nerfcore.viewer.sharing import SharedScene, Turns

THREAD_END_S: Final = 10.0
FAREWELL_S: Final = 1.0


class _PrivateServer(viser.ViserServer):
    """The page library's server without its tunnel to a public host."""

    def request_share_url(self, verbose: bool = True) -> str | None:
        """Refuse to open a tunnel, whoever asks for it."""
        return None


@dataclass(frozen=True)
class PageSettings:
    """What a page is started with.

    Attributes:
        host, port: where it listens; port 0 = any free one.
        folder: screenshots and checkpoints go below it.
        start_camera: the view a visit starts with.
        max_side_px: longer side of the largest picture.
        make_adapter: builds the adapter for live adaptation; None = no adaptation.
        save_checkpoint: writes the shown model to a new folder; None = no saving.
    """

    host: str
    port: int
    folder: Path
    start_camera: Camera
    max_side_px: int
    make_adapter: Callable[[], AdapterLike] | None
    save_checkpoint: Callable[[Path], None] | None


class Page:
    """A running page; `close` ends it.

    Raises:
        PortInUseError: the port is taken.
        SettingsError: host or port cannot be used.
    """

    def __init__(self, scene: SceneLike, settings: PageSettings) -> None:
        self._settings = settings
        self._turns = Turns()
        self._scene = SharedScene(scene, self._turns)
        self._lock = threading.Lock()
        self._views: dict[int, ClientView] = {}
        self._empty_since = time.monotonic()
        self.ended = threading.Event()
        self._limits = ViewLimits(settings.max_side_px, self._depth_scale())
        check_free(settings.host, settings.port)
        self._server = _PrivateServer(settings.host, settings.port, label="Skyline", verbose=False)
        if settings.port not in (0, self.port):
            self._server.stop()
            raise port_taken(settings.host, settings.port)
        self._dress_page()
        self._adaptation = self._make_adaptation()
        self._adaptation_controls = AdaptationControls(self._server, self._adaptation, self)
        JobControls(self._server, self, self.ended.set, self._make_saver())
        self._server.on_client_connect(self._add_client)
        self._server.on_client_disconnect(self._remove_client)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._server.get_port()

    def empty_s(self) -> float:
        """Return for how long nobody has been looking, s; 0 while somebody is."""
        with self._lock:
            return 0.0 if self._views else time.monotonic() - self._empty_since

    def say(self, title: str, body: str, colour: str = "red") -> None:
        """Show a message to every client."""
        for view in self._all_views():
            view.say(title, body, colour)

    def close(self, farewell: str) -> None:
        """Tell every client, end all threads and stop listening."""
        views = self._all_views()
        deadline = time.monotonic() + FAREWELL_S
        for view in views:
            view.part(farewell, max(0.0, deadline - time.monotonic()))
        if self._adaptation is not None:
            self._adaptation.close(THREAD_END_S)
        for view in views:
            view.close()
        for view in views:
            view.join(THREAD_END_S)
        self._server.stop()

    def _all_views(self) -> list[ClientView]:
        with self._lock:
            return list(self._views.values())

    # Connection and camera callbacks are coroutines because the page library then runs them in
    # order on its event loop; plain functions would run on a pool, in any order.
    async def _add_client(self, client: viser.ClientHandle) -> None:
        controls = ViewControls(
            client, self._settings.folder / "screenshots", self._limits.depth_max_m
        )
        view = ClientView(client, self._scene, self._limits, controls.describe_picture)
        controls.attach(view)
        with self._lock:
            self._views[client.client_id] = view

        async def follow(_: viser.CameraHandle) -> None:
            view.follow_camera()

        client.camera.on_update(follow)
        view.follow_camera()

    async def _remove_client(self, client: viser.ClientHandle) -> None:
        with self._lock:
            view = self._views.pop(client.client_id, None)
            if not self._views:
                self._empty_since = time.monotonic()
        if view is not None:
            view.close()

    def _dress_page(self) -> None:
        start = page_from_camera(self._settings.start_camera)
        target = ground_target(self._settings.start_camera, self._scene.frame)
        self._server.scene.set_up_direction("+z")
        self._server.initial_camera.position = start.position
        self._server.initial_camera.look_at = page_from_world(target)
        self._server.initial_camera.fov = start.fov_rad
        self._server.gui.configure_theme(show_logo=False, show_share_button=False, dark_mode=True)

    def _depth_scale(self) -> float:
        camera = self._settings.start_camera
        offset = ground_target(camera, self._scene.frame) - camera.c2w[:, 3]
        distance_m = float(np.linalg.norm(offset)) * self._scene.frame.pose_scale_factor_m
        return nice_ceiling(2.0 * distance_m)

    def _make_adaptation(self) -> Adaptation | None:
        make_adapter = self._settings.make_adapter
        if make_adapter is None:
            return None
        return Adaptation(make_adapter, self._turns, self._show_adaptation)

    def _show_adaptation(self, status: AdaptStatus) -> None:
        self._adaptation_controls.show(status)
        for view in self._all_views():
            view.follow_scene()

    def _make_saver(self) -> CheckpointSaver | None:
        write = self._settings.save_checkpoint
        if write is None:
            return None
        folder = self._settings.folder / "checkpoints"
        return CheckpointSaver(folder, write, self._turns, self._steps_taken)

    def _steps_taken(self) -> int:
        last = None if self._adaptation is None else self._adaptation.status.last
        return 0 if last is None else last.step
