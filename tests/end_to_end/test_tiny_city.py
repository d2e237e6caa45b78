"""A tiny city through the real mediator: train, adapt and score, look at it, and stop."""

import json
import math
import re
import subprocess
import sys
import urllib.request

import cv2
import numpy as np
import pandas as pd
import pytest
from chromium import launched_chromium, shot
from kafka_brokers import free_port
from mediator_bench import wait_for
from running_system import ROOT, City, System, demo_spec
from running_viewer import until
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wire import difference

from configs import JobFolder, Roots, ViewJob, parse_job
from nerfcore.viewer import overview_camera
from nerfcore.viewer.screenshots import read_view
from runner.inputs import find_inputs
from runner.ops.loading import load_model

TTO = (0, 8, 32)
IMAGES = 2
CANVAS_PX = (600, 400)
SMALL_PX = (240, 160)
LIKE = 6.0


@pytest.fixture(scope="module")
def scored(system: System, trained: JobFolder) -> JobFolder:
    """Give the folder of an eval job that adapted to the event's images."""
    changes = {
        "tto": ",".join(map(str, TTO)),
        "replay": 0.5,
        "support_rays": 2048,
        "max_images": IMAGES,
    }
    spec = demo_spec("eval", job_id="tiny-eval", checkpoint_path=trained.root.name, **changes)
    output = system.send_config(spec)
    assert re.search(r"after 32 steps of adaptation: .*new_heldout \d+\.\d\d dB \(\+", output)
    return system.folder("tiny-eval")


@pytest.fixture(scope="module")
def browser():
    with launched_chromium() as launched:
        yield launched


def test_the_train_job_leaves_what_is_promised(trained: JobFolder) -> None:
    """Logs, a result, whole checkpoints with their manifest, and plots TensorBoard can read."""
    result = json.loads(trained.result_json.read_text())
    assert result["step"] > 20 and result["psnr"] > 15.0
    index = json.loads((trained.checkpoints / "index.json").read_text())
    checkpoint = trained.root / result["checkpoint"]
    assert checkpoint.name == index["last"] and index["best"] in index["steps"]
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    experts = [name for name in manifest["files"] if name.startswith("expert_")]
    assert len(experts) == 4 and manifest["step"] == result["step"]
    for name, said in manifest["files"].items():
        assert (checkpoint / name).stat().st_size == said["bytes"]
        with safe_open(checkpoint / name, framework="numpy") as tensors:
            keys = tensors.keys()
            assert keys and all(np.isfinite(tensors.get_tensor(key)).all() for key in keys)
    plots = EventAccumulator(str(trained.tensorboard)).Reload()
    (tag,) = [tag for tag in plots.Tags()["scalars"] if tag.startswith("val/psnr")]
    assert plots.Scalars(tag)[-1].value == pytest.approx(result["psnr"], abs=1e-3)
    run = json.loads(trained.run_json.read_text())
    assert run["spec"]["time_limit_s"] == 15.0 and run["versions"]["torch"]
    assert "done: " in trained.runner_log.read_text()


def test_the_eval_job_scores_before_and_after_adaptation(
    scored: JobFolder,
) -> None:
    """The table has every image at every tto; adaptation raises the held-out images."""
    frame = pd.read_csv(scored.metrics_csv)
    groups = frame.groupby(["tto", "split"])["psnr"]
    splits = ("adapted", "new_heldout", "old_val")
    assert groups.size().to_dict() == {(tto, s): IMAGES for tto in TTO for s in splits}
    mean = groups.mean()
    assert mean[0, "old_val"] > 14.0
    assert mean[32, "new_heldout"] > mean[0, "new_heldout"] + 0.5
    assert mean[32, "adapted"] > mean[8, "adapted"] > mean[0, "adapted"] + 0.5
    assert mean[32, "old_val"] > mean[0, "old_val"] - 4.0
    assert frame["lpips_note"].notna().all() and frame["ssim"].between(-1, 1).all()


def test_the_pictures_are_those_the_table_scores(scored: JobFolder) -> None:
    """PSNR of each pair of files in gt/ and pred/<tto>/ is the table's, up to rounding."""
    frame = pd.read_csv(scored.metrics_csv)
    for tto in TTO:
        predictions = sorted((scored.pred / str(tto)).glob("*.png"))
        assert len(predictions) == 3 * IMAGES
        measured = [_psnr(scored.gt / path.name, path) for path in predictions]
        told = frame[frame["tto"] == tto]["psnr"]
        np.testing.assert_allclose(sorted(measured), sorted(told), atol=0.1)
    assert (scored.checkpoints / "index.json").exists(), "save_adapted"


def _psnr(truth, prediction) -> float:
    one, other = (cv2.imread(str(path)) for path in (truth, prediction))
    assert one is not None and other is not None and one.shape == other.shape
    assert one.std() > 10.0, "the truth is a photograph"
    return -10.0 * math.log10(np.square((one.astype(float) - other) / 255.0).mean())


