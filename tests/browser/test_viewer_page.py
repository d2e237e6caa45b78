"""A person's path through the viewer's page in headless Chromium."""

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from chromium import launched_chromium, shot
from running_viewer import RunningViewer, running_viewer, until
from wire import difference

from nerfcore.viewer import EndReason, ViewEnd, overview_camera
from nerfcore.viewer.colours import Show, paint
from nerfcore.viewer.screenshots import read_view

CANVAS_PX = (900, 600)
DEPTH_MAX_M = 300.0
pytestmark = pytest.mark.filterwarnings("ignore:Queued a .* on a closed connection")


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium; without it the tests fail in CI and are skipped elsewhere."""
    with launched_chromium() as launched:
        yield launched


@pytest.fixture
def viewer(tmp_path) -> Iterator[RunningViewer]:
    with running_viewer(tmp_path, max_side_px=600) as running:
        yield running


@pytest.fixture
def page(browser, viewer):
    context = browser.new_context(
        viewport={"width": CANVAS_PX[0], "height": CANVAS_PX[1]}, device_scale_factor=1
    )
    opened = context.new_page()
    opened.goto(viewer.url)
    opened.get_by_role("button", name="End viewer").wait_for(timeout=30_000)
    yield opened
    context.close()


def scene_part(picture: np.ndarray) -> np.ndarray:
    """Cut out a part of the canvas that no panel and no message covers."""
    return picture[150:, 20:560]


def truth(viewer: RunningViewer, show: Show = Show.RGB) -> np.ndarray:
    """Render the start view at the canvas's size."""
    camera = overview_camera(viewer.scene.frame, None, *CANVAS_PX)
    rendered = viewer.scene.render(camera)
    assert rendered is not None
    return paint(rendered, show, DEPTH_MAX_M)


def wait_for_scene(page, viewer, name: str, show: Show = Show.RGB, tolerance: float = 8.0) -> None:
    """Wait until the canvas shows the start view; edges differ, as it is drawn at 600 px."""
    expected = scene_part(truth(viewer, show))
    until(
        lambda: difference(scene_part(shot(page, name)), expected) < tolerance,
        f"{name}: the page shows the scene",
    )


def choose(page, what: str) -> None:
    page.locator("input.mantine-Select-input:visible").first.click()
    page.get_by_role("option", name=what, exact=True).click()


def test_a_person_opens_drags_changes_to_depth_and_takes_a_screenshot(page, viewer):
    wait_for_scene(page, viewer, "1-open")
    before = scene_part(shot(page, "1-open"))

    choose(page, "Depth")
    wait_for_scene(page, viewer, "2-depth", Show.DEPTH)
    assert page.get_by_text("300 m").is_visible(), "the legend states metres"
    choose(page, "RGB")
    wait_for_scene(page, viewer, "3-back")

    page.mouse.move(300, 400)
    page.mouse.down()
    page.mouse.move(450, 380, steps=8)
    page.mouse.up()
    until(
        lambda: difference(scene_part(shot(page, "4-dragged")), before) > 20.0,
        "dragging changed the view",
    )

    page.get_by_role("button", name="Screenshot").click()
    folder = viewer.folder / "screenshots"
    until(lambda: folder.is_dir() and list(folder.glob("*.png")), "a screenshot was written")
    page.get_by_text("Screenshot saved").wait_for(timeout=10_000)
    (path,) = folder.glob("*.png")
    view = read_view(path)
    assert view is not None and view["width_px"] == 600
    assert cv2.imread(str(path)) is not None
    eye = np.array(view["c2w"])[:, 3]
    start = overview_camera(viewer.scene.frame, None).c2w[:, 3]
    assert np.linalg.norm(eye - start) > 0.1, "the dragged view is the one written"
    right = np.array(view["c2w"])[:, 0]
    assert abs(right[0]) < 1e-3, "the horizon stays level: dragging turns about the vertical"


def test_live_adaptation_changes_what_is_seen_and_the_button_ends_the_viewer(page, viewer):
    wait_for_scene(page, viewer, "5-before")
    page.get_by_role("button", name="Start adaptation").click()
    page.locator("strong", has_text="running").wait_for(timeout=10_000)

    def tower_is_blue() -> bool:
        red, _, blue = shot(page, "6-adapted")[70:80, 420:480].mean(axis=(0, 1))
        return blue > 150 > red

    until(tower_is_blue, "the tower changed in the page")
    page.get_by_role("button", name="Stop adaptation").click()
    page.locator("strong", has_text="idle").wait_for(timeout=10_000)
    page.get_by_role("button", name="Save checkpoint").click()
    page.get_by_text("Checkpoint saved").wait_for(timeout=10_000)
    assert len(list((viewer.folder / "checkpoints").iterdir())) == 1

    page.get_by_role("button", name="End viewer").click()
    assert viewer.wait_for_end() == ViewEnd(EndReason.BUTTON)
    shot(page, "7-ended")
    assert page.get_by_text("Ended with the End button.").is_visible()


def test_a_render_error_shows_in_the_page_and_the_next_view_comes(browser, viewer):
    viewer.scene.fail_next = 1
    context = browser.new_context(viewport={"width": CANVAS_PX[0], "height": CANVAS_PX[1]})
    try:
        page = context.new_page()
        page.goto(viewer.url)
        page.get_by_text("the boxes fell over").first.wait_for(timeout=30_000)
        shot(page, "8-error")
        page.mouse.move(300, 400)
        page.mouse.down()
        page.mouse.move(310, 400, steps=3)
        page.mouse.up()
        until(lambda: scene_part(shot(page, "9-after")).std() > 25.0, "the scene came back")
    finally:
        context.close()
