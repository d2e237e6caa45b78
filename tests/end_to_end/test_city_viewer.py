"""A person measures a trained city in the viewer's page, and adapts it to the second flight."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pytest
from chromium import launched_chromium, shot
from city_truth import CityTruth
from kafka_brokers import free_port
from page_parts import choose, tab
from running_system import JOB_S, City, System, demo_spec, running_system, small_train
from running_viewer import until
from wire import difference

from configs import JobFolder
from nerfcore.data.dataset import load_dataset
from nerfcore.geometry.camera import Camera
from nerfcore.viewer.screenshots import read_view

pytestmark = pytest.mark.timeout(1200)
FLOWN = {"images": 80, "update_images": 24, "size": "192x144", "points": 6000, "altitude": 75}
MODEL = {"log2_hashmap_size": 15, "max_resolution": 512, "batch_rays": 4096}
TRAIN_STEPS = 800
TRAIN_S = 600.0
ADAPT_STEPS = 100
WILD_STEPS = 8
ADAPT_S = 300.0
SAME_LEVELS = 6.0
LEAST_SEEN_PX = 2000
EACH_NEARER, NEARER = 1.2, 2.0
AS_NEAR = 1.1
PAGE_S = 120.0
CANVAS_PX = (1400, 700)
MESSAGES_PX, PANEL_PX = 320, 410  # columns at the left and at the right
ROOFS = 4
RIGHT_WITHIN = 0.02
LIKE = 5.0


@dataclass(frozen=True)
class Visit:
    """A view job of the trained city, opened in a browser and looking straight down.

    Attributes:
        system, job: what serves it.
        page: the browser's.
        truth: what is to be seen.
        camera: where the page looks from, as its own screenshot tells.
    """

    system: System
    job: JobFolder
    page: Any
    truth: CityTruth
    camera: Camera


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory: pytest.TempPathFactory) -> City:
    """Give a city flown well enough to measure in."""
    return City(tmp_path_factory.mktemp("surveyed"), **FLOWN)


@pytest.fixture(scope="module")
def own(surveyed: City, broker_address: str) -> Iterator[System]:
    with running_system(surveyed.project, broker_address) as running:
        yield running


@pytest.fixture(scope="module")
def visit(own: System, surveyed: City) -> Iterator[Visit]:
    steps = {"outer_steps": TRAIN_STEPS, "save_step": TRAIN_STEPS, "eval_step": TRAIN_STEPS}
    own.send(small_train(job_id="survey", time_limit_s=TRAIN_S, **MODEL, **steps))
    own.wait_state("survey", "succeeded", TRAIN_S + JOB_S)
    port = free_port()
    address = {"viewer_host": "127.0.0.1", "viewer_port": port, "viewer_timeout": 600.0}
    # The job names no batch: what a saved version says of its images is what the page chose.
    view = demo_spec("view", job_id="visit", checkpoint_path="survey", batch=None, **address)
    own.send_config(view)
    with launched_chromium() as browser:
        size = {"width": CANVAS_PX[0], "height": CANVAS_PX[1]}
        page = browser.new_context(viewport=size, device_scale_factor=1).new_page()
        page.goto(f"http://127.0.0.1:{port}")
        look_down(page)
        truth = CityTruth(surveyed.flights, load_dataset(surveyed.prepared).frame)
        job = own.folder("visit")
        _, camera = screenshot(page, job)
        assert camera.c2w[0, 2] < -0.99, "the page looks straight down"
        yield Visit(own, job, page, truth, camera)


def look_down(page: Any) -> None:
    """See the whole town from above with the page's buttons."""
    drawn = page.locator("p:visible", has_text=re.compile(r"\d px, "))
    drawn.wait_for(timeout=PAGE_S * 1000)

    def place() -> str:
        """Where the camera rests; nothing while a finer picture of its view is to come."""
        said = page.locator("p:visible", has_text=re.compile(r"looks \d")).all_inner_texts()
        is_resting = "refining" not in drawn.inner_text()
        return said[0].partition("looks")[0] if said and is_resting else ""

    until(place, "the start view is drawn", PAGE_S)
    for button in ("Away", "Away", "Down"):
        before = place()
        page.get_by_role("button", name=button, exact=True).click()
        until(lambda old=before: place() not in ("", old), f"{button} moved the camera", PAGE_S)
    page.locator("p:visible", has_text="90° down").wait_for(timeout=PAGE_S * 1000)


