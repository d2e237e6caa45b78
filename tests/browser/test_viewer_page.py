"""A person's path through the viewer's page in headless Chromium."""

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from boxes_scene import BoxesAdapting, BoxesScene, BoxesVersions, boxes_photographs
from chromium import launched_chromium, shot
from page_parts import (
    CANVAS_PX,
    choose,
    open_page,
    scene_part,
    spot_of,
    start_view,
    tab,
    truth,
    wait_for_scene,
)
from running_viewer import RunningViewer, running_viewer, until
from wire import difference

from nerfcore.viewer import EndReason, ViewEnd
from nerfcore.viewer.colours import Show
from nerfcore.viewer.screenshots import read_view

pytestmark = pytest.mark.filterwarnings("ignore:Queued a .* on a closed connection")


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium; without it the tests fail in CI and are skipped elsewhere."""
    with launched_chromium() as launched:
        yield launched


@pytest.fixture
def viewer(tmp_path) -> Iterator[RunningViewer]:
    scene = BoxesScene()
    photographs = boxes_photographs(tmp_path, scene)
    with running_viewer(tmp_path, scene=scene, max_side_px=600, photographs=photographs) as running:
        yield running


@pytest.fixture
def page(browser, viewer):
    opened = open_page(browser, viewer.url)
    yield opened
    opened.context.close()


def test_a_person_opens_drags_changes_to_depth_and_takes_a_screenshot(page, viewer):
    wait_for_scene(page, viewer, "1-open")
    before = scene_part(shot(page, "1-open"))
    assert page.get_by_text(re.compile(r"46\.99\d+° N, 8\.000000° E")).first.is_visible()

    choose(page, "Show", "Depth")
    wait_for_scene(page, viewer, "2-depth", Show.DEPTH)
    assert page.get_by_text("300 m").is_visible(), "the legend states metres"
    choose(page, "Show", "RGB")
    wait_for_scene(page, viewer, "3-back")

    page.mouse.move(300, 400)
    page.mouse.down()
    page.mouse.move(450, 380, steps=8)
    page.mouse.up()
    until(
        lambda: difference(scene_part(shot(page, "4-dragged")), before) > 20.0,
        "dragging changed the view",
    )

    page.get_by_role("button", name="Screenshot", exact=True).click()
    folder = viewer.folder / "screenshots"
    until(lambda: folder.is_dir() and list(folder.glob("*.png")), "a screenshot was written")
    page.get_by_text("Screenshot saved").wait_for(timeout=10_000)
    (path,) = folder.glob("*.png")
    view = read_view(path)
    assert view is not None and view["width_px"] == 600
    assert view["position_geo"]["lat_deg"] == pytest.approx(47.0, abs=0.01)
    assert cv2.imread(str(path)) is not None
    eye = np.array(view["c2w"])[:, 3]
    assert np.linalg.norm(eye - start_view().c2w[:, 3]) > 0.1, "the dragged view is the one written"
    right = np.array(view["c2w"])[:, 0]
    assert abs(right[0]) < 1e-3, "the horizon stays level: dragging turns about the vertical"

    page.get_by_role("button", name="Reset view").click()
    wait_for_scene(page, viewer, "5-reset")


def until_seen(texts: Any, number: int) -> bool:
    """Wait for a text that is this number alone; False when it does not come in time."""
    with contextlib.suppress(AssertionError):
        until(lambda: str(number) in texts.all_inner_texts(), f"point {number}", 10.0)
        return True
    return False


def test_two_picked_points_tell_their_distance(page, viewer):
    """Two places near the low roof's corners, 27 m apart at the same height of 12 m."""
    wait_for_scene(page, viewer, "6-before-picking")
    tab(page, "Map")
    page.locator("input[type=checkbox]:visible").first.click()
    page.get_by_text("Click in the picture").wait_for(timeout=10_000)
    corners = [(-31.0, 12.0, 12.0), (-58.0, 12.0, 12.0)]
    for number, corner in enumerate(corners, start=1):
        spot, said = spot_of(corner, viewer.scene.frame), page.locator("strong:visible")
        page.mouse.move(spot[0] - 3, spot[1])
        page.mouse.click(*spot, delay=50)
        # A busy browser may still be drawing when it is clicked, as a person's may.
        if not until_seen(said, number):
            page.mouse.click(*spot, delay=50)
            assert until_seen(said, number), f"point {number} was not taken"
    shot(page, "7-picked")
    said = page.get_by_text(re.compile(r"→ [\d.]+ m \(")).inner_text()
    found = re.search(r"→ ([\d.]+) m \(([\d.]+) m level, ([\d.]+) m", said)
    assert found is not None
    wanted = 27.0
    assert float(found[1]) == pytest.approx(wanted, rel=0.02), said


