"""The report of an eval job and the comparison of several, opened in a real browser."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from chromium import launched_chromium

from nerfcore.adaptation.disagreement import Disagreement
from nerfcore.data.records import SceneFrame
from nerfcore.evaluation import EvaluationPictures, MetricRow, write_metrics
from nerfcore.evaluation.change_map import write_change_map
from nerfcore.evaluation.report import write_report
from nerfcore.evaluation.report.strips import WINDOW_PX, changed_window
from nerfcore.evaluation.retention import RETENTION_FILE
from nerfcore.geometry.geodesy import GeoPoint
from nerfcore.sampling.ground import GroundGrid

ROOT = Path(__file__).resolve().parents[2]
ROW = MetricRow(
    0, "new_heldout", "new <b>1</b>.jpg", 15.0, 0.5, float("nan"), "lpips unavailable: no file",
    16.0, 0.0, 0.2, 0, 0, "train:step7",
)  # fmt: skip


def job_folder(folder: Path, gain: float = 4.0) -> Path:
    """An eval job's folder with two ttos, two splits, maps and pictures."""
    folder.mkdir(parents=True)
    rows = []
    for tto, bonus in ((0, 0.0), (16, gain)):
        rows.append(replace(ROW, tto=tto, psnr=15.0 + bonus, adapt_seconds=tto / 4, rays=tto * 100))
        rows.append(replace(rows[-1], split="old_val", image="old.jpg", psnr=24.0 - bonus / 20))
    write_metrics(folder, rows)
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 255, (48, 64, 3), np.uint8)
    pictures = EvaluationPictures(folder)
    for row in rows:
        depth_m = np.full((48, 64), 30.0, np.float32)
        valid = np.ones((48, 64), np.bool_)
        pictures.write(row, truth / 255.0, truth, valid, depth_m + rng.random((48, 64), np.float32))
    changed = np.zeros((8, 8), np.bool_)
    changed[2:5, 2:5] = True
    errors = np.where(changed, 0.2, 0.05).astype(np.float32)
    usual, views = np.full((8, 8), 0.05, np.float32), np.full((8, 8), 3, np.int32)
    found = Disagreement(GroundGrid((-1.0, -1.0), 0.25, (8, 8)), errors, usual, views)
    frame = SceneFrame(40.0, np.zeros(3), GeoPoint(51.5, 7.4, 100.0), (0.0, 50.0))
    write_change_map(folder, found, changed, frame)
    cv2.imwrite(str(folder / RETENTION_FILE), np.full((32, 32, 3), 200, np.uint8))
    facts = {"job": folder.name, "changed_areas": 1, "changed_m2": 900.0, "seconds_to_adapted": 7.5}
    write_report(folder, facts)
    return folder


def shown(page: Path) -> dict[str, Any]:
    """Open a page offline; what it shows, and whatever went wrong."""
    with launched_chromium() as browser:
        context = browser.new_context(offline=True, viewport={"width": 1100, "height": 900})
        tab = context.new_page()
        problems: list[str] = []
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("request", lambda r: r.url.startswith("http") and problems.append(r.url))
        tab.goto(page.as_uri())
        return {
            "problems": problems,
            "text": tab.inner_text("body"),
            "broken": tab.evaluate(
                "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
            ),
            "images": tab.evaluate("document.images.length"),
            "circles": tab.evaluate("document.querySelectorAll('svg circle').length"),
            "titles": tab.evaluate(
                "[...document.querySelectorAll('svg title')].map(t => t.textContent)"
            ),
            "wide": tab.evaluate("document.documentElement.scrollWidth > window.innerWidth"),
        }


def test_report_opens_with_every_part(tmp_path: Path) -> None:
    page = shown(job_folder(tmp_path / "site-1-eval") / "report.html")
    assert not page["problems"] and not page["broken"] and not page["wide"]
    # two images: truth, two predictions, two errors, depth; magnified: truth, two; two maps
    assert page["images"] == 2 * (6 + 3) + 2
    assert page["circles"] == 2 * 4  # two charts of two splits at two ttos
    assert "new images held out: 16 → 19.00" in page["titles"]
    for words in ("site-1-eval", "19.00 dB (+4.00)", "new <b>1</b>.jpg", "changed areas",
                  "51.5000", "lpips unavailable", "8 s"):  # fmt: skip
        assert words.lower() in page["text"].lower(), words


def test_comparison_opens_with_bands(tmp_path: Path) -> None:
    for label, gains in (("joint", (4.0, 5.0)), ("scratch", (2.0, 2.5))):
        for seed, gain in enumerate(gains):
            job_folder(tmp_path / f"{label}-{seed}", gain)
    folders = [f"{p.name[:-2]}={p}" for p in sorted(tmp_path.iterdir())]
    out = tmp_path / "out" / "comparison.html"
    argv = [sys.executable, "scripts/compare_jobs.py", *folders, "--output", str(out)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "19.5 " in done.stdout and "17.25" in done.stdout
    page = shown(out)
    assert not page["problems"] and not page["broken"]
    assert {"joint: 16 → 19.50", "scratch: 16 → 17.25"} <= set(page["titles"])
    assert "joint (2), scratch (2)" in page["text"]


def test_jobs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    one, other = job_folder(tmp_path / "a"), tmp_path / "b"
    other.mkdir()
    write_metrics(other, [ROW])
    argv = [sys.executable, "scripts/compare_jobs.py", f"x={one}", f"x={other}"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1 and "x: its jobs were not scored" in done.stderr
    argv = [sys.executable, "scripts/compare_jobs.py", str(tmp_path / "nowhere")]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1 and "metrics.csv" in done.stderr


pytestmark = pytest.mark.filterwarnings("error")


def test_the_magnified_window_is_where_the_pictures_differ_most() -> None:
    """Of two changed patches the stronger; a picture smaller than the window is shown whole."""
    before = np.full((300, 400, 3), 90, np.uint8)
    after = before.copy()
    after[250:270, 20:50] = 120
    after[100:120, 300:330] = 250
    rows, columns = changed_window(before, after)
    assert (columns.stop - columns.start, rows.stop - rows.start) == WINDOW_PX
    assert rows.start <= 100 and rows.stop >= 120
    assert columns.start <= 300 and columns.stop >= 330
    small = before[:48, :64]
    assert changed_window(small, small) == (slice(0, 48), slice(0, 64))
