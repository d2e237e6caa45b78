"""Owns the page: a viser server with one view per client and the shared panels.

The page frame is the world in East, North, Up axes (see `nerfcore.viewer.poses`), so that dragging
turns about the vertical. Nothing here leaves the machine: the page library's public share tunnel
is shut off.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import viser

from nerfcore.geometry.camera import Camera
from nerfcore.viewer.adaptation import Adaptation, AdaptState, AdaptStatus
from nerfcore.viewer.address import check_free, port_taken
from nerfcore.viewer.client_view import ClientView
from nerfcore.viewer.colours import nice_ceiling
from nerfcore.viewer.door import Door
from nerfcore.viewer.panels.adapt_panel import AdaptPanel
from nerfcore.viewer.panels.before_panel import BeforePanel
from nerfcore.viewer.panels.job_panel import JobPanel
from nerfcore.viewer.panels.map_panel import MapPanel
from nerfcore.viewer.panels.photo_panel import PhotoPanel
from nerfcore.viewer.panels.picture_panel import PicturePanel
from nerfcore.viewer.panels.version_panel import VersionPanel
from nerfcore.viewer.panels.video_panel import VideoPanel
from nerfcore.viewer.panels.view_panel import ViewPanel
from nerfcore.viewer.photographs import PhotoGroup, PhotoShelf
from nerfcore.viewer.poses import ground_target, page_from_camera, page_from_world
from nerfcore.viewer.protocols import AdaptingLike, SceneLike, VersionsLike
from nerfcore.viewer.remote import RemoteDesk
from nerfcore.viewer.sharing import SharedScene, Turns
from nerfcore.viewer.site import Site
from nerfcore.viewer.site_map import SiteMap
from nerfcore.viewer.versioning import Versioning

THREAD_END_S: Final = 10.0
FAREWELL_S: Final = 1.0
TABS: Final = ("View", "Map", "Photos", "Adapt", "Video", "Job")


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
        folder: screenshots, videos and checkpoints go below it.
        start_camera: the view a visit starts with.
        max_side_px: longer side of the largest picture.
        photographs: the flights, the model's own first.
        adapting: live adaptation; None = none.
        versions: the model's versions; None = none.
        is_following: show every new version of the training run from the start.
        token: what a visitor must know; None = nothing.
        name: of the job; other viewers that find the port taken tell it.
    """

    host: str
    port: int
    folder: Path
    start_camera: Camera
    max_side_px: int
    photographs: Sequence[PhotoGroup] = ()
    adapting: AdaptingLike | None = None
    versions: VersionsLike | None = None
    is_following: bool = False
    token: str | None = None
    name: str = ""
    about: str = field(default="", repr=False)


