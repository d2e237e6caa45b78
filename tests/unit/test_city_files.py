"""A small city on disk: a genuine COLMAP model, true projections, true changes, the same again."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pymap3d
import pytest

from nerfcore.city import CitySettings, Event, render, write, write_city
from nerfcore.city.flight import first_flight, look, second_flight
from nerfcore.city.plan import make_plan
from nerfcore.city.town import build_town

SMALL = CitySettings(
    seed=7, blocks=2, images=18, update_images=9, width_px=128, height_px=96, points=700,
    event=Event.COLLAPSE, ground_truth=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cities") / "small"
    write_city(out, SMALL)
    return out


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes(city: Path, tmp_path: Path) -> None:
    """Two runs write identical files, models and pictures included; another seed does not."""
    write_city(tmp_path / "again", SMALL)
    write_city(tmp_path / "other", replace(SMALL, seed=8, ground_truth=False))
    first = digest(city)
    assert digest(tmp_path / "again") == first
    other = digest(tmp_path / "other")
    assert other["before/images/0001.jpg"] != first["before/images/0001.jpg"]


def test_folders_hold_what_the_preparation_takes(city: Path) -> None:
    """`before` and `after` hold images and a model; the later model knows both flights' images."""
    before = pycolmap.Reconstruction(city / "before" / "model")
    after = pycolmap.Reconstruction(city / "after" / "model")
    old = {path.name for path in (city / "before" / "images").iterdir()}
    new = {path.name for path in (city / "after" / "images").iterdir()}
    assert {image.name for image in before.images.values()} == old
    assert {image.name for image in after.images.values()} == old | new
    assert (len(old), len(new)) == (18, 9)
    assert [camera.model.name for _, camera in sorted(after.cameras.items())] == [
        "OPENCV", "SIMPLE_RADIAL",
    ]  # fmt: skip
    for image in before.images.values():
        assert image.name == after.images[image.image_id].name
        gap = image.projection_center() - after.images[image.image_id].projection_center()
        assert np.abs(gap).max() < 1e-6


def test_cameras_fly_above_the_reference_in_ecef(city: Path) -> None:
    """Poses are in ECEF metres: back in ENU the cameras are over the site at survey height."""
    model = pycolmap.Reconstruction(city / "before" / "model")
    centres = np.array([image.projection_center() for image in model.images.values()])
    assert np.all(np.abs(np.linalg.norm(centres, axis=1) - 6.366e6) < 2e4)
    e, n, u = pymap3d.ecef2enu(*centres.T, SMALL.latitude_deg, SMALL.longitude_deg, SMALL.height_m)
    assert np.all(np.hypot(e, n) < 150)
    assert np.all((np.asarray(u) > 85) & (np.asarray(u) < 120))
    down = np.array([image.viewing_direction() for image in model.images.values()])
    assert np.all(np.sum(down * -centres, axis=1) / np.linalg.norm(centres, axis=1) > 0.6)


def test_points_project_to_their_observations_within_the_noise(city: Path) -> None:
    """Reprojection through the distorting cameras leaves just the pixel noise asked for."""
    for part in ("before", "after"):
        model = pycolmap.Reconstruction(city / part / "model")
        gaps = []
        for point in model.points3D.values():
            assert point.track.length() >= 3
            for element in point.track.elements:
                image = model.images[element.image_id]
                seen = image.points2D[element.point2D_idx]
                expected = image.project_point(point.xyz)
                assert expected is not None and seen.point3D_id in model.points3D
                gaps.append(seen.xy - expected)
        assert np.std(gaps) == pytest.approx(SMALL.pixel_noise_px, rel=0.05)
        assert np.abs(np.mean(gaps)) < 0.02
        assert model.compute_mean_reprojection_error() == pytest.approx(0.376, rel=0.05)


def test_points_lie_at_the_exact_depth(city: Path) -> None:
    """A point's distance from a camera that observes it is the depth map's, save at edges."""
    model = pycolmap.Reconstruction(city / "before" / "model")
    gaps = []
    for image in model.images.values():
        depth = np.load(city / "before" / "depth" / f"{Path(image.name).stem}.npz")["depth_m"]
        for seen in image.get_observation_points2D():
            point = model.points3D[seen.point3D_id]
            column, row = np.floor(image.project_point(point.xyz)).astype(int)
            distance = np.linalg.norm(point.xyz - image.projection_center())
            gaps.append(abs(depth[row, column] - distance))
    assert np.median(gaps) < 0.4
    assert np.percentile(gaps, 90) < 4.0


