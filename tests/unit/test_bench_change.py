"""How a change map is judged: areas, buildings, pictures; on a small city whose truth is known."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pymap3d
import pytest
from test_evaluation_frame import ROW

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import bench_change  # noqa: E402

from nerfcore.city import CitySettings, Event, write_city  # noqa: E402
from nerfcore.city.town import Town  # noqa: E402
from nerfcore.errors import DataError  # noqa: E402
from nerfcore.evaluation import write_metrics  # noqa: E402
from nerfcore.evaluation.change_map import PICTURE_FILE, WORLD_FILE  # noqa: E402
from nerfcore.geometry.geodesy import GeoPoint  # noqa: E402

HALF_M, SIDE_PX = 70.0, 140  # the map: 1 m a pixel around the city's reference
SEEN = 80


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("change") / "city"
    settings = CitySettings(
        seed=5, blocks=2, images=8, update_images=5, width_px=128, height_px=96, points=300,
        event=Event.COLLAPSE,
    )  # fmt: skip
    write_city(root, settings)
    return root


@pytest.fixture(scope="module")
def known(city: Path) -> tuple[Town, dict[str, Any]]:
    return bench_change.town_of(city)


def east_north() -> np.ndarray:
    """Places of the map's pixels in metres, row 0 in the north."""
    steps = np.arange(SIDE_PX) + 0.5 - HALF_M
    return np.stack(np.meshgrid(steps, -steps), axis=-1)


def write_map(job: Path, alpha: np.ndarray, record: dict[str, Any]) -> None:
    """A change map of these alphas, placed by pymap3d."""
    where = record["enu_reference"]
    reference = (where["latitude_deg"], where["longitude_deg"], where["height_m"])
    places = [(0.5, 0.5), (1.5, 0.5), (0.5, 1.5)]
    found = [pymap3d.enu2geodetic(x - HALF_M, HALF_M - y, 0.0, *reference) for x, y in places]
    (lat, lon, _), (lat_x, lon_x, _), (lat_y, lon_y, _) = found
    values = (lon_x - lon, lat_x - lat, lon_y - lon, lat_y - lat, lon, lat)
    (job / WORLD_FILE).write_text("".join(f"{float(value):.14g}\n" for value in values))
    picture = np.dstack([np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8), alpha.astype(np.uint8)])
    cv2.imwrite(str(job / PICTURE_FILE), picture)


def test_the_maps_pixels_lie_where_they_were_drawn(
    tmp_path: Path, known: tuple[Town, dict[str, Any]]
) -> None:
    _, record = known
    write_map(tmp_path, np.full((SIDE_PX, SIDE_PX), SEEN), record)
    where = record["enu_reference"]
    reference = GeoPoint(where["latitude_deg"], where["longitude_deg"], where["height_m"])
    places = bench_change.map_places(tmp_path, reference, (SIDE_PX, SIDE_PX))
    assert np.abs(places - east_north()).max() < 0.05


def test_areas_and_buildings_are_counted_by_hand(
    tmp_path: Path, known: tuple[Town, dict[str, Any]]
) -> None:
    """The truth itself, nothing, all, and the west alone, of which the east was never seen."""
    town, record = known
    truth = bench_change.changed_ground(town, east_north())
    share, names = truth.mean(), [b["name"] for b in record["event"]["changed_buildings"]]
    assert 0.01 < share < 0.5 and len(names) >= 1

    def judged(alpha: np.ndarray) -> dict[str, Any]:
        write_map(tmp_path, alpha, record)
        return bench_change.judge_map(tmp_path, town, record)

    exact = judged(np.where(truth, 255, SEEN))
    assert exact["precision_by_area"] > 0.97 and exact["recall_by_area"] > 0.97
    assert exact["buildings_found"] == exact["buildings_seen"] == len(names)
    nothing = judged(np.full_like(truth, SEEN, np.uint8))
    assert (nothing["precision_by_area"], nothing["recall_by_area"]) == (0.0, 0.0)
    assert (nothing["buildings_found"], nothing["buildings_seen"]) == (0, len(names))
    everything = judged(np.full_like(truth, 255, np.uint8))
    assert everything["recall_by_area"] == 1.0
    assert everything["precision_by_area"] == pytest.approx(share, abs=0.01)
    assert everything["share_of_each_building"] == dict.fromkeys(names, 1.0)
    unseen = judged(np.zeros_like(truth, np.uint8))
    assert unseen["buildings_seen"] == 0
    assert unseen["share_of_each_building"] == dict.fromkeys(names)


