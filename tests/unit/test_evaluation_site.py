"""Change map, retention, halves, overlap, expert shares, summaries and versions, by hand."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from engine_scenes import grid_partition, tiny_scene
from test_evaluation_frame import ROW

from nerfcore.adaptation.disagreement import Disagreement
from nerfcore.checkpoint import CheckpointStore
from nerfcore.checkpoint.versions import keep_original, roll_back, versions
from nerfcore.data.images import ImageStore
from nerfcore.data.records import ImageSet, SceneFrame, SparsePoints
from nerfcore.errors import CheckpointError, DataError
from nerfcore.evaluation import metrics_frame, write_metrics
from nerfcore.evaluation.change_map import CELL_PX, changed_areas, write_change_map
from nerfcore.evaluation.frame import PARQUET_FILE, SUMMARY_FILE, summarise_by_tto
from nerfcore.evaluation.halves import keep_half, left_points
from nerfcore.evaluation.overlap import require_overlap
from nerfcore.evaluation.retention import SiteErrors
from nerfcore.evaluation.weights import ExpertShares
from nerfcore.geometry.camera import Camera, Rendered
from nerfcore.geometry.geodesy import GeoPoint
from nerfcore.sampling.ground import GroundGrid

GRID = GroundGrid((-1.0, -1.0), 0.25, (8, 8))
FRAME = SceneFrame(40.0, np.zeros(3), GeoPoint(51.5, 7.4, 100.0), (0.0, 50.0))
LOOK_DOWN = np.array([[0, 0, -1, -2], [1, 0, 0, 0], [0, -1, 0, 0]], np.float32)
DOWN = Camera(LOOK_DOWN, 64.0, 64.0, 32.0, 32.0, 64, 64)


def errors(changed: np.ndarray) -> Disagreement:
    """Errors four times the usual in changed cells, the usual ones elsewhere; row 0 unseen."""
    new = np.where(changed, 0.2, 0.05).astype(np.float32)
    new[0] = np.nan
    return Disagreement(GRID, new, np.full((8, 8), 0.05, np.float32), np.full((8, 8), 3, np.int32))


def test_changed_areas_by_hand() -> None:
    """Cells of 10 m: an area of 2 x 3 cells, one of 2 x 2, and a speck that does not count."""
    changed = np.zeros((8, 8), np.bool_)
    changed[1:3, 1:4] = changed[5:7, 5:7] = True
    changed[7, 0] = True
    areas = changed_areas(errors(changed), changed, FRAME)
    assert [(a.rank, a.area_m2, a.width_m, a.length_m) for a in areas] == [
        (1, pytest.approx(600), pytest.approx(20), pytest.approx(30)),
        (2, pytest.approx(400), pytest.approx(20), pytest.approx(20)),
    ]
    # middle of rows 1, 2 and columns 1 to 3: 0.5 units (20 m) west and 0.375 (15 m) north
    assert (areas[0].east_m, areas[0].north_m) == pytest.approx((-20.0, 15.0))
    assert areas[0].latitude_deg == pytest.approx(51.5 + 15 / 111_250, abs=2e-6)
    per_degree_m = 111_320 * math.cos(math.radians(51.5))
    assert areas[0].longitude_deg == pytest.approx(7.4 - 20 / per_degree_m, abs=3e-6)
    assert areas[0].error_ratio == pytest.approx(4.0)


def test_the_picture_lies_where_its_world_file_says(tmp_path: Path) -> None:
    changed = np.zeros((8, 8), np.bool_)
    changed[5:7, 1:3] = True  # east of the middle, in the north
    areas = write_change_map(tmp_path, errors(changed), changed, FRAME)
    picture = cv2.imread(str(tmp_path / "change_map.png"), cv2.IMREAD_UNCHANGED)
    assert picture is not None and picture.shape == (8 * CELL_PX, 8 * CELL_PX, 4)
    assert (picture[:, :CELL_PX, 3] == 0).all()  # the westernmost cells were not seen
    rows, columns = np.nonzero(picture[..., 3] == 255)
    a, d, b, e, c, f = map(float, (tmp_path / "change_map.pgw").read_text().split())
    longitude = a * columns.mean() + b * rows.mean() + c
    latitude = d * columns.mean() + e * rows.mean() + f
    assert (latitude, longitude) == pytest.approx(
        (areas[0].latitude_deg, areas[0].longitude_deg), abs=1e-8
    )
    assert e < 0 < a
    listed = pd.read_csv(tmp_path / "change_areas.csv")
    assert listed["area_m2"].tolist() == [400.0]
    assert "WGS 84" in (tmp_path / "change_map.prj").read_text()


def test_without_a_place_on_the_earth_the_map_is_in_metres(tmp_path: Path) -> None:
    changed = np.zeros((8, 8), np.bool_)
    changed[2:4, 2:4] = True
    frame = replace(FRAME, enu_ref=None)
    areas = write_change_map(tmp_path, errors(changed), changed, frame)
    assert math.isnan(areas[0].latitude_deg) and areas[0].east_m == pytest.approx(-10.0)
    a, d, b, e, c, f = map(float, (tmp_path / "change_map.pgw").read_text().split())
    size_m = 10.0 / CELL_PX
    assert (a, d, b, e) == pytest.approx((size_m, 0, 0, -size_m), abs=1e-6)
    assert (c, f) == pytest.approx((-40 + size_m / 2, 40 - size_m / 2), abs=1e-6)
    assert not (tmp_path / "change_map.prj").exists()


def image_set(folder: Path, poses: list[np.ndarray], size: tuple[int, int] = (64, 64)) -> ImageSet:
    """Grey photographs."""
    count = len(poses)
    paths = tuple(folder / f"{i}.png" for i in range(count))
    for path in paths:
        cv2.imwrite(str(path), np.full((size[1], size[0], 3), 128, np.uint8))
    return ImageSet(
        tuple(p.name for p in paths), paths, (None,) * count, np.stack(poses),
        np.tile(np.array([64.0, 64.0, size[0] / 2, size[1] / 2], np.float32), (count, 1)),
        np.full(count, size[0], np.int32), np.full(count, size[1], np.int32),
    )  # fmt: skip


def flat(rgb: float) -> Rendered:
    """A grey picture of level ground at height 0 under LOOK_DOWN, 10 m a unit."""
    rays = DOWN.rays()[1]
    depth_m = (20.0 / rays[:, 0]).reshape(64, 64).astype(np.float32)
    picture = np.full((64, 64, 3), rgb, np.float32)
    return Rendered(picture, depth_m, np.ones((64, 64), np.float32))


def test_retention_by_hand(tmp_path: Path) -> None:
    """The west gets worse from an error of 0.1 to 0.2 (6.02 dB), the east stays."""
    site = SiteErrors(GRID, 10.0)
    truth = 128 / 255
    with ImageStore(image_set(tmp_path, [LOOK_DOWN])) as store:
        before, after = flat(truth + 0.1), flat(truth + 0.1)
        after.rgb[:, :32] = truth + 0.2
        assert site.write(tmp_path) is None
        site.add(0, store, 0, before)
        site.add(16, store, 0, after)
    gain = site.gain_db()
    assert gain is not None
    assert gain[:4] == pytest.approx(-6.02, abs=0.01)
    assert gain[4:] == pytest.approx(0.0, abs=0.01)
    west = np.zeros(GRID.shape, np.bool_)
    west[:4] = True
    assert site.beside(west) == pytest.approx({
        "share_inside": 0.5, "inside_before_db": 20.0, "inside_after_db": 13.979,
        "outside_before_db": 20.0, "outside_after_db": 20.0,
    }, abs=2e-3)  # fmt: skip
    picture = site.write(tmp_path)
    assert picture is not None
    colours = cv2.imread(str(picture))
    assert colours is not None
    blue, _, red = colours[16, 4]
    assert red > blue and colours[16, 28].min() >= 254


def test_halves_split_every_image(tmp_path: Path) -> None:
    """Together they are the image, an odd middle column goes to the right half."""
    images = image_set(tmp_path, [LOOK_DOWN, LOOK_DOWN], (5, 4))
    masks = []
    for side in ("left", "right"):
        with ImageStore(images) as store:
            keep_half(store, side)
            masks.append(store.valid_mask(1).copy())
    assert (masks[0] ^ masks[1]).all()
    assert masks[0].sum(axis=1).tolist() == [2] * 4 and masks[0][:, :2].all()


def test_points_that_only_a_right_half_sees_are_kept_from_the_adaptation(tmp_path: Path) -> None:
    """Of four points: seen left in one of two images, right in both, in an unknown image, not."""
    images = image_set(tmp_path, [LOOK_DOWN, LOOK_DOWN], (5, 4))
    observations = [(0, 0, 1.9), (1, 0, 4.5), (0, 1, 2.1), (1, 1, 3.0), (2, 2, 0.5)]
    images_seen, points_seen, columns = zip(*observations, strict=True)
    points = SparsePoints(
        xyz=np.arange(12, dtype=np.float32).reshape(4, 3),
        rgb=np.zeros((4, 3), np.uint8),
        error_px=np.zeros(4, np.float32),
        track_lengths=np.full(4, 2, np.int32),
        image_names=(*images.names, "another.png"),
        image_ids=np.array(images_seen, np.int32),
        point_ids=np.array(points_seen, np.int32),
        xy_px=np.array([(x, 1.0) for x in columns], np.float32),
    )
    left = left_points(points, images)
    assert left.xyz.tolist() == [[0.0, 1.0, 2.0]]
    assert len(left.rgb) == len(left.error_px) == len(left.track_lengths) == 1
    assert len(left.image_ids) == len(left.point_ids) == len(left.xy_px) == 0


def test_images_of_another_place_are_refused_with_their_distance(tmp_path: Path) -> None:
    partition = grid_partition(2, 2)
    away = LOOK_DOWN.copy()
    away[1, 3] = 4.0  # 3 units east of the box's edge, 10 m a unit
    images = image_set(tmp_path, [away])
    with pytest.raises(DataError, match=r"batch = b1: none of its 1 images.*30 m"):
        require_overlap(images, partition, 10.0, "batch = b1")
    require_overlap(image_set(tmp_path, [away, LOOK_DOWN]), partition, 10.0, "batch = b1")


@pytest.mark.parametrize(("height", "side"), [(-2.0, "above"), (3.0, "below")])
def test_cameras_over_the_site_that_look_away_are_told_so(
    tmp_path: Path, height: float, side: str
) -> None:
    """Not that they are 0 m from it: two of three stand over it, the nearer 60 or 100 m off."""
    partition = grid_partition(1, 1)  # 40 m a unit; from -0.5, the top, to 0.5
    away = LOOK_DOWN.copy()
    away[:, 3] = height, 0.2, -0.3
    if side == "above":
        away[0, 2] = 1.0  # at the sky
    farther, beside = away.copy(), away.copy()
    farther[0, 3] *= 2.0
    beside[1, 3] = 5.0
    metres = {"above": 60, "below": 100}[side]
    wanted = (
        "batch = b: none of its 3 images looks at the site; cameras over its ground (2, the "
        f"nearest {metres} m {side} the site) look away from it; check which way"
    )
    with pytest.raises(DataError, match=re.escape(wanted)):
        require_overlap(image_set(tmp_path, [farther, away, beside]), partition, 40.0, "batch = b")
    require_overlap(image_set(tmp_path, [away, LOOK_DOWN]), partition, 40.0, "batch = b")


def test_expert_shares_by_hand() -> None:
    """Straight down at two experts side by side: half and half; the sky shows none."""
    shares = ExpertShares(grid_partition(1, 2, margin=1.0), 10.0)
    camera = DOWN
    assert shares.of(camera, flat(0.5)) == "0:0.500 1:0.500"
    sky = replace(flat(0.5), depth_m=np.full((64, 64), np.nan, np.float32))
    assert shares.of(camera, sky) == ""


def test_summary_has_one_row_a_tto(tmp_path: Path) -> None:
    rows = [
        replace(ROW, tto=0, split="old_val", psnr=24.0), replace(ROW, tto=16, psnr=23.5),
        replace(ROW, tto=0, split="new_heldout", psnr=15.0),
        replace(ROW, tto=16, split="new_heldout", psnr=20.0, rays=64_000),
    ]  # fmt: skip
    summary = summarise_by_tto(metrics_frame(rows))
    assert summary["tto"].tolist() == [0, 16]
    assert summary["forgetting_db"].tolist() == pytest.approx([0.0, 0.5])
    assert summary["psnr_new_heldout"].tolist() == [15.0, 20.0]
    assert summary["psnr_adapted"].isna().all()
    write_metrics(tmp_path, rows)
    assert pd.read_csv(tmp_path / SUMMARY_FILE)["tto"].tolist() == [0, 16]
    try:
        import pyarrow  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        assert not (tmp_path / PARQUET_FILE).exists()
    else:
        assert len(pd.read_parquet(tmp_path / PARQUET_FILE)) == 4


def test_an_adapted_version_lies_beside_its_original_and_can_be_left_again(tmp_path: Path) -> None:
    scene = tiny_scene(1, 2)
    original = CheckpointStore(tmp_path / "train" / "checkpoints").save(scene, 7, psnr=20.0)
    manifest = (original / "manifest.json").read_bytes()
    folder = tmp_path / "eval" / "checkpoints"
    kept = keep_original(folder, original)
    scene.experts[0]["sigma.0"].add_(1.0)
    adapted = CheckpointStore(folder).save(scene, 23)
    assert (kept.name, adapted.name) == ("step7", "step23")
    assert versions(folder) == ["step7", "step23"]
    assert (kept / "manifest.json").read_bytes() == manifest
    assert roll_back(folder) == ("step23", "step7")
    assert json.loads((folder / "index.json").read_text())["last"] == "step7"
    assert roll_back(folder, "step23") == ("step7", "step23")
    assert (original / "manifest.json").read_bytes() == manifest and adapted.is_dir()
    roll_back(folder)
    with pytest.raises(CheckpointError, match="nothing is before it"):
        roll_back(folder)
    with pytest.raises(CheckpointError, match=r"no version step9; there are step7, step23"):
        roll_back(folder, "step9")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        versions(tmp_path / "nowhere")
