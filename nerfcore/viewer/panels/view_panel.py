"""Owns the first panel: what is shown, where one is, screenshot, zoom, and the way back."""

import math
import threading
import time
from typing import Final

import numpy as np
import viser

from nerfcore.data.records import SceneFrame
from nerfcore.geometry.aiming import looking_at
from nerfcore.geometry.camera import Camera
from nerfcore.viewer.client_view import ClientView
from nerfcore.viewer.colours import DepthMap, Show
from nerfcore.viewer.legends import legend_html
from nerfcore.viewer.limits import one_of, within
from nerfcore.viewer.places import heading_of, place_text
from nerfcore.viewer.poses import ground_target, page_from_camera
from nerfcore.viewer.queue import Picture
from nerfcore.viewer.reasons import guarded

SAY_PLACE_EVERY_S: Final = 0.25
DOLLY: Final = {"Closer": 0.7, "Away": 1.0 / 0.7}
TURNS: Final = ("Down", "North", "East", "South", "West")
SIZES: Final = {"as shown": 1.0, "2 x": 2.0}
STAYED_SHARE: Final = 1e-3  # of the distance: a camera this close to where it was led has stayed
FOV_DEG: Final = (5.0, 120.0)
FOV_STEP_DEG: Final = 1.0
DEPTH_MAPS: Final = tuple(colour_map.value for colour_map in DepthMap)
SHALLOW: Final = 0.35  # tangent of the angle below the horizon of a view to a compass point
# The text about the view has four lines at all times: the buttons below it must not move.
LINE_END: Final = "  \n"
NOT_PLACED: Final = LINE_END.join(
    ("**Camera** not known yet", "looks nowhere yet", "**Middle** not known yet", "no distance yet")
)
NOTHING_MET: Final = ("**Middle** sky, nothing is met", "no distance")


