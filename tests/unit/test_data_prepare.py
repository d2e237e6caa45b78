"""Preparing flights: geometry, undistortion, masks, splits, and every refusal."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_flights import SITE, camera_of, colour_of, make_flight, picture_of

from nerfcore.data.borders import border_mask
from nerfcore.data.colmap import read_model
from nerfcore.data.images import ImageStore
from nerfcore.data.placing import fit_frame, to_enu
from nerfcore.data.prepare import PrepareSettings, prepare_dataset
from nerfcore.data.splitting import evenly_spaced
from nerfcore.errors import DataError
from nerfcore.geometry.frames import project
from nerfcore.geometry.geodesy import enu_to_geodetic

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_dataset.py"
MODELS = [
    "SIMPLE_PINHOLE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "OPENCV",
    "FULL_OPENCV",
    "FOV",
    "OPENCV_FISHEYE",
    "SIMPLE_RADIAL_FISHEYE",
    "RADIAL_FISHEYE",
    "THIN_PRISM_FISHEYE",
    "SIMPLE_FISHEYE",
    "SIMPLE_DIVISION",
    "EUCM",
]


def every_image(dataset):
    names = dataset.train.names + dataset.val.names
    order = np.argsort(names)
    c2w = np.concatenate([dataset.train.c2w, dataset.val.c2w])[order]
    intrinsics = np.concatenate([dataset.train.intrinsics, dataset.val.intrinsics])[order]
    return tuple(np.array(names)[order]), c2w, intrinsics


def reprojection_errors(dataset):
    """Return each observation's error, px, of the prepared cameras and points."""
    points = dataset.points
    names, c2w, intrinsics = every_image(dataset)
    assert points.image_names == names
    pixels, depths = project(
        points.xyz[points.point_ids], c2w[points.image_ids], intrinsics[points.image_ids]
    )
    assert (depths > 0).all()
    return np.linalg.norm(pixels - points.xy_px, axis=1)


@pytest.mark.parametrize("ecef", [False, True])
def test_geometry(tmp_path, ecef):
    """Poses and points come through ECEF -> ENU -> scaled, and back to metres and to GPS."""
    flight = make_flight(tmp_path, ecef=ecef)
    settings = PrepareSettings(
        val_split=0.25,
        ecef_to_enu=ecef,
        enu_ref="custom" if ecef else "first",
        enu_ref_point=SITE if ecef else None,
    )
    dataset = prepare_dataset(tmp_path, tmp_path / "out", settings)
    names, c2w, _ = every_image(dataset)
    assert names == flight.names and (len(dataset.train), len(dataset.val)) == (7, 2)
    centres = dataset.frame.world_to_enu_m(c2w[:, :, 3])
    assert np.abs(centres - flight.centres_m).max() < 1e-3
    middle = (flight.centres_m.min(axis=0) + flight.centres_m.max(axis=0)) / 2
    assert np.allclose(dataset.frame.world_to_enu_m(np.zeros(3)), middle, atol=1e-6)
    assert np.linalg.norm(c2w[:, :, 3], axis=1).max() == pytest.approx(1.0, abs=1e-6)
    assert reprojection_errors(dataset).max() < 0.01
    assert dataset.points.rgb[0].tolist() == [9, 8, 7]
    if ecef:
        lat, lon, alt = dataset.frame.world_to_geo(c2w[:, :, 3])
        want = enu_to_geodetic(flight.centres_m, SITE)
        assert np.allclose([lat, lon], want[:2], atol=1e-8)  # 1e-8 degrees = 1.1 mm
        assert np.allclose(alt, want[2], atol=1e-3)
    else:
        with pytest.raises(DataError, match="enu_ref"):
            dataset.frame.world_to_geo(np.zeros(3))


def test_world_round_trip(tmp_path):
    """enu_m_to_world undoes world_to_enu_m."""
    make_flight(tmp_path, count=4)
    frame = prepare_dataset(tmp_path, tmp_path / "out", PrepareSettings()).frame
    points = np.random.default_rng(0).normal(size=(50, 3))
    assert np.allclose(frame.enu_m_to_world(frame.world_to_enu_m(points)), points, atol=1e-12)


@pytest.mark.parametrize("model", MODELS)
def test_undistortion(tmp_path, model):
    """Each camera model's photograph becomes the pinhole's: colours and observed points agree."""
    camera = camera_of(model)
    make_flight(tmp_path, count=4, camera=camera)
    dataset = prepare_dataset(tmp_path, tmp_path / "out", PrepareSettings())
    store = ImageStore(dataset.train)
    fx, fy, cx, cy = store.intrinsics[0]
    picture, valid = store.image(0), store.valid_mask(0)
    rows, columns = np.mgrid[0 : picture.shape[0], 0 : picture.shape[1]] + 0.5
    want = colour_of(np.stack([(columns - cx) / fx, (rows - cy) / fy], axis=-1))
    assert valid.mean() > 0.97
    assert np.abs(want.astype(int) - picture)[valid].max() <= 2
    assert reprojection_errors(dataset).max() < 0.01


def test_pinhole_photographs_are_copied(tmp_path):
    """A pinhole's photograph is kept byte for byte."""
    make_flight(tmp_path, count=4, extension=".jpg")
    dataset = prepare_dataset(tmp_path, tmp_path / "out", PrepareSettings())
    original = (tmp_path / "images" / "0000.jpg").read_bytes()
    assert dataset.train.paths[0].read_bytes() == original
    assert dataset.train.valid_paths == (None,) * 4
    assert not (tmp_path / "out" / "train" / "valid").exists()


