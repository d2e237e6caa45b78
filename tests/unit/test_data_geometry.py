"""Geometry kept exact: COLMAP -> ENU -> scaled -> back, for every camera model, pose, scale."""

import cv2
import numpy as np
import pycolmap
import pytest
from data_flights import SITE, back_to_colmap, camera_of, leftovers, make_flight
from hypothesis import given, settings
from hypothesis import strategies as st

from nerfcore.data.colmap import read_model
from nerfcore.data.facing import drop_behind
from nerfcore.data.prepare import PrepareSettings, prepare_dataset
from nerfcore.data.records import SceneFrame
from nerfcore.errors import DataError
from nerfcore.geometry.frames import c2w_to_colmap, camera_centres, colmap_to_c2w
from nerfcore.geometry.geodesy import (
    GeoPoint,
    ecef_to_geodetic,
    enu_to_ecef,
    geodetic_to_ecef,
)

PANORAMAS = ("INVALID", "EQUIRECTANGULAR")
MODELS = sorted(set(pycolmap.CameraModelId.__members__) - set(PANORAMAS))


@pytest.mark.parametrize("ecef", [False, True], ids=["local", "ecef"])
@pytest.mark.parametrize("name", MODELS)
def test_round_trip_through_pycolmap(tmp_path, name, ecef):
    """COLMAP's own reprojection error of the poses and points that come back from a dataset is
    what it was, within 0.05 px, and each camera's place on the Earth within 1 mm."""
    make_flight(tmp_path, camera=camera_of(name), ecef=ecef, noise_px=0.3)
    chosen = PrepareSettings(ecef_to_enu=ecef, val_split=0.2)
    dataset = prepare_dataset(tmp_path, tmp_path / "out", chosen)
    before = pycolmap.Reconstruction(str(tmp_path / "model"))
    before.update_point_3d_errors()
    after = back_to_colmap(dataset, tmp_path)
    after.update_point_3d_errors()
    wants = np.array([point.error for point in before.points3D.values()])
    gots = np.array([point.error for point in after.points3D.values()])
    assert wants.mean() > 0.2
    assert np.abs(gots - wants).max() < 0.05
    assert gots.mean() == pytest.approx(wants.mean(), abs=0.005)
    if ecef:
        model = read_model(tmp_path)
        want = camera_centres(model.cam_from_world)
        for images in (dataset.train, dataset.val):
            geo = np.stack(dataset.frame.world_to_geo(images.c2w[:, :, 3]), axis=-1)
            got = np.array([geodetic_to_ecef(GeoPoint(*map(float, place))) for place in geo])
            rows = [model.names.index(one) for one in images.names]
            assert np.linalg.norm(got - want[rows], axis=1).max() < 1e-3


places = st.builds(
    GeoPoint, st.floats(-89.0, 89.0), st.floats(-180.0, 180.0), st.floats(-400.0, 9000.0)
)


@settings(max_examples=60, deadline=None)
@given(
    places,
    st.floats(10.0, 5000.0),
    st.tuples(*[st.floats(-3.0, 3.0)] * 3),
    st.tuples(*[st.floats(-1.0, 1.0)] * 3),
)
def test_any_pose_at_any_scale(reference, scale_m, turn, position):
    """A camera anywhere on the Earth comes back within 1 mm and 1e-6 rad through float32 poses."""
    centre = np.array(position) * scale_m
    rotation = cv2.Rodrigues(np.array(turn))[0]
    origin = np.array([3.0, -2.0, 1.0])
    c2w = colmap_to_c2w(rotation[None], centre[None], origin, scale_m).astype(np.float32)
    frame = SceneFrame(scale_m, origin, reference, (-100.0, 0.0))
    lat, lon, alt = (float(value[0]) for value in frame.world_to_geo(c2w[:, :, 3]))
    got = geodetic_to_ecef(GeoPoint(lat, lon, alt))
    assert np.linalg.norm(got - enu_to_ecef(centre, reference)) < 1e-3
    turned, _ = c2w_to_colmap(c2w, origin, scale_m)
    assert np.abs(turned[0] - rotation).max() < 1e-6


@pytest.mark.parametrize(
    ("point", "ecef_m"),
    [
        # WGS84's semi-axes, and 45 degrees: N = a / sqrt(1 - e^2 / 2) = 6388838.2901 m, then
        # x = N cos 45, z = N (1 - e^2) sin 45.
        (GeoPoint(0.0, 0.0, 0.0), (6378137.0, 0.0, 0.0)),
        (GeoPoint(0.0, 90.0, 10.0), (0.0, 6378147.0, 0.0)),
        (GeoPoint(90.0, 0.0, 0.0), (0.0, 0.0, 6356752.314245)),
        (GeoPoint(45.0, 0.0, 0.0), (4517590.878849, 0.0, 4487348.408866)),
    ],
)
def test_known_places(point, ecef_m):
    """Known geodetic values, both ways."""
    got = geodetic_to_ecef(point)
    assert np.linalg.norm(got - np.array(ecef_m)) < 1e-5
    lat, lon, alt = ecef_to_geodetic(got)
    assert lat == pytest.approx(point.lat_deg, abs=1e-11)
    assert alt == pytest.approx(point.alt_m, abs=1e-6)
    assert point.lat_deg == 90.0 or lon == pytest.approx(point.lon_deg, abs=1e-11)


def turned_round(root, images):
    """Turn the first so many cameras of a flight by 180 degrees about their x axis."""
    model = pycolmap.Reconstruction(str(root / "model"))
    for image in sorted(model.images.values(), key=lambda one: one.name)[:images]:
        pose = image.cam_from_world()
        flip = pycolmap.Rotation3d(np.diag([1.0, -1.0, -1.0]))
        turned = pycolmap.Rigid3d(flip, np.zeros(3)) * pose
        image.frame.set_cam_from_world(image.camera_id, turned)
    model.write_binary(str(root / "model"))


def test_points_behind_cameras(tmp_path):
    """A camera that looks away from its points means wrong poses: refused with its name."""
    make_flight(tmp_path)
    turned_round(tmp_path, 1)
    with pytest.raises(DataError, match=r"behind their camera \(most in '0000\.png'\).*\+Z"):
        prepare_dataset(tmp_path, tmp_path / "out", PrepareSettings())
    assert not (tmp_path / "out").exists() and leftovers(tmp_path) == []


def test_a_few_points_behind_are_left_out(tmp_path):
    """Single wrong observations are dropped and counted."""
    make_flight(tmp_path)
    model = read_model(tmp_path)
    centre = camera_centres(model.cam_from_world)[0]
    first = int(model.points.point_ids[0])
    model.points.xyz_m[first] = centre + np.array(
        [0.0, 0.0, 30.0]
    )  # above a camera that looks down
    seen = int((model.points.point_ids == first).sum())
    kept, behind = drop_behind(model)
    assert 1 <= behind <= seen
    assert len(kept.points.image_ids) == len(model.points.image_ids) - behind
    assert (np.diff(kept.points.image_ids) >= 0).all()


def test_site_is_where_it_is_said():
    """The flights' own reference lies where the ellipsoid says."""
    assert np.linalg.norm(geodetic_to_ecef(SITE)) == pytest.approx(6.3652e6, rel=1e-3)