def screenshot(page: Any, job: JobFolder) -> tuple[np.ndarray, Camera]:
    """Take one with the page's button, and give its pixels and its camera, as large as the page."""
    before = set(job.screenshots.glob("*.png"))
    tab(page, "View")
    page.get_by_role("button", name="Screenshot", exact=True).click()
    until(lambda: set(job.screenshots.glob("*.png")) - before, "a screenshot", PAGE_S)
    (path,) = set(job.screenshots.glob("*.png")) - before
    view, picture = read_view(path), cv2.imread(str(path))
    assert view is not None and picture is not None
    lens = (view[name] for name in ("fx", "fy", "cx", "cy", "width_px", "height_px"))
    camera = Camera(np.array(view["c2w"], np.float32), *lens).scaled_to(CANVAS_PX[0])
    assert (camera.width_px, camera.height_px) == CANVAS_PX
    return cv2.resize(picture, CANVAS_PX)[..., ::-1], camera


def clear() -> np.ndarray:
    """Where neither a panel nor a message covers the canvas, bool[H, W]."""
    is_clear = np.zeros(CANVAS_PX[::-1], bool)
    is_clear[:, MESSAGES_PX : CANVAS_PX[0] - PANEL_PX] = True
    return is_clear


def test_picked_distances_are_right(visit: Visit) -> None:
    """From roof to roof, those with the largest free pieces, one after the other."""
    page, truth = visit.page, visit.truth
    spots = truth.flat_roofs(truth.seen(truth.town.before, visit.camera), clear())[:ROOFS]
    assert len(spots) == ROOFS
    tab(page, "Map")
    page.locator("input[type=checkbox]:visible").first.click()
    page.get_by_text("Click in the picture").wait_for(timeout=PAGE_S * 1000)
    for number, spot in enumerate(spots, start=1):
        page.mouse.move(spot.x - 3, spot.y)
        page.mouse.click(spot.x + 0.5, spot.y + 0.5, delay=50)
        taken = page.locator("strong:visible", has_text=re.compile(rf"^{number}$"))
        taken.wait_for(timeout=PAGE_S * 1000)
    shot(page, "city-picked")
    said = page.locator("p:visible", has_text="→").inner_text()
    told_m = [float(found) for found in re.findall(r"→ ([\d.]+) m", said)]
    true_m = [float(np.linalg.norm(a.place_m - b.place_m)) for a, b in pairwise(spots)]
    page.locator("input[type=checkbox]:visible").first.click()
    page.get_by_role("button", name="Clear points").click()
    assert told_m == pytest.approx(true_m, rel=RIGHT_WITHIN), said


def test_rates_under_which_it_goes_flat_are_put_back_and_said(visit: Visit) -> None:
    """Local adaptation of few steps, which comes nearer to the new photographs even so."""
    page = visit.page
    before = shown(visit, "city-before-wild")
    tab(page, "Adapt")
    page.get_by_text("Images and rates", exact=True).click()
    rates = {}
    for label in ("Rate, tables", "Rate, density", "Rate, colour"):
        field = page.get_by_label(label, exact=True).locator("visible=true")
        rates[label] = field.input_value()
        field.fill("1")
    page.get_by_label("Steps", exact=True).locator("visible=true").fill(str(WILD_STEPS))
    page.get_by_role("button", name="Start adaptation").click()
    page.get_by_text(re.compile("looking over images")).wait_for(timeout=PAGE_S * 1000)
    said = page.get_by_text(re.compile("it diverged .*flat colour.*the model is back")).first
    said.wait_for(timeout=ADAPT_S * 1000)
    for label, value in rates.items():
        page.get_by_label(label, exact=True).locator("visible=true").fill(value)
    page.get_by_text("Images and rates", exact=True).click()
    after = shown(visit, "city-after-wild")
    assert difference(after[clear()], before[clear()]) < LIKE
    assert not list(visit.job.checkpoints.glob("*/manifest.json"))


