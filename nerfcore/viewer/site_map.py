"""Owns the small map: the site from above, north up, with cameras, footprint and view direction.

Map pixels: x to the east, y to the south, square, `MAP_PX` a side, over the scene's box.
"""

import logging
import threading
from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from nerfcore.geometry.aiming import looking_at
from nerfcore.geometry.camera import Camera
from nerfcore.viewer.colours import nice_ceiling, to_bytes
from nerfcore.viewer.poses import ground_height
from nerfcore.viewer.reasons import reason_of
from nerfcore.viewer.sharing import SharedScene
from nerfcore.viewer.site import Site

MAP_PX: Final = 384
HEIGHT_FACTOR: Final = 6.0
EMPTY_RGB: Final = (36, 40, 46)
FIRST_RGB: Final = (76, 155, 255)
LATER_RGB: Final = (255, 150, 40)
VIEW_RGB: Final = (255, 235, 60)
_SUBPIXEL_BITS: Final = 4

_log = logging.getLogger(__name__)


class SiteMap:
    """The map of one site: drawn once from the model, marked anew for each view.

    Args:
        scene: rendered from above for the background, in the background.
        site: the place.
        on_drawn: called when the background is another.
    """

    def __init__(self, scene: SharedScene, site: Site, on_drawn: Callable[[], None]) -> None:
        self._scene = scene
        self._on_drawn = on_drawn
        self._site = site
        low, high = site.experts.aabb[:, 1:].astype(np.float64)
        self._middle = 0.5 * (low + high)
        self._half = 0.52 * float((high - low).max())
        self._plain = self._with_cameras(np.full((MAP_PX, MAP_PX, 3), EMPTY_RGB, np.uint8))
        self._is_closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_wanted = self._is_drawing = False
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Draw the background anew, because the model is another; returns at once."""
        with self._lock:
            self._is_wanted = True
            if self._is_drawing:
                return
            self._is_drawing = True
            self._thread = threading.Thread(target=self._draw, name="site-map", daemon=True)
            self._thread.start()

    def refresh_once(self) -> None:
        """Draw the background if it was never drawn; returns at once."""
        if self._thread is None:
            self.refresh()

    def close(self, timeout_s: float) -> bool:
        """End the drawing; False when it does not end in time."""
        self._is_closed.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        return thread is None or not thread.is_alive()

    def picture(self, camera: Camera | None) -> NDArray[np.uint8]:
        """Return the map with a view on it, u8[MAP_PX, MAP_PX, 3] RGB."""
        drawn = self._plain.copy()
        if camera is not None:
            self._mark_view(drawn, camera)
        self._mark_scale(drawn)
        return drawn

    def pixels(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return world points [N, 3] as map pixels f64[N, 2]."""
        offsets = (np.asarray(points, np.float64)[:, 1:] - self._middle) / self._half
        return 0.5 * MAP_PX * (1.0 + offsets)

    def _draw(self) -> None:
        """Draw until nobody has wanted it since: what was under way may show the model before."""
        while True:
            with self._lock:
                if not self._is_wanted or self._is_closed.is_set():
                    self._is_drawing = False
                    return
                self._is_wanted = False
            self._draw_once()

    def _draw_once(self) -> None:
        """Render the site from above, from so far that walls hardly show."""
        height = HEIGHT_FACTOR * self._half
        bottom = self._scene.experts.aabb[1, 0]
        target = np.array([bottom, *self._middle])
        fov_rad = 2.0 * float(np.arctan(self._half / height))
        camera = looking_at(target - [height, 0, 0], target, MAP_PX, MAP_PX, fov_rad)
        try:
            shot = self._scene.render(camera, self._is_closed.is_set)
        except Exception as error:  # noqa: BLE001 - without a background the map is still a map
            _log.warning("the map has no background: %s", reason_of(error))
            return
        if shot is not None:
            rgb = to_bytes(shot.rendered.rgb)
            rgb[~np.isfinite(shot.rendered.depth_m)] = EMPTY_RGB
            self._plain = self._with_cameras(rgb)
            self._on_drawn()

    def _with_cameras(self, drawn: NDArray[np.uint8]) -> NDArray[np.uint8]:
        for group in self._site.shelf.groups:
            rgb = LATER_RGB if group.is_later else FIRST_RGB
            for spot in self._fixed(self.pixels(group.images.c2w[:, :, 3])):
                cv2.circle(drawn, spot, 3 << _SUBPIXEL_BITS, rgb, -1, cv2.LINE_AA, _SUBPIXEL_BITS)
        return drawn

    def _mark_view(self, drawn: NDArray[np.uint8], camera: Camera) -> None:
        eye = camera.c2w[:, 3].astype(np.float64)
        outline = self._fixed(self.pixels(self._footprint(camera)))
        shaded = drawn.copy()
        cv2.fillPoly(shaded, [np.array(outline)], VIEW_RGB, cv2.LINE_AA, _SUBPIXEL_BITS)
        drawn[:] = cv2.addWeighted(shaded, 0.3, drawn, 0.7, 0.0)
        cv2.polylines(drawn, [np.array(outline)], True, VIEW_RGB, 1, cv2.LINE_AA, _SUBPIXEL_BITS)
        start = self.pixels(eye[None])[0]
        ahead = -camera.c2w[1:, 2].astype(np.float64)
        length = float(np.linalg.norm(ahead))
        if length > 0.05:
            tip = start + 26.0 * ahead / length
            spots = self._fixed(np.stack([start, tip]))
            cv2.arrowedLine(
                drawn, spots[0], spots[1], VIEW_RGB, 2, cv2.LINE_AA, _SUBPIXEL_BITS, 0.35
            )
        cv2.circle(
            drawn, self._fixed(start[None])[0], 5 << _SUBPIXEL_BITS, VIEW_RGB, -1, cv2.LINE_AA,
            _SUBPIXEL_BITS,
        )  # fmt: skip

    def _footprint(self, camera: Camera) -> NDArray[np.float64]:
        """World points where the view's corners meet the ground, or far away above the horizon."""
        x, y = 0.5 * camera.width_px / camera.fx, 0.5 * camera.height_px / camera.fy
        local = np.array([[-x, y, -1.0], [x, y, -1.0], [x, -y, -1.0], [-x, -y, -1.0]])
        directions = local @ camera.c2w[:, :3].astype(np.float64).T
        eye = camera.c2w[:, 3].astype(np.float64)
        ground = ground_height(self._site.frame)
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = (ground - eye[0]) / directions[:, 0]
        level = np.maximum(np.linalg.norm(directions[:, 1:], axis=1), 1e-9)
        farthest = 4.0 * self._half / level
        reach = np.where((reach > 0) & np.isfinite(reach), np.minimum(reach, farthest), farthest)
        return eye + reach[:, None] * directions

    def _mark_scale(self, drawn: NDArray[np.uint8]) -> None:
        metres_a_pixel = 2.0 * self._half * self._site.frame.pose_scale_factor_m / MAP_PX
        length_m = nice_ceiling(0.18 * MAP_PX * metres_a_pixel)
        right, base = round(10 + length_m / metres_a_pixel), MAP_PX - 12
        for colour, width in (((0, 0, 0), 4), ((255, 255, 255), 2)):
            cv2.line(drawn, (10, base), (right, base), colour, width, cv2.LINE_AA)
            _write(drawn, f"{length_m:g} m", (10, base - 8), colour, width)
            _write(drawn, "N", (MAP_PX - 22, 34), colour, width)
            cv2.arrowedLine(
                drawn, (MAP_PX - 17, 20), (MAP_PX - 17, 5), colour, width, cv2.LINE_AA, 0, 0.5
            )

    @staticmethod
    def _fixed(pixels: NDArray[np.float64]) -> list[tuple[int, int]]:
        """Pixels as OpenCV's fixed-point coordinates, held within what it can draw."""
        held = np.clip(pixels, -8.0 * MAP_PX, 9.0 * MAP_PX)
        return [
            (round(float(x) * (1 << _SUBPIXEL_BITS)), round(float(y) * (1 << _SUBPIXEL_BITS)))
            for x, y in held
        ]


def _write(
    drawn: NDArray[np.uint8],
    text: str,
    spot: tuple[int, int],
    rgb: tuple[int, int, int],
    width: int,
) -> None:
    cv2.putText(drawn, text, spot, cv2.FONT_HERSHEY_SIMPLEX, 0.5, rgb, width - 1, cv2.LINE_AA)
