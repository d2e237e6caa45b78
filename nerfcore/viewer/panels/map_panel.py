"""Owns the map panel: where one is, going to coordinates, picking points and their distance."""

import threading
import time
from typing import Final

import numpy as np
import viser
from numpy.typing import NDArray

from nerfcore.viewer.client_view import ClientView
from nerfcore.viewer.picking import Distance
from nerfcore.viewer.places import BadPlaceError, parse_place, place_text
from nerfcore.viewer.poses import page_from_world
from nerfcore.viewer.queue import Picture
from nerfcore.viewer.reasons import guarded
from nerfcore.viewer.site_map import MAP_PX, SiteMap

DRAW_EVERY_S: Final = 0.4
MOST_POINTS: Final = 12
POINT_RGB: Final = (255, 40, 120)
BALL_SHARE: Final = 0.004  # of the distance from which it was picked
FARTHEST_SITES: Final = 3.0


class MapPanel:
    """One client's map, go-to and measuring.

    Args:
        view: acted on.
        site_map: drawn.
    """

    def __init__(self, view: ClientView, site_map: SiteMap) -> None:
        self._view = view
        self._map = site_map
        self._drawn_at = 0.0
        self._points: list[NDArray[np.float64]] = []
        self._nodes: list[viser.SceneNodeHandle] = []
        self._lock = threading.Lock()
        self._picking = None
        gui, is_geo = view.client.gui, view.site.frame.enu_ref is not None
        self._image = gui.add_image(site_map.picture(None), format="jpeg", jpeg_quality=85)
        gui.add_markdown("Blue: the model's photographs. Orange: later flights. Yellow: your view.")
        self._where = gui.add_text(
            "Go to",
            "",
            hint="latitude, longitude[, height], e.g. 47.3769, 8.5417"
            if is_geo
            else "east, north[, up] in metres",
        )
        go = gui.add_button("Go there", icon=viser.Icon.MAP_PIN)
        self._pick = gui.add_checkbox(
            "Pick points", False, hint="Then click in the picture: place, and distance to the last"
        )
        clear = gui.add_button("Clear points", icon=viser.Icon.ERASER)
        # Last, as it grows with every point: what lies below it would move.
        self._said = gui.add_markdown("")
        go.on_click(lambda _: guarded(view.say, "Not gone there", self._go))
        self._pick.on_update(lambda _: guarded(view.say, "Pick points", self._listen))
        clear.on_click(lambda _: guarded(view.say, "Clear points", self.clear))
        view.on_picture.append(self._draw)

    def redraw(self) -> None:
        """Show the map anew, because its background is another."""
        picture = self._map.picture(self._view.camera)
        self._view.update_panel(lambda: self._show(picture))

    def _show(self, picture: NDArray[np.uint8]) -> None:
        self._image.image = picture

    def _draw(self, picture: Picture) -> None:
        if picture.is_final:
            self._map.refresh_once()
        now = time.monotonic()
        if not picture.is_final and now - self._drawn_at < DRAW_EVERY_S:
            return
        self._drawn_at = now
        self._image.image = self._map.picture(picture.camera)

    def _go(self) -> None:
        """Look at the place as the camera looks at the middle of its view now."""
        site = self._view.site
        target = parse_place(self._where.value, site.frame, site.ground_up_m)
        pixel = self._map.pixels(target[None])[0] / MAP_PX - 0.5
        if np.abs(pixel).max() > FARTHEST_SITES:
            away_m = float(np.linalg.norm(target)) * site.frame.pose_scale_factor_m
            raise BadPlaceError(
                f"{self._where.value.strip()[:60]!r} is {away_m / 1000:.1f} km away"
            )
        camera = self._view.camera
        if camera is None:
            raise BadPlaceError("no view yet; move the camera once")
        eye = camera.c2w[:, 3].astype(np.float64)
        middle = self._view.point_at(0.5, 0.5)
        offset = np.array([-1.0, 0.0, 1.0]) if middle is None else eye - middle
        self._view.fly_to(target + offset, target)

    def _listen(self) -> None:
        scene = self._view.client.scene
        if not self._pick.value:
            if self._picking is not None:
                scene.remove_click_callback(self._picking)
                self._picking = None
            return
        if self._picking is None:

            def pick(event: viser.SceneClickEvent) -> None:
                guarded(self._view.say, "No point there", lambda: self._add(*event.screen_pos))

            self._picking = pick
            scene.on_click()(pick)
        self._said.content = "Click in the picture."

    def _add(self, across: float, down: float) -> None:
        point = self._view.point_at(across, down)
        if point is None:
            raise BadPlaceError("only sky is seen there")
        with self._lock:
            self._points.append(point)
            if len(self._points) > MOST_POINTS:
                self._remove_nodes()
                self._points = [point]
            self._mark(point)
            self._say_points()
        self._view.client.flush()

    def _mark(self, point: NDArray[np.float64]) -> None:
        scene, number = self._view.client.scene, len(self._points)
        frame = self._view.site.frame
        camera = self._view.camera
        assert camera is not None
        reach = float(np.linalg.norm(point - camera.c2w[:, 3]))
        spot = page_from_world(point)
        self._nodes.append(
            scene.add_icosphere(
                f"/points/{number}", BALL_SHARE * reach, POINT_RGB, position=spot,
                cast_shadow=False, receive_shadow=False,
            )
        )  # fmt: skip
        text = f"{number}"
        if number > 1:
            last = self._points[-2]
            text = f"{number}: {Distance.between(last, point, frame).straight_m:.1f} m"
            ends = np.stack([page_from_world(last), spot])[None].astype(np.float32)
            self._nodes.append(
                scene.add_line_segments(
                    f"/points/line{number}", ends, POINT_RGB, thickness=3.0,
                    thickness_units="screen",
                )
            )  # fmt: skip
        self._nodes.append(
            scene.add_label(f"/points/label{number}", text, position=spot, anchor="bottom-left")
        )

    def _say_points(self) -> None:
        frame, lines = self._view.site.frame, []
        for number, point in enumerate(self._points, start=1):
            lines.append(f"**{number}** {place_text(point, frame)}")
            if number > 1:
                lines.append(f"→ {Distance.between(self._points[number - 2], point, frame)}")
        self._said.content = "  \n".join(lines)

    def clear(self) -> None:
        """Forget all points."""
        with self._lock:
            self._points.clear()
            self._remove_nodes()
        self._said.content = ""

    def _remove_nodes(self) -> None:
        for node in self._nodes:
            node.remove()
        self._nodes.clear()
