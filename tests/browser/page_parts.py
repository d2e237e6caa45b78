"""What page tests share: the opened page, its tabs and controls, the part of it without panels."""

from typing import Any

import numpy as np
from boxes_scene import make_frame, painted
from chromium import shot
from running_viewer import RunningViewer, until
from wire import difference

from nerfcore.data.records import SceneFrame
from nerfcore.geometry.camera import Camera
from nerfcore.geometry.frames import project
from nerfcore.viewer import overview_camera
from nerfcore.viewer.colours import Show

BOXES_FRAME = make_frame()
CANVAS_PX = (1000, 700)
DEPTH_MAX_M = 300.0
PANEL_LEFT_PX = 600


def open_page(browser: Any, url: str) -> Any:
    """Open the viewer in a window of its own and wait for its panels."""
    context = browser.new_context(
        viewport={"width": CANVAS_PX[0], "height": CANVAS_PX[1]}, device_scale_factor=1
    )
    page = context.new_page()
    page.goto(url)
    page.get_by_role("tab", name="View").wait_for(timeout=30_000)
    return page


def tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def choose(page: Any, label: str, what: str) -> None:
    """Choose an option of the visible dropdown beside a label."""
    page.get_by_label(label, exact=True).locator("visible=true").last.click()
    page.get_by_role("option", name=what, exact=True).click()


def scene_part(picture: np.ndarray) -> np.ndarray:
    """Cut out a part of the canvas that no panel and no message covers."""
    return picture[200:, 20:560]


def start_view() -> Camera:
    """The view a visit starts with, at the canvas's size."""
    return overview_camera(BOXES_FRAME, None, *CANVAS_PX)


def truth(viewer: RunningViewer, show: Show = Show.RGB) -> np.ndarray:
    """Render the start view at the canvas's size."""
    return painted(viewer.scene.copy().seen_by(start_view()), show, DEPTH_MAX_M)


def wait_for_scene(
    page: Any, viewer: RunningViewer, name: str, show: Show = Show.RGB, tolerance: float = 8.0
) -> None:
    """Wait until the canvas shows the start view; edges differ, as it is drawn smaller."""
    expected = scene_part(truth(viewer, show))
    until(
        lambda: difference(scene_part(shot(page, name)), expected) < tolerance,
        f"{name}: the page shows the scene",
    )


def spot_of(point_enu_m: tuple[float, float, float], frame: SceneFrame) -> tuple[float, float]:
    """Where the start view shows a place, in px of the canvas."""
    camera = start_view()
    intrinsics = np.array([camera.fx, camera.fy, camera.cx, camera.cy])
    pixels, depths = project(frame.enu_m_to_world([point_enu_m]), camera.c2w, intrinsics)
    assert depths[0] > 0
    return float(pixels[0, 0]), float(pixels[0, 1])