def test_panorama_is_refused(tmp_path):
    """A camera that no pinhole can show is refused by its model's name."""
    make_flight(tmp_path, count=4, camera=camera_of("EQUIRECTANGULAR"))
    with pytest.raises(DataError, match="EQUIRECTANGULAR cannot be undistorted"):
        prepare_dataset(tmp_path, tmp_path / "out", PrepareSettings())


def test_black_borders_are_masked(tmp_path):
    """A black wedge along the edge is masked with its bleeding pixels, a dark roof is not."""
    make_flight(tmp_path, count=4)
    picture = picture_of(camera_of("PINHOLE"))
    picture[0:2, :60] = 3
    picture[30:40, 40:60] = 0
    for path in (tmp_path / "images").iterdir():
        cv2.imwrite(str(path), picture)
    dataset = prepare_dataset(tmp_path, tmp_path / "out", PrepareSettings())
    valid = ImageStore(dataset.train).valid_mask(0)
    assert not valid[0:4, :60].any()
    assert valid[5:].all() and valid[:, 63:].all()
    json_names = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert json_names["train"]["images"][0]["valid"]["file"] == "train/valid/000000.png"


def test_no_border_no_mask():
    """An ordinary picture, and one with single dark specks at the edge, have no border."""
    picture = np.full((60, 80, 3), 120, np.uint8)
    assert border_mask(picture) is None
    picture[0, 10] = 0
    assert border_mask(picture) is None


@pytest.mark.parametrize(
    ("count", "share", "wanted"), [(100, 0.12, 12), (9, 0.25, 2), (5, 0.0, 0), (3, 0.99, 2)]
)
def test_evenly_spaced(count, share, wanted):
    """round(n * share) images, gaps equal within one, never all of them."""
    chosen = np.flatnonzero(evenly_spaced(count, share))
    assert len(chosen) == wanted
    if wanted > 2:
        gaps = np.diff(chosen)
        assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("strategy", ["camera_max", "camera_p99", "bbox_diag"])
def test_scale_strategies(tmp_path, strategy):
    """One unit is the stated distance in metres."""
    flight = make_flight(tmp_path)
    dataset = prepare_dataset(tmp_path, tmp_path / "out", PrepareSettings(scale_strategy=strategy))
    low, high = flight.centres_m.min(axis=0), flight.centres_m.max(axis=0)
    distances = np.linalg.norm(flight.centres_m - (low + high) / 2, axis=1)
    want = {
        "camera_max": distances.max(),
        "camera_p99": np.percentile(distances, 99),
        "bbox_diag": np.linalg.norm(high - low) / 2,
    }[strategy]
    assert dataset.frame.pose_scale_factor_m == pytest.approx(want)
    low_m, high_m = dataset.frame.altitude_range_enu_m
    assert high_m == pytest.approx(flight.centres_m[:, 2].max())
    assert low_m == pytest.approx(-100.0, abs=0.5)


@pytest.mark.parametrize("mode", ["first", "mean", "median"])
def test_enu_references(tmp_path, mode):
    """ENU zero is the chosen camera statistic."""
    flight = make_flight(tmp_path, ecef=True)
    settings = PrepareSettings(ecef_to_enu=True, enu_ref=mode)
    dataset = prepare_dataset(tmp_path, tmp_path / "out", settings)
    zero = {
        "first": flight.centres_m[0],
        "mean": flight.centres_m.mean(axis=0),
        "median": np.median(flight.centres_m, axis=0),
    }[mode]
    ref = dataset.frame.enu_ref
    assert np.allclose([ref.lat_deg, ref.lon_deg], np.ravel(enu_to_geodetic(zero, SITE)[:2]))
    assert ref.alt_m == pytest.approx(float(enu_to_geodetic(zero, SITE)[2]), abs=0.01)


def test_outlying_points_are_dropped(tmp_path):
    """A point further above the ground than allowed is left out, with its track."""
    make_flight(tmp_path)
    kept = prepare_dataset(tmp_path, tmp_path / "a", PrepareSettings()).points
    tight = prepare_dataset(tmp_path, tmp_path / "b", PrepareSettings(maximum_allowed_height_m=6.0))
    heights = tight.frame.world_to_enu_m(tight.points.xyz)[:, 2]
    assert len(tight.points) < len(kept) and heights.max() <= -93.9
    assert len(np.unique(tight.points.point_ids)) == len(tight.points)
    assert reprojection_errors(tight).max() < 0.01


def test_frame_without_points(tmp_path):
    """Without points the ground is taken to lie the allowed height below the highest camera."""
    make_flight(tmp_path, count=4)
    scene = to_enu(read_model(tmp_path), None)
    bare = type(scene)(scene.rotations, scene.centres_m, np.zeros((0, 3)), None)
    low_m, high_m = fit_frame(bare, "camera_max", 0.01, 120.0).altitude_range_enu_m
    assert high_m - low_m == pytest.approx(120.0)


def run_script(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONWARNINGS": "error::DeprecationWarning:nerfcore"},
    )


def test_command_line(tmp_path):
    """The script takes underscores and dashes, prints what it made, and refuses in one line."""
    make_flight(tmp_path, ecef=True)
    out = tmp_path / "out"
    done = run_script(
        "--data_path", tmp_path, "--output-path", out, "--ecef-to-enu", "--val_split", 0.2
    )
    assert done.returncode == 0, done.stderr
    assert "7 train, 2 validation" in done.stdout
    again = run_script("--data-path", tmp_path, "--output_path", out, "--ecef_to_enu")
    assert again.returncode == 11
    assert again.stderr.count("\n") == 1 and again.stderr.startswith("error: output_path:")
