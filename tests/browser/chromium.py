"""Debian's Chromium, headless, for tests that look at a page as a person does."""

import contextlib
import importlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import pytest

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextlib.contextmanager
def launched_chromium() -> Iterator[Any]:
    """Run the browser; without it the tests fail in CI and are skipped elsewhere."""
    try:
        playwright_api = importlib.import_module("playwright.sync_api")
    except ImportError:
        _missing("playwright is not installed: pip install -e .[dev]")
    if not (Path(CHROMIUM).is_file() or shutil.which(CHROMIUM)):
        _missing(f"{CHROMIUM} is missing: apt-get install chromium, or set CHROMIUM")
    with playwright_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield launched
        launched.close()


def shot(page: Any, name: str) -> np.ndarray:
    """Return the page as u8[H, W, 3] RGB; kept in the folder SKYLINE_BROWSER_SHOTS, if set."""
    png = page.screenshot()
    if kept_in := os.environ.get("SKYLINE_BROWSER_SHOTS"):
        (Path(kept_in) / f"{name}.png").write_bytes(png)
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture[..., ::-1]


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