def test_a_building_counts_as_found_from_half_of_its_ground_on(
    tmp_path: Path, known: tuple[Town, dict[str, Any]]
) -> None:
    """45 in 100 of its pixels are not enough, 55 are."""
    town, record = known
    first = record["event"]["changed_buildings"][0]
    alone = {**record, "event": {**record["event"], "changed_buildings": [first]}}
    corners = np.array(first["footprint_enu_m"], np.float32)
    outline = np.asarray(cv2.convexHull(corners)[:, 0], np.float32)
    own = np.argwhere(bench_change._inside(east_north(), outline))
    assert len(own) > 40
    counts = []
    for share in (0.45, 0.55):
        alpha = np.full((SIDE_PX, SIDE_PX), SEEN)
        alpha[tuple(own[: round(share * len(own))].T)] = 255
        write_map(tmp_path, alpha, record)
        judged = bench_change.judge_map(tmp_path, town, alone)
        counts.append(judged["buildings_found"])
        (found,) = judged["share_of_each_building"].values()
        assert found == pytest.approx(share, abs=0.03)
    assert counts == [0, 1]


def test_inside_an_outline_either_way_round() -> None:
    square = np.array([[0, 0], [2, 0], [2, 1], [0, 1]], np.float32)
    places = np.array([[1.0, 0.5], [1.9, 0.9], [2.1, 0.5], [1.0, -0.1], [-3.0, 0.5]])
    for outline in (square, square[::-1]):
        found = bench_change._inside(places, outline)
        assert found.tolist() == [True, True, False, False, False]


def test_pictures_are_scored_over_changed_and_unchanged_pixels_apart(
    tmp_path: Path, city: Path
) -> None:
    """One photograph all changed and off by 51 levels, one unchanged and off by 26: 20 log10."""
    images = sorted(path.name for path in (city / "after/images").iterdir())[:2]
    copy = tmp_path / "city"
    (copy / "after/change").mkdir(parents=True)
    (copy / "after/model").symlink_to(city / "after/model")
    job = tmp_path / "job"
    for image, changed in zip(images, (255, 0), strict=True):
        mask = np.full((96, 128), changed, np.uint8)
        cv2.imwrite(str(copy / "after/change" / f"{Path(image).stem}.png"), mask)
    offsets = {0: (51, 26), 4: (26, 26)}
    for tto, levels in offsets.items():
        for image, level in zip(images, levels, strict=True):
            for folder, value in ((job / "gt", 100), (job / "pred" / str(tto), 100 + level)):
                folder.mkdir(parents=True, exist_ok=True)
                picture = np.full((48, 64, 3), value, np.uint8)
                cv2.imwrite(str(folder / f"new_heldout__{Path(image).stem}.png"), picture)
    rows = [replace(ROW, tto=tto, split="new_heldout", image=i) for tto in offsets for i in images]
    write_metrics(job, [*rows, replace(ROW, image="elsewhere.png")])
    found = bench_change.judge_pictures(copy, job)
    calm, wild = -20 * np.log10(26 / 255), -20 * np.log10(51 / 255)
    assert found == [
        {"tto": 0, "changed_db": pytest.approx(wild), "unchanged_db": pytest.approx(calm)},
        {"tto": 4, "changed_db": pytest.approx(calm), "unchanged_db": pytest.approx(calm)},
    ]
    (job / "pred/4" / f"new_heldout__{Path(images[0]).stem}.png").unlink()
    with pytest.raises(DataError, match=f"pictures of {images[0]} after 4 steps are missing"):
        bench_change.judge_pictures(copy, job)


def test_a_city_of_another_version_is_refused(tmp_path: Path, city: Path) -> None:
    """Its record and what is built from it do not agree."""
    record = json.loads((city / "city.json").read_text())
    record["event"]["changed_buildings"][0]["enu_min_m"][0] += 1.0
    (tmp_path / "city.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match="another version of the city; make it again"):
        bench_change.town_of(tmp_path)
