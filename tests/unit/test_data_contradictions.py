"""Models that contradict themselves or the command: refused before anything is written."""

from pathlib import Path

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
