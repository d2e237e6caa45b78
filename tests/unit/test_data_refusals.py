"""Preparing flights: every refusal, and that nothing half-written is left."""

import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pycolmap
import pytest
from data_flights import leftovers, make_flight

from nerfcore.data.dataset import load_dataset
from nerfcore.data.images import read_photograph
from nerfcore.data.prepare import PrepareSettings, prepare_dataset
from nerfcore.errors import DataError
from nerfcore.geometry.geodesy import GeoPoint


def test_refuses_an_existing_output(tmp_path):
    """Without --overwrite an existing output stays as it is; with it, it is replaced."""
    make_flight(tmp_path)
    out = tmp_path / "out"
    prepare_dataset(tmp_path, out, PrepareSettings())
    before = (out / "dataset.json").read_bytes()
    with pytest.raises(DataError, match="exists; add --resume, --overwrite"):
        prepare_dataset(tmp_path, out, PrepareSettings(val_split=0.3))
    assert (out / "dataset.json").read_bytes() == before
    dataset = prepare_dataset(tmp_path, out, PrepareSettings(val_split=0.3, overwrite=True))
    assert len(dataset.val) == 3 and leftovers(tmp_path) == []


def test_overwrite_spares_what_is_no_dataset(tmp_path):
    """--overwrite never removes a folder that is not a prepared dataset, nor the input."""
    make_flight(tmp_path / "flight")
    (tmp_path / "precious").mkdir()
    settings = PrepareSettings(overwrite=True)
    with pytest.raises(DataError, match="no prepared dataset"):
        prepare_dataset(tmp_path / "flight", tmp_path / "precious", settings)
    with pytest.raises(DataError, match="holds the input"):
        prepare_dataset(tmp_path / "flight", tmp_path, settings)
    assert (tmp_path / "precious").is_dir() and (tmp_path / "flight" / "model").is_dir()


def remove_some(flight):
    for name in flight.names[2:]:
        (flight.root / "images" / name).unlink()


def cut_one(flight):
    path = flight.root / "images" / flight.names[3]
    path.write_bytes(path.read_bytes()[:200])


def empty_one(flight):
    (flight.root / "images" / flight.names[3]).write_bytes(b"")


def not_an_image(flight):
    (flight.root / "images" / flight.names[3]).write_text("hello")


def resize_one(flight):
    cv2.imwrite(str(flight.root / "images" / flight.names[3]), np.zeros((10, 20, 3), np.uint8))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (remove_some, r"14 of 16 photographs.*0002\.png, .*0011\.png, \.\.\.; copy"),
        (cut_one, r"0003\.png: unreadable photograph \(cut off, 200 bytes\)"),
        (empty_one, r"0003\.png: unreadable photograph \(empty"),
        (not_an_image, r"0003\.png: unreadable photograph \(not an image"),
        (resize_one, r"0003\.png: 20x10 px, but its camera says 96x72"),
    ],
)
def test_bad_photographs(tmp_path, spoil, reason):
    """Missing, cut-off, empty and wrongly sized photographs are named, and nothing is written."""
    spoil(make_flight(tmp_path, count=16))
    with pytest.raises(DataError, match=reason):
        prepare_dataset(tmp_path, tmp_path / "out", PrepareSettings())
    assert not (tmp_path / "out").exists() and leftovers(tmp_path) == []


def test_cut_off_jpeg_with_a_whole_thumbnail(tmp_path):
    """A JPEG cut in its pixels is refused although a thumbnail inside it has its own end."""
    done, thumbnail = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    content = cv2.imencode(".jpg", noise)[1].tobytes()
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail.tobytes()
    whole = content[:2] + segment + content[2:]
    path = tmp_path / "a.jpg"
    path.write_bytes(whole)
    assert done and read_photograph(path).shape == (64, 64, 3)
    path.write_bytes(whole[:-200])
    with pytest.raises(DataError, match="cut off"):
        read_photograph(path)


def test_coordinates_must_be_what_is_said(tmp_path):
    """--ecef_to_enu on local data, and ECEF data without it, are refused with the mend."""
    make_flight(tmp_path / "local", count=4)
    make_flight(tmp_path / "ecef", count=4, ecef=True)
    with pytest.raises(DataError, match="leave --ecef_to_enu out"):
        prepare_dataset(tmp_path / "local", tmp_path / "o", PrepareSettings(ecef_to_enu=True))
    with pytest.raises(DataError, match="add --ecef_to_enu"):
        prepare_dataset(tmp_path / "ecef", tmp_path / "o", PrepareSettings())