def test_going_to_coordinates_and_the_map(page, viewer):
    wait_for_scene(page, viewer, "8-before-going")
    tab(page, "Map")
    field = page.locator("label", has_text="Go to").locator("xpath=ancestor::div[2]//input")
    for text, said in (("nowhere", "is no place"), ("10, 10", "km away")):
        field.fill(text)
        page.get_by_role("button", name="Go there").click()
        page.get_by_text(said).wait_for(timeout=10_000)
    before = scene_part(shot(page, "8-before-going"))
    field.fill("46.9995, 8.0005")
    page.get_by_role("button", name="Go there").click()
    until(
        lambda: difference(scene_part(shot(page, "9-gone")), before) > 10.0,
        "the camera went there",
    )
    tab(page, "View")
    until(
        lambda: re.search(
            r"Middle 46\.999[45]\d* ?° N, 8\.000[45]\d* ?° E",
            page.locator("p:visible", has_text="Middle").inner_text(),
        ),
        "the middle of the view is the place",
    )


def test_a_photograph_is_jumped_into_and_compared(page, viewer):
    wait_for_scene(page, viewer, "10-before-photos")
    tab(page, "Photos")
    page.locator("input[type=checkbox]:visible").first.click()
    choose(page, "Flight", "batch_0001")
    page.get_by_role("button", name="Jump there").click()
    choose(page, "Compare with", "Photograph, blend")
    slider = page.get_by_role("slider").last
    slider.focus()
    slider.press("End")

    def tower_is_blue() -> bool:
        red, _, blue = shot(page, "11-compared")[250:300, 480:520].mean(axis=(0, 1))
        return blue > 100 > red

    until(tower_is_blue, "the later photograph, with its blue tower, lies over the render")


def test_the_change_map_marks_the_tower_and_nothing_else(page, viewer):
    wait_for_scene(page, viewer, "12-before-change")
    choose(page, "Show", "Change")

    def tower_is_marked() -> bool:
        picture = shot(page, "13-change").astype(int)
        x, y = (int(v) for v in spot_of((0.0, 0.0, 45.0), viewer.scene.frame))
        red, _, blue = picture[y - 5 : y + 5, x - 5 : x + 5].mean(axis=(0, 1))
        gx, gy = (int(v) for v in spot_of((0.0, -40.0, 0.0), viewer.scene.frame))
        ground = picture[gy - 5 : gy + 5, gx - 5 : gx + 5].mean(axis=(0, 1))
        return red > 120 and red > blue + 60 and float(np.ptp(ground)) < 20

    until(tower_is_marked, "the tower is red, the ground in front of it grey")


def test_live_adaptation_changes_what_is_seen_and_the_button_ends_the_viewer(page, viewer):
    wait_for_scene(page, viewer, "14-before")
    tab(page, "Adapt")
    page.get_by_role("button", name="Start adaptation").click()
    page.locator("strong", has_text="running").wait_for(timeout=10_000)
    x, y = (int(v) for v in spot_of((0.0, 0.0, 45.0), viewer.scene.frame))

    def tower_is(is_blue: bool) -> bool:
        red, _, blue = shot(page, "15-adapted")[y - 8 : y + 8, x - 8 : x + 8].mean(axis=(0, 1))
        return (blue > 150 > red) == is_blue

    until(lambda: tower_is(True), "the tower changed in the page")
    page.get_by_role("button", name="Pause").click()
    page.locator("strong", has_text="paused").wait_for(timeout=10_000)
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("button", name="Stop adaptation").click()
    page.locator("strong", has_text="idle").wait_for(timeout=10_000)
    assert page.locator("canvas").count() > 1, "loss and PSNR are plotted"
    page.get_by_role("button", name="Save checkpoint").click()
    page.get_by_text("Checkpoint saved").wait_for(timeout=10_000)
    assert len(list((viewer.folder / "checkpoints").iterdir())) == 1
    page.get_by_role("button", name="Reset adaptation").click()
    until(lambda: tower_is(False), "the tower is red again")

    tab(page, "Job")
    page.get_by_role("button", name="End viewer").click()
    assert viewer.wait_for_end() == ViewEnd(EndReason.BUTTON)
    shot(page, "16-ended")
    assert page.get_by_text("Ended with the End button.").is_visible()


