"""A person's path through the dataset report in headless Chromium, on a laptop and a phone."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import launched_chromium, shot
from running_viewer import until
from survey_sites import COUNT, Damage, make_site

from nerfcore.data.clusters import ClusterSettings, write_partition
from nerfcore.data.dataset import load_dataset
from nerfcore.data.prepare import PrepareSettings, prepare_dataset
from nerfcore.data.update import update_dataset
from nerfcore.survey import survey_dataset
from nerfcore.survey.report import write_report

LAPTOP, PHONE = (1280, 900), (390, 800)
CHOSEN_RGB, FIRST_RGB = (230, 0, 122), (23, 105, 224)
SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium; without it the tests fail in CI and are skipped elsewhere."""
    with launched_chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """The report of a small site with a blurred, a dark and a copied photograph."""
    folder = tmp_path_factory.mktemp("site")
    damage = Damage(blurred=("0003.png",), dark=("0006.png",), copied=(("0011.png", "0010.png"),))
    root = make_site(folder, damage)
    command = [sys.executable, "scripts/inspect_dataset.py", str(root)]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True, timeout=120)
    return root / "report" / "report.html"


@contextmanager
def opened(
    browser: Any, page_file: Path, size: tuple[int, int], **options: Any
) -> Iterator[tuple[Any, list[str]]]:
    """Give the opened page, and a list that fills with whatever the browser complains about."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: request.url.startswith("http") and complaints.append(
        f"asked the network for {request.url}"))  # fmt: skip
    page.goto(page_file.as_uri())
    page.wait_for_load_state()
    yield page, complaints
    context.close()


def share_of(picture: np.ndarray, rgb: tuple[int, int, int]) -> float:
    return float((np.abs(picture.astype(int) - rgb).max(axis=2) < 24).mean())


def test_a_person_reads_the_first_screen(browser, report):
    """Summary, verdict, key figures, map and problems stand on a laptop's first screen."""
    with opened(browser, report, LAPTOP) as (page, complaints):
        assert "25 photographs · " in page.locator(".summary").inner_text()
        assert page.locator(".verdict").inner_text() == (
            "2 serious problems to mend before training"
        )
        for words in ("Ground per pixel", "Overlap", "51.54", "° N"):
            assert words in page.locator(".figures").inner_text()
        assert page.locator("#site a.camera").count() == COUNT
        assert page.locator(".layer-footprints polygon").count() == COUNT
        assert page.locator(".layer-experts .expert-mark").count() == 4
        assert page.locator("#site").bounding_box()["y"] < 600
        picture = shot(page, "report-laptop")
        assert share_of(picture, FIRST_RGB) > 0.001, "blue cameras are seen"
        map_part = picture[500:, 60:680]
        assert map_part.std() > 30, "the photographs lie under the cameras"
        assert complaints == []


def test_choosing_a_problem_shows_its_camera(browser, report):
    """A click on a problem lights up camera and footprint and opens the photograph's card."""
    with opened(browser, report, LAPTOP) as (page, complaints):
        before = share_of(shot(page, "report-before"), CHOSEN_RGB)
        page.locator(".problems tr", has_text="0003.png").click()
        assert page.locator(".camera.chosen").get_attribute("aria-label").startswith("0003.png")
        assert page.locator(".camera.chosen .footprint-chosen").is_visible()
        card = page.locator("#card")
        assert "0003.png" in card.inner_text() and "Blurred photograph" in card.inner_text()
        assert card.locator("img").evaluate("image => image.naturalWidth") == 200
        assert share_of(shot(page, "report-chosen"), CHOSEN_RGB) > before + 0.0005
        assert page.url.endswith("#photo-2")

        page.keyboard.press("Escape")
        assert page.locator(".chosen").count() == 0 and not card.is_visible()
        page.locator("#site a.camera").nth(4).click()
        assert page.locator(".camera.chosen").count() == 1
        assert complaints == []


def test_hovering_shows_name_and_picture(browser, report):
    """Hovering over a camera shows its name and its picture beside the pointer."""
    with opened(browser, report, LAPTOP) as (page, _):
        camera = page.locator("#photo-0")
        camera.locator("path.mark").hover()
        tip = page.locator("#tip")
        assert tip.is_visible() and "0000.png" in tip.inner_text()
        assert tip.locator("img").is_visible()
        page.locator("h1").hover()
        assert not tip.is_visible()