class Page:
    """A running page; `close` ends it.

    Attributes:
        ended: set when somebody pressed the button.
        departures: clients that have left.

    Raises:
        PortInUseError: the port is taken.
        SettingsError: host or port cannot be used.
    """

    def __init__(self, scene: SceneLike, settings: PageSettings) -> None:
        self._settings = settings
        self._scene = SharedScene(scene, Turns())
        self._lock = threading.Lock()
        self._views: dict[int, ClientView] = {}
        self._videos: dict[int, VideoPanel] = {}
        self._empty_since = time.monotonic()
        self.ended = threading.Event()
        self.departures = 0
        self._site = self._make_site(scene)
        self._maps: dict[int, MapPanel] = {}
        self._map = SiteMap(self._scene, self._site, self._redraw_maps)
        self._remote = RemoteDesk(self._scene, self._site)
        check_free(settings.host, settings.port)
        self._door = Door(settings.token, settings.name, self._remote.serve, self._hear_of)
        with self._door.installed():
            self._server = _PrivateServer(
                settings.host, settings.port, label="Skyline", verbose=False
            )
        if settings.port not in (0, self.port):
            self._server.stop()
            raise port_taken(settings.host, settings.port)
        self._door.note_port(self.port)
        self._dress_page()
        self._shown_steps = self._mapped_steps = 0
        self._adaptation = self._make_adaptation()
        self._versioning = self._make_versioning()
        self._add_shared_panels()
        self._server.on_client_connect(self._add_client)
        self._server.on_client_disconnect(self._remove_client)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._server.get_port()

    def empty_s(self) -> float:
        """Return for how long nobody has been looking, s; 0 while somebody is."""
        with self._lock:
            is_busy = bool(self._views) or any(v.is_rendering for v in self._videos.values())
            if is_busy or self._remote.is_visited:
                self._empty_since = time.monotonic()
                return 0.0
            return time.monotonic() - self._empty_since

    def stop_endless_work(self) -> None:
        """Stop what would go on without end although nobody is there."""
        if self._adaptation is not None:
            self._adaptation.stop_endless()

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
        with self._lock:
            videos = list(self._videos.values())
        for video in videos:
            video.close(THREAD_END_S)
        self._remote.close(THREAD_END_S)
        if self._versioning is not None:
            self._versioning.close(THREAD_END_S)
        if self._adaptation is not None:
            self._adaptation.close(THREAD_END_S)
        self._map.close(THREAD_END_S)
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
        view = ClientView(
            client,
            self._scene,
            self._site,
            lambda: client.client_id in self._server.get_clients(),
            self._server.get_event_loop(),
        )
        self._add_panels(client, view)
        with self._lock:
            self._views[client.client_id] = view

        async def follow(_: viser.CameraHandle) -> None:
            view.follow_camera()

        client.camera.on_update(follow)
        view.follow_camera()

    async def _remove_client(self, client: viser.ClientHandle) -> None:
        with self._lock:
            view = self._views.pop(client.client_id, None)
            self._maps.pop(client.client_id, None)
            self._videos[client.client_id].abandon()
            # A film under way is finished for the job's folder; its panel is kept until then.
            kept = {i: v for i, v in self._videos.items() if i in self._views or v.is_rendering}
            self._videos = kept
            if not self._views:
                self._empty_since = time.monotonic()
        if view is not None:
            view.close()
        self.departures += 1

    def _add_panels(self, client: viser.ClientHandle, view: ClientView) -> None:
        tabs = self._tabs
        with tabs["View"]:
            ViewPanel(view)
            PicturePanel(view)
        with tabs["Map"]:
            site_map = MapPanel(view, self._map)
        with tabs["Photos"]:
            photos = PhotoPanel(view)
        if self._adaptation is not None:
            with tabs["Adapt"]:
                BeforePanel(view, photos)
        with tabs["Video"]:
            video = VideoPanel(view, self._scene)
        with self._lock:
            self._videos[client.client_id] = video
            self._maps[client.client_id] = site_map

    def _add_shared_panels(self) -> None:
        gui, settings = self._server.gui, self._settings
        group = gui.add_tab_group()
        self._tabs = {name: group.add_tab(name) for name in TABS}
        with self._tabs["Adapt"]:
            self._adapt_panel = AdaptPanel(gui, self._adaptation, settings.adapting, self)
            self._version_panel = VersionPanel(
                gui, self._versioning, self, is_following=settings.is_following
            )
        with self._tabs["Job"]:
            JobPanel(gui, settings.about, self.ended.set)

    def _dress_page(self) -> None:
        start = page_from_camera(self._settings.start_camera)
        target = ground_target(self._settings.start_camera, self._scene.frame)
        self._server.scene.set_up_direction("+z")
        self._server.initial_camera.position = start.position
        self._server.initial_camera.look_at = page_from_world(target)
        self._server.initial_camera.fov = start.fov_rad
        self._server.gui.configure_theme(
            show_logo=False, show_share_button=False, dark_mode=True, control_width="large"
        )

    def _make_site(self, scene: SceneLike) -> Site:
        settings = self._settings
        camera = settings.start_camera
        offset = ground_target(camera, scene.frame) - camera.c2w[:, 3]
        distance_m = float(np.linalg.norm(offset)) * scene.frame.pose_scale_factor_m
        return Site(
            scene.frame,
            scene.experts,
            PhotoShelf(settings.photographs),
            camera,
            nice_ceiling(2.0 * distance_m),
            settings.max_side_px,
            settings.folder,
            settings.name,
        )

    def _make_adaptation(self) -> Adaptation | None:
        adapting = self._settings.adapting
        if adapting is None:
            return None
        return Adaptation(adapting, self._scene.turns, self._show_adaptation)

    def _make_versioning(self) -> Versioning | None:
        versions = self._settings.versions
        if versions is None:
            return None
        return Versioning(
            versions,
            self._scene,
            self._adaptation,
            self._settings.folder / "checkpoints",
            self._show_version,
            lambda reason: self.say("Training not followed", reason),
        )

    def _show_adaptation(self, status: AdaptStatus) -> None:
        self._adapt_panel.show(status)
        if status.state is AdaptState.IDLE and status.steps != self._mapped_steps:
            self._mapped_steps = status.steps
            self._map.refresh()
        if status.steps == self._shown_steps:
            return
        self._shown_steps = status.steps
        self._scene.note_change()
        self._refresh_views()

    def _show_version(self, name: str) -> None:
        self._version_panel.show(name)
        self.say("Another version is shown", name, "green")
        self._map.refresh()
        self._refresh_views()

    def _redraw_maps(self) -> None:
        with self._lock:
            maps = list(self._maps.values())
        for site_map in maps:
            site_map.redraw()

    def _refresh_views(self) -> None:
        for view in self._all_views():
            view.follow_scene()
        self._remote.follow_scene()

    def _hear_of(self, line: str) -> None:
        """Tell everybody of a client that the door cut off."""
        self.say("A client was cut off", line, "yellow")
