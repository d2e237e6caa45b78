"""What is clicked in the viewer's page stays where it is while the text around it changes."""

import re
from typing import Any

import pytest
from chromium import launched_chromium
from page_parts import CANVAS_PX, choose, open_page, tab
from running_viewer import running_viewer, until

PLACES = re.compile(r"^Camera\b.*\nlooks .*\nMiddle .*\n.*$")
VIEW_BUTTONS = ("Screenshot", "Reset view", "Down", "Away")
ADAPT_BUTTONS = ("Start adaptation", "Stop adaptation", "Reset adaptation", "Save checkpoint")


pytestmark = pytest.mark.filterwarnings("ignore:Queued a .* on a closed connection")


@pytest.fixture(scope="module")
def browser():
    with launched_chromium() as launched:
        yield launched


@pytest.fixture
def page(browser, tmp_path):
    with running_viewer(tmp_path) as viewer:
        page = open_page(browser, viewer.url)
        yield page
        page.context.close()


def tops(page: Any, names: tuple[str, ...]) -> list[float]:
    """Give where buttons stand, px from the window's top."""
    boxes = [page.get_by_role("button", name=n, exact=True).bounding_box() for n in names]
    return [box["y"] for box in boxes]


def drag(page: Any, down_px: int, button: str) -> None:
    """Draw the picture downwards: the left button turns about the middle, the right one shifts."""
    page.mouse.move(300, 350)
    page.mouse.down(button=button)
    page.mouse.move(300, 350 + down_px, steps=8)
    page.mouse.up(button=button)


def test_the_view_s_buttons_stay_between_ground_sky_and_legend(page):
    text = page.locator("p:visible", has_text="Camera")
    assert PLACES.match(text.inner_text()), text.inner_text()
    before = tops(page, VIEW_BUTTONS)
    until(lambda: "m away" in text.inner_text(), "the middle shows the ground")
    assert tops(page, VIEW_BUTTONS) == before
    drag(page, -70, "left")
    drag(page, 320, "right")
    until(lambda: "nothing is met" in text.inner_text(), "the middle shows the sky")
    assert PLACES.match(text.inner_text()), text.inner_text()
    assert tops(page, VIEW_BUTTONS) == before
    choose(page, "Show", "Depth")
    page.get_by_text("300 m").wait_for(timeout=10_000)
    assert tops(page, VIEW_BUTTONS) == before


def test_the_buttons_of_adaptation_stay_while_it_runs(page):
    # all of the panel in sight: what a click scrolls is no move of the buttons
    page.set_viewport_size({"width": CANVAS_PX[0], "height": 1200})
    tab(page, "Adapt")
    page.locator("p:visible", has_text="no step taken yet").wait_for(timeout=10_000)
    before = tops(page, ADAPT_BUTTONS)
    page.get_by_role("button", name="Start adaptation").click()
    page.get_by_text("PSNR (dB)", exact=True).wait_for(timeout=10_000)
    page.get_by_role("button", name="Stop adaptation").click()
    page.locator("strong", has_text="idle").wait_for(timeout=10_000)
    assert tops(page, ADAPT_BUTTONS) == before