def test_a_film_is_rendered_from_a_preset_and_plays_in_the_browser(page, viewer):
    wait_for_scene(page, viewer, "17-before-film")
    tab(page, "Video")
    page.get_by_role("button", name="Use preset").click()
    page.get_by_text(re.compile(r"12 key frames, 18\.0 s, 432 pictures")).wait_for(timeout=10_000)
    page.get_by_role("button", name="Clear").click()
    page.get_by_text("0 key frames").wait_for(timeout=10_000)
    page.get_by_role("button", name="Add this view").click()
    page.get_by_text("1 key frame;").wait_for(timeout=10_000)
    page.get_by_role("button", name="Add this view").click()
    page.get_by_text(re.compile(r"2 key frames, 3\.0 s, 72 pictures")).wait_for(timeout=10_000)
    choose(page, "Size", "320 x 180")
    page.get_by_role("button", name="Render MP4").click()
    page.get_by_text("Film rendered").first.wait_for(timeout=60_000)
    shot(page, "18-film")
    (film,) = (viewer.folder / "videos").glob("*.mp4")
    assert json.loads(film.with_suffix(".json").read_text())["format_version"] == 1

    player = page.context.new_page()
    (film.parent / "player.html").write_text(f'<video src="{film.name}" muted></video>')
    player.goto((film.parent / "player.html").as_uri())
    seconds = player.evaluate(
        """async () => {
            const video = document.querySelector("video");
            await video.play();
            await new Promise(done => { video.onended = done; });
            return [video.duration, video.videoWidth, video.error];
        }"""
    )
    assert seconds[0] == pytest.approx(3.0, abs=0.1) and seconds[1:] == [320, None]


def test_a_render_error_shows_in_the_page_and_the_next_view_comes(browser, viewer):
    viewer.scene.fail_next = 1
    context = browser.new_context(viewport={"width": CANVAS_PX[0], "height": CANVAS_PX[1]})
    try:
        page = context.new_page()
        page.goto(viewer.url)
        page.get_by_text("the boxes fell over").first.wait_for(timeout=30_000)
        shot(page, "19-error")
        page.mouse.move(300, 400)
        page.mouse.down()
        page.mouse.move(310, 400, steps=3)
        page.mouse.up()
        until(lambda: scene_part(shot(page, "20-after")).std() > 25.0, "the scene came back")
    finally:
        context.close()


def test_the_token_is_asked_for_once(browser, tmp_path):
    with running_viewer(tmp_path, token="let-me-in-please") as viewer:
        context = browser.new_context(viewport={"width": CANVAS_PX[0], "height": CANVAS_PX[1]})
        try:
            page = context.new_page()
            page.goto(viewer.url)
            field = page.get_by_label("This viewer asks for its access token.")
            field.fill("wrong-wrong")
            field.press("Enter")
            page.get_by_text("That is not the token.").wait_for(timeout=10_000)
            shot(page, "21-token")
            field.fill("let-me-in-please")
            field.press("Enter")
            page.get_by_role("tab", name="View").wait_for(timeout=30_000)
            assert "let-me-in" not in page.url
            page.reload()
            page.get_by_role("tab", name="View").wait_for(timeout=30_000)
        finally:
            context.close()


def test_two_people_see_their_own_views_at_once(browser, viewer, page):
    wait_for_scene(page, viewer, "22-first")
    other = open_page(browser, viewer.url)
    try:
        wait_for_scene(other, viewer, "23-second")
        other.mouse.move(300, 400)
        other.mouse.down()
        other.mouse.move(480, 380, steps=8)
        other.mouse.up()
        expected = scene_part(truth(viewer))
        until(
            lambda: difference(scene_part(shot(other, "23-second")), expected) > 20.0,
            "the second person's view moved",
        )
        wait_for_scene(page, viewer, "22-first")
    finally:
        other.context.close()


def test_another_version_is_loaded_and_one_that_vanished_is_said(browser, tmp_path):
    scene = BoxesScene()
    versions = BoxesVersions(scene)
    with running_viewer(
        tmp_path, scene=scene, adapting=BoxesAdapting(scene), versions=versions
    ) as viewer:
        page = open_page(browser, viewer.url)
        try:
            tab(page, "Adapt")
            choose(page, "Version", "step200")
            versions.fault = FileNotFoundError("manifest.json: missing; choose another version")
            page.get_by_role("button", name="Load version").click()
            page.get_by_text("choose another version").wait_for(timeout=10_000)
            page.get_by_role("button", name="Load version").click()
            page.get_by_text("Another version is shown").wait_for(timeout=10_000)
            np.testing.assert_allclose(scene.tower_rgb, BoxesVersions.COLOURS["step200"])
        finally:
            page.context.close()
