"""Owns a visit's life: it serves the page until a button, the idle time or the caller ends it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from nerfcore.allocator import give_freed_memory_back, share_arenas
from nerfcore.errors import SettingsError
from nerfcore.geometry.camera import Camera
from nerfcore.viewer.address import page_url
from nerfcore.viewer.page import Page, PageSettings
from nerfcore.viewer.photographs import PhotoGroup
from nerfcore.viewer.poses import overview_camera
from nerfcore.viewer.protocols import AdaptingLike, SceneLike, VersionsLike

WATCH_EVERY_S: Final = 0.1
ABSENCE_S: Final = 20.0
"""Who reloads the page or loses the network for less has not left."""
LARGEST_PICTURE_PX: Final = 1024


class EndReason(StrEnum):
    """Why a viewer ended."""

    BUTTON = "button"
    IDLE = "idle"
    STOPPED = "stopped"


FAREWELLS: Final[dict[EndReason, str]] = {
    EndReason.BUTTON: "Ended with the End button.",
    EndReason.IDLE: "Ended because nobody was looking.",
    EndReason.STOPPED: "Ended because the job was stopped.",
}


@dataclass(frozen=True)
class ViewEnd:
    """How a viewer ended.

    Attributes:
        reason: the button, the idle time, or `should_stop`.
    """

    reason: EndReason


def serve(
    scene: SceneLike,
    *,
    host: str,
    port: int,
    idle_timeout_s: float,
    folder: Path,
    start_camera: Camera | None,
    should_stop: Callable[[], bool],
    on_ready: Callable[[str], None],
    photographs: Sequence[PhotoGroup] = (),
    adapting: AdaptingLike | None = None,
    versions: VersionsLike | None = None,
    is_following: bool = False,
    token: str | None = None,
    name: str = "",
    about: str = "",
    max_side_px: int = LARGEST_PICTURE_PX,
) -> ViewEnd:
    """Show a scene in browsers until the viewer ends.

    Args:
        scene: what is shown; used by one thread at a time.
        host: address to listen on, e.g. "0.0.0.0".
        port: 0 to 65535; 0 = any free port (`on_ready` says which).
        idle_timeout_s: end after so long without a client, s, > 0.
        folder: `screenshots/`, `videos/`, `camera_paths/` and `checkpoints/` are made below it
            when needed.
        start_camera: the first view; None = an oblique view of the scene's middle.
        should_stop: asked about ten times a second; True ends the viewer.
        on_ready: called once with the URL when the page answers.
        photographs: the flights, the model's own first.
        adapting: live adaptation; None = none.
        versions: of the model, to load and save; None = none.
        is_following: show every new version of the training run from the start.
        token: what a visitor must know; None = nothing.
        name: of the job; told to another viewer that finds the port taken.
        about: Markdown about the job, for the page.
        max_side_px: longer side of the largest picture.

    Returns:
        Why it ended.

    Raises:
        PortInUseError: somebody listens on the port.
        SettingsError: host, port or idle time cannot be used.
    """
    if not idle_timeout_s > 0:
        raise SettingsError(f"viewer_timeout {idle_timeout_s}: must be more than 0 s")
    camera = overview_camera(scene.frame, None) if start_camera is None else start_camera
    settings = PageSettings(
        host, port, folder, camera, max_side_px, tuple(photographs), adapting, versions,
        is_following, token, name, about,
    )  # fmt: skip
    share_arenas()
    page = Page(scene, settings)
    farewell = "Ended because of an error in the job."
    try:
        on_ready(page_url(host, page.port))
        reason = _watch(page, idle_timeout_s, should_stop)
        farewell = FAREWELLS[reason]
    finally:
        page.close(farewell)
    return ViewEnd(reason)


def _watch(page: Page, idle_timeout_s: float, should_stop: Callable[[], bool]) -> EndReason:
    departures = 0
    while not page.ended.wait(WATCH_EVERY_S):
        if page.departures != departures:
            departures = page.departures
            give_freed_memory_back()
        if should_stop():
            return EndReason.STOPPED
        empty_s = page.empty_s()
        if empty_s >= idle_timeout_s:
            return EndReason.IDLE
        if empty_s >= ABSENCE_S:
            page.stop_endless_work()
    return EndReason.BUTTON
