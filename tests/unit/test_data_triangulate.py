"""Sparse points found from photographs and poses, and how they are kept beside a dataset."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from survey_sites import GROUND_UP_M, make_site

from nerfcore.data.dataset import Dataset, load_dataset
from nerfcore.data.found_points import load_found_points
from nerfcore.data.triangulate import near_pairs, triangulate
from nerfcore.errors import DataError
from nerfcore.geometry.frames import project

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A site whose dataset has lost its sparse points, and has found its own."""
    root = make_site(tmp_path_factory.mktemp("pointless"), experts=False, ecef=False)
    listing = json.loads((root / "dataset.json").read_text())
    listing["points"] = None
    (root / "dataset.json").write_text(json.dumps(listing))
    (root / "points.npz").unlink()
    assert load_dataset(root).points is None
    done = run_script(root)
    assert done.returncode == 0, done.stderr
    assert f"in {root / 'sparse'}" in done.stdout
    return root


@pytest.fixture(scope="module")
def dataset(root) -> Dataset:
    return load_dataset(root)


def run_script(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / "triangulate_points.py", "--data_path", root]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=120, check=False
    )


def test_points_lie_on_the_ground(dataset):
    """Nearly all points are within half a metre of the textured ground 100 m below."""
    up = dataset.frame.world_to_enu_m(dataset.points.xyz)[:, 2]
    assert len(up) > 300
    assert abs(np.median(up) - GROUND_UP_M) < 0.1
    assert np.mean(np.abs(up - GROUND_UP_M) < 0.5) > 0.95


def test_tracks_are_what_the_photographs_show(dataset):
    """Each point projects to where each of its photographs, at least three, shows it."""
    points = dataset.points
    assert points.track_lengths.min() >= 3
    assert np.array_equal(np.bincount(points.point_ids), points.track_lengths)
    rows = np.array([dataset.train.names.index(name) for name in points.image_names])
    rows = rows[points.image_ids]
    pixels, depths = project(
        points.xyz[points.point_ids], dataset.train.c2w[rows], dataset.train.intrinsics[rows]
    )
    assert depths.min() > 0
    assert np.linalg.norm(pixels - points.xy_px, axis=1).mean() < 0.6


def test_held_out_photographs_are_not_used(dataset):
    """What is scored on tells the model nothing."""
    assert set(dataset.points.image_names) <= set(dataset.train.names)


def test_a_second_run_keeps_them(root):
    """Points that are there are not found again."""
    before = (root / "sparse" / "points.npz").stat().st_mtime_ns
    done = run_script(root)
    assert done.returncode == 0 and "are there already" in done.stdout
    assert (root / "sparse" / "points.npz").stat().st_mtime_ns == before


def test_other_cameras_refuse_them(root, dataset):
    """Points found with poses that have changed since are refused, with the mend."""
    moved = dataset.train.subset(range(len(dataset.train)))
    assert load_found_points(root, moved) is not None
    moved.c2w[0, 0, 3] += 0.01
    with pytest.raises(DataError, match=r"cameras_sha256.*triangulate_points\.py again"):
        load_found_points(root, moved)


def test_damaged_points_are_refused(root, dataset):
    """A changed or missing file is named."""
    file = root / "sparse" / "points.npz"
    content = file.read_bytes()
    try:
        file.write_bytes(content[:200] + bytes([content[200] ^ 255]) + content[201:])
        with pytest.raises(DataError, match=r"points\.npz: content changed"):
            load_dataset(root)
        file.unlink()
        with pytest.raises(DataError, match=r"points\.npz: missing though listed"):
            load_dataset(root)
    finally:
        file.write_bytes(content)
    assert len(load_dataset(root).points) == len(dataset.points)


def test_photographs_that_show_nothing(tmp_path, dataset):
    """Grey photographs, and too few of them, give no points, and nothing is left behind."""
    blank = [tmp_path / f"{index}.png" for index in range(3)]
    for path in blank:
        cv2.imwrite(str(path), np.full((192, 256, 3), 128, np.uint8))
    images = dataset.train.subset(range(3))
    object.__setattr__(images, "paths", tuple(blank))
    assert triangulate(images, dataset.frame) is None
    assert triangulate(images.subset(range(2)), dataset.frame) is None


def test_pairs_grow_with_the_flight_not_with_its_square():
    """All of a few photographs are matched; of many each with its 30 nearest."""
    assert len(near_pairs(np.zeros((20, 3)))) == 20 * 19 // 2
    line = np.column_stack([np.arange(300.0), np.zeros((300, 2))])
    pairs = np.array(near_pairs(line))
    assert len(pairs) <= 300 * 30 and (pairs[:, 0] < pairs[:, 1]).all()
    gaps = pairs[:, 1] - pairs[:, 0]
    inner = (pairs[:, 0] >= 40) & (pairs[:, 1] < 260)
    assert gaps[inner].max() <= 16 and {1, 2, 10} <= set(gaps)


def test_an_unreadable_photograph_is_named(tmp_path, dataset):
    """A file that is no picture ends the search, by its name."""
    broken = tmp_path / "broken.png"
    broken.write_text("hello")
    images = dataset.train.subset(range(4))
    object.__setattr__(images, "paths", (broken, *images.paths[1:]))
    with pytest.raises(DataError, match=r"broken\.png: .*restore the file"):
        triangulate(images, dataset.frame)
