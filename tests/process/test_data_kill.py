"""Preparation and update killed in their middle by SIGKILL, then --resume, as real commands."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests" / "unit"))

from data_flights import camera_of, make_flight  # noqa: E402

from nerfcore.data.dataset import load_dataset  # noqa: E402

DEADLINE_S = 120.0
IMAGES = 60


def start(script: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out, err


def kill_after(process: subprocess.Popen, folder: Path, photographs: int) -> None:
    """Kill the command, and all it started, once so many photographs are written."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if len(list(folder.glob("rgbs/*"))) >= photographs:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=DEADLINE_S)
            assert process.returncode == -signal.SIGKILL
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)
    raise AssertionError(f"{photographs} photographs were not written in {DEADLINE_S} s")


def large_flight(root: Path, prefix: str = "") -> None:
    """A flight whose photographs take long enough to be killed among."""
    camera = camera_of("OPENCV", 1200, 900)
    params = np.array(camera.params)
    params[:2] = 900.0
    camera.params = params
    flight = make_flight(
        root, count=IMAGES, camera=camera, ecef=True, extension=".jpg", prefix=prefix
    )
    picture = cv2.imread(str(root / "images" / flight.names[0]))
    rng = np.random.default_rng(len(prefix))
    noise = rng.integers(-20, 20, picture.shape)
    content = cv2.imencode(".jpg", np.clip(picture + noise, 0, 255).astype(np.uint8))[1].tobytes()
    for name in flight.names:
        (root / "images" / name).write_bytes(content)


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A flight in `flight`, prepared without interruption in `want`, and a later one."""
    root = tmp_path_factory.mktemp("killed")
    large_flight(root / "flight")
    large_flight(root / "later", prefix="later")
    code, _, error = finish(
        start("prepare_dataset.py", "--data_path", root / "flight", "--output_path",
              root / "want", "--ecef_to_enu", "--val_split", 0.1)
    )  # fmt: skip
    assert code == 0, error
    return root


def test_prepare_killed_and_resumed(prepared, tmp_path):
    """A killed preparation leaves nothing at its output; --resume gives the same dataset, without
    doing again what was done."""
    out = tmp_path / "out"
    stage = tmp_path / ".tmp-out-stage"
    command = ("prepare_dataset.py", "--data_path", prepared / "flight", "--output_path", out,
               "--ecef_to_enu", "--val_split", 0.1)  # fmt: skip
    kill_after(start(*command), stage / "train", 8)
    assert not out.exists()
    journal = (stage / "work" / "journal.jsonl").read_text().splitlines()
    assert 4 <= len(journal) < IMAGES
    first = stage / "train" / "rgbs" / "000000.jpg"
    before = first.stat().st_mtime_ns
    kill_after(start(*command, "--resume"), stage / "train", 20)
    code, _, error = finish(start(*command, "--resume"))
    assert code == 0, error
    assert (out / "train" / "rgbs" / "000000.jpg").stat().st_mtime_ns == before
    assert contents(out) == contents(prepared / "want")
    assert list(tmp_path.glob(".tmp-*")) == []
    code, text, _ = finish(start(*command, "--resume"))
    assert code == 0 and "54 train, 6 validation" in text
    code, _, error = finish(start(*command))
    assert code == 11 and error.count("\n") == 1 and "add --resume, --overwrite" in error


def test_update_killed_and_resumed(prepared, tmp_path):
    """A killed update leaves the dataset as it was, loadable; --resume completes the batch."""
    data = tmp_path / "data"
    shutil.copytree(prepared / "want", data)
    before = contents(data)
    command = ("update_dataset.py", "--data_path", data, "--update_path", prepared / "later")
    stage = data / "continual" / ".tmp-batch_0001-stage"
    kill_after(start(*command), stage / "adapt", 8)
    assert load_dataset(data).batches == {}
    assert {name: content for name, content in contents(data).items() if name in before} == before
    code, text, error = finish(start(*command, "--resume"))
    assert code == 0, error
    assert "45 to adapt to, 15 held out" in text
    assert [path.name for path in (data / "continual").iterdir()] == ["batch_0001"]
    assert {name: content for name, content in contents(data).items() if name in before} == before
    code, _, error = finish(start(*command))
    assert code == 11 and "batch_0001 already" in error and error.count("\n") == 1
    code, text, _ = finish(start(*command, "--resume"))
    assert code == 0 and "batch_0001 (kept)" in text