def test_a_browser_sees_the_city_and_ends_the_view_job(
    system: System, city: City, trained: JobFolder, browser
) -> None:
    """The URL that send_config prints shows the trained city; End makes the job succeed."""
    port = free_port()
    address = {"viewer_host": "127.0.0.1", "viewer_port": port, "viewer_timeout": 120.0}
    spec = demo_spec("view", job_id="tiny-view", checkpoint_path=trained.root.name, **address)
    url = re.findall(r"viewer: (http\S+)", system.send_config(spec))[0]
    assert url == f"http://127.0.0.1:{port}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.status == 200
    width_px, height_px = CANVAS_PX
    context = browser.new_context(viewport={"width": width_px, "height": height_px})
    page = context.new_page()
    page.goto(url)
    expected = _expected(city, system, spec)
    until(
        lambda: difference(_seen(page), _clear_part(expected)) < LIKE,
        "the page shows the city",
        60.0,
    )
    assert difference(_seen(page), _clear_part(expected[:, ::-1])) > 2 * LIKE, "not mirrored"
    assert _seen(page).std() > 15.0, "a uniform picture is no city"
    page.get_by_role("button", name="Screenshot").click()
    page.get_by_text("Screenshot saved").wait_for(timeout=30_000)
    page.get_by_role("tab", name="Adapt").click()
    page.get_by_role("button", name="Save checkpoint").click()
    page.get_by_text("Checkpoint saved").wait_for(timeout=30_000)
    page.get_by_role("tab", name="Job").click()
    page.get_by_role("button", name="End viewer").click()
    system.wait_state("tiny-view", "succeeded")
    shot(page, "end-to-end-ended")
    context.close()
    _check_view_artifacts(system.folder("tiny-view"), expected)
    saved = "tiny-view/checkpoints/adapted0"
    assert np.array_equal(_expected(city, system, {**spec, "checkpoint_path": saved}), expected)


def _expected(city: City, system: System, spec: dict[str, object]) -> np.ndarray:
    """Render the view a visit starts with from the same checkpoint, page-sized, and shrink it.

    A small render would take fewer samples a ray.
    """
    job = parse_job(spec)
    assert isinstance(job, ViewJob)
    model = load_model(job, find_inputs(job, Roots.below(city.project, None, system.logs)))
    camera = overview_camera(model.scene.frame, model.dataset.train.c2w, *CANVAS_PX)
    rendered = model.scene.render(camera)
    assert rendered is not None
    picture = np.round(rendered.rgb * 255.0).astype(np.uint8)
    return np.asarray(cv2.resize(picture, SMALL_PX, interpolation=cv2.INTER_AREA))


def _seen(page) -> np.ndarray:
    """Give the part of the page that no panel and no message covers, small."""
    return _clear_part(cv2.resize(shot(page, "end-to-end"), SMALL_PX, interpolation=cv2.INTER_AREA))


def _clear_part(picture: np.ndarray) -> np.ndarray:
    return picture[72:, 5:78]


def _check_view_artifacts(folder: JobFolder, expected: np.ndarray) -> None:
    result = json.loads(folder.result_json.read_text())
    assert result["ended_by"] == "button"
    assert sorted(result["artifacts"]) == ["checkpoints", "screenshots"]
    (path,) = folder.screenshots.glob("*.png")
    picture = cv2.imread(str(path))
    view = read_view(path)
    assert picture is not None and view is not None and view["show"].lower() == "rgb"
    small = cv2.resize(picture[..., ::-1], SMALL_PX, interpolation=cv2.INTER_AREA)
    assert difference(small, expected) < LIKE
    (saved,) = folder.checkpoints.glob("*/manifest.json")
    assert saved.parent.name == "adapted0"


def test_everything_is_told_and_listed(system: System, scored: JobFolder) -> None:
    """Each job's states come in order with one end; `mediator jobs` lists them."""
    for job_id in ("tiny-train", "tiny-eval", "tiny-view"):
        if system.job(job_id) is None:
            continue  # skipped without a browser
        system.assert_told(job_id, "queued", "running", "succeeded")
    kinds = {event["kind"] for event in system.events("tiny-train")}
    assert {"progress", "checkpoint", "metrics", "artifact"} <= kinds
    end = system.events("tiny-eval")[-1]["data"]
    assert "metrics.csv" in end["artifacts"] and end["result"]["summary"]
    command = [sys.executable, "-m", "mediator", "jobs", "--log-root", str(system.logs)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert re.search(r"tiny-eval +eval +succeeded +1", done.stdout), done.stdout + done.stderr
    wait_for("the log", lambda: "job tiny-eval: succeeded" in system.log())
