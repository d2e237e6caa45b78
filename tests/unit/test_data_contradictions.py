"""Models that contradict themselves or the command: refused before anything is written."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
from data_flights import leftovers, make_flight

from nerfcore.data.prepare import PrepareSettings, prepare_dataset
from nerfcore.data.update import update_dataset
from nerfcore.errors import DataError
from nerfcore.geometry.geodesy import GeoPoint


def refused(folder: Path, reason: str, **settings: object) -> None:
    with pytest.raises(DataError, match=reason):
        prepare_dataset(folder, folder / "out", PrepareSettings(**settings))  # type: ignore[arg-type]
    assert not (folder / "out").exists() and leftovers(folder) == []


def test_a_lens_that_does_not_fit_the_points(tmp_path: Path) -> None:
    """A focal length far too long: whoever trained on this would wait for nothing."""
    make_flight(tmp_path, count=12)
    model = pycolmap.Reconstruction(str(tmp_path / "model"))
    for camera in model.cameras.values():
        params = np.array(camera.params)
        params[:1] *= 1.6
        camera.params = params
    model.write_binary(str(tmp_path / "model"))
    refused(
        tmp_path, r"model: its cameras see its points .* px from where .*export the model again"
    )


def test_cameras_that_only_tremble_see_no_depth(tmp_path: Path) -> None:
    make_flight(tmp_path, count=12)
    model = pycolmap.Reconstruction(str(tmp_path / "model"))
    centre, rng = model.images[1].projection_center(), np.random.default_rng(0)
    for image in model.images.values():
        turn = image.cam_from_world().rotation
        place = centre + rng.normal(0, 0.005, 3)
        pose = pycolmap.Rigid3d(turn, -turn.matrix() @ place)
        model.frame(image.frame_id).rig_from_world = pose
    model.write_binary(str(tmp_path / "model"))
    refused(tmp_path, r"all 12 cameras are in one place .within .* from the points")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"width": 10**12}, r"width of 1e\+12 px is outside 1\.\.65500"),
        ({"width": 65000, "height": 65000}, "65000x65000 px are more than"),
        ({"params": [1e12, 80.0, 48.0, 36.0]}, r"focal length of 1e\+12 px is outside"),
        ({"params": [80.0, -1.0, 48.0, 36.0]}, r"focal length of -1 px is outside"),
        ({"params": [80.0, 80.0, 48.0, 1e9]}, r"principal point at y = 1e\+09 px"),
    ],
)
def test_a_camera_that_cannot_be(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    make_flight(tmp_path)
    model = pycolmap.Reconstruction(str(tmp_path / "model"))
    for field, value in change.items():
        setattr(model.cameras[1], field, value)
    model.write_binary(str(tmp_path / "model"))
    refused(tmp_path, rf"model: the camera of '0000\.png' cannot be: {reason}")


def as_text(folder: Path) -> Path:
    """Turn the flight's model into text; return its folder."""
    model = pycolmap.Reconstruction(str(folder / "model"))
    for path in (folder / "model").iterdir():
        path.unlink()
    model.write_text(str(folder / "model"))
    return folder / "model"


@pytest.mark.parametrize("stem", ["cameras", "images", "points3D"])
def test_a_text_model_cut_within_its_last_line(tmp_path: Path, stem: str) -> None:
    make_flight(tmp_path)
    path = as_text(tmp_path) / f"{stem}.txt"
    path.write_text(path.read_text().rstrip()[:-2])
    refused(tmp_path, rf"{stem}\.txt: cut off, its last line has no end")


def shorten(path: Path, line: int, fields: int) -> None:
    """Take the last fields of a line (from 0, comments and all) away."""
    lines = path.read_text().splitlines()
    lines[line] = " ".join(lines[line].split()[:-fields])
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("stem", "line", "fields", "reason"),
    [
        ("cameras", 3, 1, r"cameras\.txt: line 4 is cut off or damaged \(7 fields"),
        ("images", 6, 1, r"images\.txt: line 7 is cut off or damaged \(9 fields"),
        ("images", 7, 1, r"images\.txt: line 8 is cut off or damaged"),
        ("images", 7, 3, r"model: a track in points3D names an observation that images does not"),
        ("points3D", 9, 1, r"points3D\.txt: line 10 is cut off or damaged"),
        ("points3D", 9, 2, r"points3D\.txt: point 7 has a track of \d+ .* a line was cut off"),
        ("frames", 5, 1, r"frames\.txt: line 6 is cut off or damaged"),
        ("rigs", 3, 1, r"rigs\.txt: line 4 is cut off or damaged"),
    ],
)
def test_a_text_model_cut_within_a_line_in_its_middle(
    tmp_path: Path, stem: str, line: int, fields: int, reason: str
) -> None:
    make_flight(tmp_path)
    shorten(as_text(tmp_path) / f"{stem}.txt", line, fields)
    refused(tmp_path, reason)


@pytest.mark.filterwarnings("error")
def test_a_pose_without_a_rotation(tmp_path: Path) -> None:
    make_flight(tmp_path)
    path = tmp_path / "model" / "images.bin"
    for name in ("rigs.bin", "frames.bin"):
        (tmp_path / "model" / name).unlink()
    content = bytearray(path.read_bytes())
    content[12:44] = bytes(32)  # count u64, id u32, then the quaternion
    path.write_bytes(bytes(content))
    refused(tmp_path, r"model: the pose of '000\d\.png' has a quaternion of length 0")


def test_a_text_model_needs_no_room_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is copied to the temporary folder, which may be full or missing."""
    make_flight(tmp_path)
    as_text(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    dataset = prepare_dataset(tmp_path, tmp_path / "out", PrepareSettings())
    assert dataset.points is not None and len(dataset.points) > 100


@pytest.mark.parametrize("field", [1, 6])
def test_a_pose_in_text_that_is_not_finite_names_the_photograph(tmp_path: Path, field: int) -> None:
    make_flight(tmp_path)
    path = as_text(tmp_path) / "images.txt"
    lines = path.read_text().splitlines()
    row = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    parts = lines[row].split()
    name, parts[field] = parts[9], "nan"
    lines[row] = " ".join(parts)
    path.write_text("\n".join(lines) + "\n")
    refused(tmp_path, rf"images\.txt: photograph '{name}' has a pose with 'nan'")


def test_a_reference_far_from_the_site(tmp_path: Path) -> None:
    make_flight(tmp_path, ecef=True)
    settings = {
        "ecef_to_enu": True,
        "enu_ref": "custom",
        "enu_ref_point": GeoPoint(-33.0, 151.0, 0),
    }
    refused(tmp_path, r"enu_ref_lat.* km from the cameras .*name a point at the site", **settings)
    settings["enu_ref_point"] = GeoPoint(50.0, 8.0, float("nan"))
    refused(tmp_path, r"enu_ref_lat.*nan", **settings)


@pytest.mark.parametrize("ecef", [True, False])
def test_an_update_in_other_coordinates_says_what_helps(tmp_path: Path, ecef: bool) -> None:
    make_flight(tmp_path / "first", ecef=ecef)
    make_flight(tmp_path / "second", ecef=not ecef)
    dataset = tmp_path / "out"
    prepare_dataset(tmp_path / "first", dataset, PrepareSettings(ecef_to_enu=ecef))
    with pytest.raises(DataError, match=r"register the new photographs in the old flight's model"):
        update_dataset(dataset, tmp_path / "second")
    assert not (dataset / "continual").exists()