def test_points_have_the_photographs_colours(city: Path) -> None:
    """A point's colour is near the pixel at one of its observations."""
    model = pycolmap.Reconstruction(city / "before" / "model")
    image = model.images[1]
    picture = cv2.imread(str(city / "before" / "images" / image.name))
    assert picture is not None
    gaps = [
        np.abs(picture[int(seen.xy[1]), int(seen.xy[0]), ::-1].astype(int)
               - model.points3D[seen.point3D_id].color).mean()
        for seen in image.get_observation_points2D()
    ]  # fmt: skip
    assert np.median(gaps) < 12


def test_change_masks_mark_the_collapsed_buildings(city: Path) -> None:
    """A good part of the second flight changed, and the masks agree with points that vanished."""
    told = json.loads((city / "city.json").read_text())
    assert len(told["event"]["changed_buildings"]) >= 4
    masks = [
        cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        for path in sorted((city / "after" / "change").iterdir())
    ]
    assert len(masks) == 9 and all(set(np.unique(mask)) <= {0, 255} for mask in masks)
    share = float(np.mean([mask > 0 for mask in masks]))
    assert share == pytest.approx(told["changed_share"]) and share > 0.2


def test_change_masks_agree_with_depth_and_pictures(city: Path) -> None:
    """Had the second flight come before the event, it would differ just where the masks say."""
    town = build_town(SMALL)
    flight = second_flight(SMALL, town.plan, town.change)
    rays = render.pixel_rays(flight.camera, 2)
    for shot in flight.shots[::3]:
        stem = Path(shot.name).stem
        mask = cv2.imread(str(city / "after" / "change" / f"{stem}.png"), 0)
        picture = cv2.imread(str(city / "after" / "images" / shot.name))
        depth = np.load(city / "after" / "depth" / f"{stem}.npz")["depth_m"]
        assert mask is not None and picture is not None
        old_depth, _ = render.depth_map(
            town.before, town.plan, render.pixel_rays(flight.camera, 1), shot
        )
        assert np.all(mask[np.abs(old_depth - depth) > 3.0] == 255)
        old = render.photograph(town.before, town.plan, flight.camera, rays, shot)
        gap = np.abs(old.astype(int) - picture[..., ::-1]).mean(axis=-1)
        assert np.median(gap[mask > 0]) > 15
        assert np.median(gap[mask == 0]) < 4, "shadows may change, most pixels must not"


def test_changed_buildings_are_boxes_around_old_points(city: Path) -> None:
    """In ENU, points high within a collapsed building's box exist before, and not afterwards."""
    told = json.loads((city / "city.json").read_text())
    heights = {}
    for part in ("before", "after"):
        model = pycolmap.Reconstruction(city / part / "model")
        newest = [
            p.xyz for p in model.points3D.values()
            if part == "before" or min(e.image_id for e in p.track.elements) > SMALL.images
        ]  # fmt: skip
        reference = (SMALL.latitude_deg, SMALL.longitude_deg, SMALL.height_m)
        enu = np.stack(pymap3d.ecef2enu(*np.array(newest).T, *reference), axis=1)
        high = 0
        for building in told["event"]["changed_buildings"]:
            low, top = np.array(building["enu_min_m"]), np.array(building["enu_max_m"])
            within = np.all((enu >= low - 0.5) & (enu <= top + 3.5), axis=1)
            high += int(np.sum(within & (enu[:, 2] > low[2] + 0.6 * (top - low)[2])))
        heights[part] = high
    assert heights["before"] > 50
    assert heights["after"] == 0


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When writing fails in the middle, neither the folder nor a temporary one remains."""

    def fail(*_: object) -> float:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "write_model", fail)
    with pytest.raises(OSError, match="No space left"):
        write_city(tmp_path / "city", replace(SMALL, images=8, update_images=4))
    assert list(tmp_path.iterdir()) == []


def test_headings_turn_clockwise_from_north() -> None:
    """Looking east and level: forward is east, right is south, down is down."""
    axes = look(np.pi / 2, 0.0, 0.0)
    assert axes == pytest.approx(np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]]), abs=1e-12)
    assert look(0.3, 1.0, 0.1) @ look(0.3, 1.0, 0.1).T == pytest.approx(np.eye(3), abs=1e-12)
    assert np.linalg.det(look(0.3, 1.0, 0.1)) == pytest.approx(1.0)


def test_a_flight_has_as_many_shots_as_asked() -> None:
    """Any number of images is shared out over the passes, without a name twice."""
    plan = make_plan(0, 3)
    for images in (8, 13, 80, 101):
        shots = first_flight(replace(SMALL, images=images), plan).shots
        assert len({shot.name for shot in shots}) == images