def test_cameras_in_one_place(tmp_path):
    """A flight that does not move has no scale."""
    make_flight(tmp_path, count=1)
    with pytest.raises(DataError, match="1 cameras are in one place"):
        prepare_dataset(tmp_path, tmp_path / "out", PrepareSettings())


@pytest.mark.parametrize("ecef", [False, True], ids=["local", "ecef"])
def test_a_drone_that_hovers(tmp_path, ecef):
    """Cameras that only turn have no scale either: the model is named, nothing is written."""
    make_flight(tmp_path, count=5, ecef=ecef)
    model = pycolmap.Reconstruction(str(tmp_path / "model"))
    centre = model.images[1].projection_center()
    for image in model.images.values():
        turn = image.cam_from_world().rotation
        pose = pycolmap.Rigid3d(turn, -turn.matrix() @ centre)
        model.frame(image.frame_id).rig_from_world = pose
    model.write_binary(str(tmp_path / "model"))
    with pytest.raises(DataError, match=r"model: all 5 cameras are in one place .*that moves"):
        prepare_dataset(tmp_path, tmp_path / "out", PrepareSettings(ecef_to_enu=ecef))
    assert not (tmp_path / "out").exists() and leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("val_split", 1.0),
        ("val_split", -0.1),
        ("points_low_alt_percentile", 1.5),
        ("maximum_allowed_height_m", 0.0),
        ("enu_ref", "custom"),
        ("enu_ref_point", GeoPoint(0, 0, 0)),
    ],
)
def test_settings_out_of_range(field, value):
    """Each setting names itself when out of range or contradictory."""
    with pytest.raises(DataError, match=field.removesuffix("_m").removesuffix("_point")):
        PrepareSettings(**{field: value})


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda r: r.update(format_version=2), "format_version is 2, this version reads 1"),
        (lambda r: r["frame"].update(pose_scale_factor_m=-1), r"frame\.pose_scale_factor_m"),
        (lambda r: r["train"]["images"][0]["rgb"].update(file="../x"), "relative path"),
        (lambda r: r["train"]["images"].pop(), "c2w is float32"),
        (lambda r: r.update(extra=1), "extra"),
    ],
)
def test_damaged_listing(tmp_path, spoil, reason):
    """A dataset.json that was changed by hand is refused by field."""
    make_flight(tmp_path, count=4)
    prepare_dataset(tmp_path, tmp_path / "out", PrepareSettings())
    path = tmp_path / "out" / "dataset.json"
    record = json.loads(path.read_text())
    spoil(record)
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match=reason):
        load_dataset(tmp_path / "out")


def test_changed_files(tmp_path):
    """Missing, resized and altered files are found; altered photographs with checksum=True."""
    make_flight(tmp_path, count=4)
    out = tmp_path / "out"
    dataset = prepare_dataset(tmp_path, out, PrepareSettings())
    content = bytearray(dataset.train.paths[0].read_bytes())
    content[-30] ^= 1
    dataset.train.paths[0].write_bytes(bytes(content))
    load_dataset(out)
    with pytest.raises(DataError, match="SHA-256"):
        load_dataset(out, checksum=True)
    dataset.train.paths[0].unlink()
    with pytest.raises(DataError, match="missing though listed"):
        load_dataset(out)
    shutil.copy(dataset.train.paths[1], dataset.train.paths[0])
    content = bytearray((out / "points.npz").read_bytes())
    content[100] ^= 255
    (out / "points.npz").write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"points\.npz"):
        load_dataset(out)


def test_a_kill_leaves_nothing_at_the_output(tmp_path):
    """A preparation killed in its middle leaves no output, and the next one clears up after it."""
    make_flight(tmp_path, count=4)
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from nerfcore.data.prepare import PrepareSettings, prepare_dataset\n"
        "def kill(phase, done, total):\n"
        "    if phase.startswith('train') and done == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "root = Path(sys.argv[1])\n"
        "prepare_dataset(root, root / 'out', PrepareSettings(), kill)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60, check=False)
    assert done.returncode == -9
    assert not (tmp_path / "out").exists() and len(leftovers(tmp_path)) == 1
    assert len(prepare_dataset(tmp_path, tmp_path / "out", PrepareSettings()).train) == 4
    assert leftovers(tmp_path) == []