def test_layers_and_zoom(browser, report):
    """Switching a layer off hides it, enlarging shows less, and the whole comes back."""
    with opened(browser, report, LAPTOP) as (page, _):
        assert not page.locator(".layer-footprints").is_visible()
        page.get_by_role("checkbox", name="footprints").check()
        assert page.locator(".layer-footprints").is_visible()
        page.get_by_role("checkbox", name="cameras").uncheck()
        assert not page.locator(".layer-cameras").is_visible()
        page.get_by_role("radio", name="heights").check()
        assert page.locator(".layer-heights").is_visible()
        assert not page.locator(".layer-photos").is_visible()
        shot(page, "report-layers")
        whole = page.locator("#site").get_attribute("viewBox")
        page.get_by_role("button", name="enlarge").click()
        assert float(page.locator("#site").get_attribute("viewBox").split()[2]) < float(
            whole.split()[2]
        )
        page.get_by_role("button", name="whole").click()
        assert page.locator("#site").get_attribute("viewBox") == whole


def test_phone(browser, report):
    """On a phone nothing is wider than the screen, and choosing a problem brings up the map."""
    with opened(browser, report, PHONE, has_touch=True) as (page, complaints):
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
        shot(page, "report-phone")
        page.locator(".problems tr", has_text="0006.png").tap()
        site = page.locator("#site")
        until(lambda: abs(site.bounding_box()["y"]) < 60, "the page scrolled to the map")
        assert "0006.png" in page.locator("#card").inner_text()
        shot(page, "report-phone-chosen")
        assert complaints == []


def test_dark_page(browser, report):
    """A dark system gets a dark page with light words."""
    with opened(browser, report, LAPTOP, color_scheme="dark") as (page, _):
        picture = shot(page, "report-dark")
        assert picture[:20].mean() < 40
        colour = page.locator("h1").evaluate("one => getComputedStyle(one).color")
        assert min(int(part) for part in colour[4:-1].split(",")) > 200


def test_without_javascript(browser, report):
    """Without JavaScript a problem's link still lights up its camera."""
    with opened(browser, report, LAPTOP, java_script_enabled=False) as (page, _):
        assert not page.locator("#photo-2 .footprint-chosen").is_visible()
        page.locator(".problems a", has_text="0003.png").click()
        assert page.locator("#photo-2 .footprint-chosen").is_visible()
        assert page.locator("#photo-2 > title").text_content().startswith("0003.png")


@pytest.mark.skipif(
    not (SHARED / "drz" / "model").is_dir() or not (SHARED / "drz_update").is_dir(),
    reason="../shared/data/drz is not here",
)
def test_real_flight(browser, tmp_path):
    """The real flight: 127 cameras in two colours, coverage of both flights, nothing serious."""
    settings = PrepareSettings(val_split=0.12, ecef_to_enu=True)
    dataset = prepare_dataset(SHARED / "drz", tmp_path / "drz", settings)
    write_partition(dataset, ClusterSettings((2, 2), cluster_2d=True))
    update_dataset(dataset.root, SHARED / "drz_update", ecef_to_enu=True)
    survey = survey_dataset(load_dataset(dataset.root))
    assert 14.0 < survey.figures.area_ha < 17.0 and 35.0 < survey.figures.gsd_cm < 40.0
    page_file = write_report(survey, tmp_path / "report", "drz")
    assert page_file.stat().st_size < 4_000_000
    with opened(browser, page_file, LAPTOP) as (page, complaints):
        assert page.locator(".verdict").inner_text() == "Ready for training"
        assert page.locator("#site a.camera").count() == 127
        later = page.locator("#site .dart-later, #site .dart-later-held").count()
        assert later == 27
        assert page.locator("#coverage-0, #coverage-1").count() == 2
        page.get_by_role("radio", name="later flights").check()
        page.locator("#site").scroll_into_view_if_needed()
        assert share_of(shot(page, "report-drz-later"), (224, 87, 11)) > 0.0005
        assert complaints == []