def test_adaptation_shows_what_collapsed(visit: Visit) -> None:
    """What became rubble comes nearer to the truth by far, what stayed is shown as well as before.

    Each collapsed building is then nearer to the truth after the event than to the one before.

    Truth is what the city's own renderer makes of the page's camera after the event.
    """
    page, truth, town = visit.page, visit.truth, visit.truth.town
    scenes = (town.before, town.after)
    old, new = (truth.photograph(scene, visit.camera).astype(float) for scene in scenes)
    owners = [truth.seen(scene, visit.camera).owners for scene in scenes]
    is_same = (np.abs(old - new).max(axis=-1) < SAME_LEVELS) & clear()
    before = shown(visit, "city-before")

    tab(page, "Adapt")
    page.get_by_text("Images and rates", exact=True).click()
    choose(page, "Images", "batch_0001")
    page.get_by_label("Steps", exact=True).locator("visible=true").fill(str(ADAPT_STEPS))
    page.get_by_role("button", name="Start adaptation").click()
    ended = page.locator("p:visible", has_text=re.compile(rf"^idle · step {ADAPT_STEPS}\b"))
    ended.wait_for(timeout=ADAPT_S * 1000)
    after = shown(visit, "city-after")

    def errors(is_meant: np.ndarray, wanted: np.ndarray = new) -> np.ndarray:
        """Mean squared error before and after adaptation, grey levels squared."""
        return np.array([np.square(seen - wanted)[is_meant].mean() for seen in (before, after)])

    changed = [(owners[0] == number) | (owners[1] == number) for number in town.change.buildings]
    large = [is_own & clear() for is_own in changed if (is_own & clear()).sum() > LEAST_SEEN_PX]
    each = [errors(is_own) for is_own in large]
    to_old = [errors(is_own, old)[1] for is_own in large]
    every, rest = errors(np.any(large, axis=0)), errors(is_same)
    assert len(each) >= 3 and all(late < early / EACH_NEARER for early, late in each), each
    assert all(late < ghost for (_, late), ghost in zip(each, to_old, strict=True)), (each, to_old)
    assert every[1] < every[0] / NEARER, every
    assert rest[1] < rest[0] * AS_NEAR, rest
    save_and_end(visit)


def shown(visit: Visit, name: str) -> np.ndarray:
    """Give the page's pixels once it shows what a screenshot of the model as it is shows."""
    picture, camera = screenshot(visit.page, visit.job)
    assert np.allclose(camera.c2w, visit.camera.c2w), "the camera stayed"
    line = visit.page.locator("p:visible", has_text=re.compile(r"\d px, "))
    seen = [np.zeros(0)]

    def is_shown() -> bool:
        is_final = "refining" not in line.inner_text()
        seen[0] = shot(visit.page, name)
        return is_final and difference(seen[0][clear()], picture[clear()]) < LIKE

    until(is_shown, f"{name}: the page shows the model", PAGE_S)
    return seen[0].astype(float)


def save_and_end(visit: Visit) -> None:
    """Save what was adapted, end the viewer with its button, and look at what it left."""
    page = visit.page
    tab(page, "Adapt")
    page.get_by_role("button", name="Save checkpoint").click()
    page.get_by_text("Checkpoint saved").wait_for(timeout=PAGE_S * 1000)
    tab(page, "Job")
    page.get_by_role("button", name="End viewer").click()
    visit.system.wait_state("visit", "succeeded", JOB_S)
    assert json.loads(visit.job.result_json.read_text())["ended_by"] == "button"
    (manifest,) = visit.job.checkpoints.glob("*/manifest.json")
    assert manifest.parent.name == f"adapted{ADAPT_STEPS}"
    written = json.loads(manifest.read_text())
    files, extra = written["files"], written["extra"]
    assert extra["adapted_from"] == f"survey:step{TRAIN_STEPS}"
    assert (extra["adapted_steps"], extra["batches"]) == (ADAPT_STEPS, ["batch_0001"])
    assert sum(name.startswith("expert_") for name in files) > 4, "local copies beside the experts"
    for name, said in files.items():
        assert (manifest.parent / name).stat().st_size == said["bytes"]