class ViewPanel:
    """One client's first panel.

    Args:
        view: acted on.
    """

    def __init__(self, view: ClientView) -> None:
        self._view = view
        self._lock = threading.Lock()
        self._placed_at = 0.0
        self._flown: tuple[np.ndarray, np.ndarray] | None = None
        self._flown_from: Camera | None = None
        gui = view.client.gui
        self._show = gui.add_dropdown(
            "Show",
            [show.value for show in Show],
            hint="Change: where the render differs from the photographs (panel Photos)",
        )
        self._picture = gui.add_markdown("*rendering*")
        self._place = gui.add_markdown(NOT_PLACED)
        shot = gui.add_button(
            "Screenshot", icon=viser.Icon.CAMERA, hint="PNG with pose and GPS, in the job's folder"
        )
        home = gui.add_button("Reset view", icon=viser.Icon.HOME)
        turn = gui.add_button_group("Look", TURNS, hint="About the point in the middle")
        dolly = gui.add_button_group("Move", list(DOLLY))
        self._fov = gui.add_slider(
            "Zoom (°)", *FOV_DEG, FOV_STEP_DEG, self._start_fov_deg(), hint="Vertical field of view"
        )
        # Below the buttons, which would else move when they come and go.
        self._legend = gui.add_html("", visible=False)
        self._depth_map = gui.add_dropdown("Depth colours", DEPTH_MAPS, visible=False)
        with gui.add_folder("Screenshots", expand_by_default=False):
            self._size = gui.add_dropdown("Size", list(SIZES))
            self._download = gui.add_checkbox("Download", False)
        self._show.on_update(lambda _: self._act("Show", self._change_show))
        self._depth_map.on_update(lambda _: self._act("Depth colours", self._change_show))
        self._fov.on_update(self._hear_of_zoom)
        shot.on_click(lambda _: self._act("Screenshot not saved", self._take_screenshot))
        home.on_click(lambda _: self._act("View not reset", self._go_home))
        turn.on_click(lambda _: self._act("Look", lambda: self._turn(turn.value)))
        dolly.on_click(lambda _: self._act("Move", lambda: self._dolly(DOLLY[dolly.value])))
        view.on_picture.append(self._describe)

    def _act(self, title: str, action) -> None:
        guarded(self._view.say, title, action)

    def _start_fov_deg(self) -> float:
        return self._shown_fov_deg(self._view.site.start_camera)

    @staticmethod
    def _shown_fov_deg(camera: Camera) -> float:
        """A camera's field of view as the slider can show it."""
        fov_deg = math.degrees(page_from_camera(camera).fov_rad)
        return float(np.clip(round(fov_deg / FOV_STEP_DEG) * FOV_STEP_DEG, *FOV_DEG))

    def _hear_of_zoom(self, event: viser.GuiEvent) -> None:
        if event.client_id is not None:  # else it was put where the camera is, below
            self._act("Zoom", lambda: self._view.zoom(self._wanted_fov_rad()))

    def _wanted_fov_rad(self) -> float:
        return math.radians(within("Zoom (°)", self._fov.value, *FOV_DEG))

    def _describe(self, picture: Picture) -> None:
        self._picture.content = describe_picture(picture)
        if picture.is_final:  # a jump into a photograph brings its field of view
            self._fov.value = self._shown_fov_deg(self._view.camera or picture.camera)
        now = time.monotonic()
        with self._lock:
            if not picture.is_final and now - self._placed_at < SAY_PLACE_EVERY_S:
                return
            self._placed_at = now
        self._place.content = describe_places(picture, self._view.site.frame)

    def _change_show(self) -> None:
        if Show(self._show.value) is Show.CHANGE and not self._view.site.shelf.groups:
            raise ValueError("this viewer was given no photographs to compare with")
        self._view.change_look(self._wanted)

    def _wanted(self) -> dict[str, object]:
        """What is to be shown; its legend is put up, in the turn of the change."""
        show, site = Show(self._show.value), self._view.site
        depth_map = DepthMap(one_of("Depth colours", self._depth_map.value, DEPTH_MAPS))
        html = legend_html(show, site.depth_max_m, len(site.experts.centroids), depth_map)
        self._depth_map.visible = show is Show.DEPTH
        self._legend.content = html
        self._legend.visible = bool(html)
        return {"show": show, "depth_map": depth_map}

    def _take_screenshot(self) -> None:
        folder = self._view.site.folder / "screenshots"
        with self._view.busy("Screenshot", "Rendering at full size …"):
            path = self._view.save_screenshot(folder, SIZES[self._size.value])
        if self._download.value:
            self._view.client.send_file_download(
                path.name, path.read_bytes(), save_immediately=True
            )
        self._view.say("Screenshot saved", f"{path.parent.name}/{path.name}", "green")

    def _go_home(self) -> None:
        start, frame = self._view.site.start_camera, self._view.site.frame
        target = ground_target(start, frame)
        distance = float(np.linalg.norm(target - start.c2w[:, 3]))
        self._view.fly_into(start, distance)

    def _turn(self, where: str) -> None:
        """Look at the same point from above, or towards a compass point."""
        eye, target = self._eye_and_target()
        distance = float(np.linalg.norm(eye - target))
        if where == "Down":
            # A hair off the vertical: the page's orbit has no straight down.
            offset = np.array([-1.0, 0.0, 1e-3])
        else:
            ahead = {"North": (0, -1), "East": (1, 0), "South": (0, 1), "West": (-1, 0)}[where]
            offset = np.array([-SHALLOW, -ahead[0], -ahead[1]])
        offset *= distance / float(np.linalg.norm(offset))
        self._fly(target + offset, target)

    def _dolly(self, factor: float) -> None:
        eye, target = self._eye_and_target()
        self._fly(target + factor * (eye - target), target)

    def _fly(self, eye: np.ndarray, target: np.ndarray) -> None:
        self._flown, self._flown_from = (eye, target), self._view.camera
        self._view.fly_to(eye, target)

    def _eye_and_target(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the camera is, and the point to act about.

        While one stays where a button led, the point stays too: what stands before it from there
        would else draw the view nearer from turn to turn. A button pressed before the page has
        answered the one before goes on from where that one led.
        """
        camera = self._view.camera
        if camera is None:
            raise ValueError("no view yet; move the camera once")
        eye = camera.c2w[:, 3].astype(np.float64)
        if self._flown is not None:
            if camera is self._flown_from:
                return self._flown
            to_target = self._flown[1] - eye
            distance = float(np.linalg.norm(to_target))
            has_stayed = float(np.linalg.norm(eye - self._flown[0])) < STAYED_SHARE * distance
            if has_stayed and -camera.c2w[:, 2] @ to_target > (1.0 - STAYED_SHARE) * distance:
                return self._flown
        target = self._view.point_at(0.5, 0.5)
        if target is None:
            target = ground_target(looking_at(eye, eye - camera.c2w[:, 2], 4, 3, 1.0),
                                   self._view.site.frame)  # fmt: skip
        return eye, np.asarray(target, np.float64)


def describe_picture(picture: Picture) -> str:
    """Return a line about a picture: its size, its time, whether a finer one follows."""
    size = f"{picture.camera.width_px} x {picture.camera.height_px}"
    return f"{size} px, {picture.busy_s:.2f} s{'' if picture.is_final else ', refining …'}"


def describe_places(picture: Picture, frame: SceneFrame) -> str:
    """Return four lines, Markdown: where the camera is and looks, and what its middle shows."""
    camera, depth_m = picture.camera, picture.rendered.depth_m
    eye = camera.c2w[:, 3].astype(np.float64)
    row, column = depth_m.shape[0] // 2, depth_m.shape[1] // 2
    distance_m = float(depth_m[row, column])
    middle = NOTHING_MET
    if np.isfinite(distance_m):
        ahead = -camera.c2w[:, 2].astype(np.float64)
        centre = eye + distance_m / frame.pose_scale_factor_m * ahead
        middle = f"**Middle** {place_text(centre, frame)}", f"{distance_m:.1f} m away"
    lines = (f"**Camera** {place_text(eye, frame)}", f"looks {heading_of(camera, frame)}", *middle)
    return LINE_END.join(lines)
