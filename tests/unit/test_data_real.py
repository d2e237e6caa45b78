"""The real flight over Dortmund, where the shared data lies beside the repository.

`pytest -s` prints the figures: reprojection errors in px, and how far cameras come back from GPS.
"""

import time
from pathlib import Path

import numpy as np
import pytest
from data_flights import back_to_colmap

from nerfcore.data.clusters import ClusterSettings, balance, write_partition
from nerfcore.data.colmap import read_model
from nerfcore.data.dataset import Dataset
from nerfcore.data.images import ImageStore
from nerfcore.data.prepare import PrepareSettings, prepare_dataset
from nerfcore.data.recentre import recentre
from nerfcore.data.update import update_dataset
from nerfcore.geometry.frames import camera_centres, project
from nerfcore.geometry.geodesy import GeoPoint, ecef_to_geodetic, geodetic_to_ecef

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(
    not (DATA / "drz" / "model").is_dir(), reason="../shared/data/drz is not here"
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    settings = PrepareSettings(val_split=0.12, ecef_to_enu=True)
    return prepare_dataset(DATA / "drz", tmp_path_factory.mktemp("drz") / "out", settings)


def test_prepared(dataset):
    """88 train and 12 validation photographs, masks for their black borders, every point kept."""
    assert (len(dataset.train), len(dataset.val)) == (88, 12)
    assert len(dataset.points) == 38141
    low_m, high_m = dataset.frame.altitude_range_enu_m
    assert -108 < low_m < -98 and -2 < high_m < 4
    start = time.monotonic()
    store = ImageStore([dataset.train, dataset.val])
    assert time.monotonic() - start < 5.0  # about 0.3 s when the machine is idle
    assert 0.005 < 1.0 - store.valid.mean() < 0.04


def test_reprojection_error(dataset):
    """The prepared cameras and points reproduce COLMAP's mean reprojection error within 0.05 px."""
    listed = read_model(DATA / "drz").points.error_px.mean()
    points = dataset.points
    names = dataset.train.names + dataset.val.names
    rows = np.array([names.index(name) for name in points.image_names])[points.image_ids]
    c2w = np.concatenate([dataset.train.c2w, dataset.val.c2w])[rows]
    intrinsics = np.concatenate([dataset.train.intrinsics, dataset.val.intrinsics])[rows]
    pixels, depths = project(points.xyz[points.point_ids], c2w, intrinsics)
    errors = np.linalg.norm(pixels - points.xy_px, axis=1)
    per_point = np.bincount(points.point_ids, errors) / np.bincount(points.point_ids)
    print(f"\nreprojection: {per_point.mean():.4f} px in the dataset, {listed:.4f} px listed")
    assert (depths > 0).all()
    assert abs(per_point.mean() - listed) < 0.05


def test_there_and_back(dataset):
    """COLMAP's own reprojection error of what comes back from the dataset, in ECEF, is what it
    lists, within 0.05 px."""
    model = back_to_colmap(dataset, DATA / "drz")
    listed = np.array([point.error for point in model.points3D.values()])
    model.update_point_3d_errors()
    got = np.array([point.error for point in model.points3D.values()])
    print(f"\nback in ECEF: {got.mean():.4f} px, {listed.mean():.4f} px listed")
    assert abs(got.mean() - listed.mean()) < 0.05
    assert np.median(np.abs(got - listed)) < 0.05


def test_gps_to_a_millimetre(dataset):
    """Every camera, once its rounded centre is mended, comes back within 1 mm on the Earth."""
    model, _ = recentre(read_model(DATA / "drz"))
    centres = camera_centres(model.cam_from_world)
    largest_m = 0.0
    for images in (dataset.train, dataset.val):
        places = np.stack(dataset.frame.world_to_geo(images.c2w[:, :, 3]), axis=-1)
        got = np.array([geodetic_to_ecef(GeoPoint(*map(float, place))) for place in places])
        rows = [model.names.index(name) for name in images.names]
        largest_m = max(largest_m, float(np.linalg.norm(got - centres[rows], axis=1).max()))
    print(f"\nGPS of {len(centres)} cameras: at most {1e3 * largest_m:.4f} mm off")
    assert 0.0 < largest_m < 1e-3


def test_gps(dataset):
    """Cameras come back to within the 0.4 m that the model's rounded rotations moved them by."""
    model = read_model(DATA / "drz")
    rotations, translations = model.cam_from_world[:, :, :3], model.cam_from_world[:, :, 3]
    centres = -np.einsum("nji,nj->ni", rotations, translations)
    want = np.stack(ecef_to_geodetic(centres), axis=-1)
    images = dataset.train
    got = np.stack(dataset.frame.world_to_geo(images.c2w[:, :, 3]), axis=-1)
    rows = [model.names.index(name) for name in images.names]
    metres = (got - want[rows]) * [111_200.0, 69_300.0, 1.0]
    assert np.linalg.norm(metres, axis=1).max() < 0.45


def test_clusters(dataset):
    """Four balanced experts in a box that ends well below the cameras."""
    settings = ClusterSettings((2, 2), cluster_2d=True, boundary_margin=1.05)
    partition, _ = write_partition(dataset, settings)
    assert partition.name == "g22_grid_bm105_ss11"
    up = dataset.frame.world_to_enu_m(partition.aabb)[:, 2]
    assert -75 < up.max() < -55 and -112 < up.min() < -102
    counts = balance(dataset, partition, settings)
    assert counts.images.min() > 40 and counts.pixel_shares.min() > 0.15
    assert counts.missed_share < 0.02 and counts.overlap_share < 0.4


@pytest.mark.skipif(
    not (DATA / "drz_update").is_dir(), reason="../shared/data/drz_update is not here"
)
def test_update(dataset):
    """The second flight's 27 photographs become a batch, although the old 100 are not there."""
    batch = update_dataset(dataset.root, DATA / "drz_update", ecef_to_enu=True)
    assert (len(batch.adapt), len(batch.heldout)) == (20, 7)
    up = dataset.frame.world_to_enu_m(batch.adapt.c2w[:, :, 3])[:, 2]
    assert up.min() > -36 and up.max() < -31
