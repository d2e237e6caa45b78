"""Photographs with GPS: EXIF, the similarity, and a reconstruction of the real flight's corner."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_flights import leftovers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL.TiffImagePlugin import IFDRational
from sfm_photographs import dms, with_gps

from nerfcore.data.exif import camera_label, read_gps
from nerfcore.data.georegistration import check_spread
from nerfcore.data.prepare import PrepareSettings, prepare_dataset
from nerfcore.data.reconstruction import choose_pairs
from nerfcore.data.sfm import find_images
from nerfcore.data.similarity import fit_robustly, fit_similarity
from nerfcore.errors import DataError
from nerfcore.geometry.geodesy import GeoPoint

DATA = Path(__file__).parents[3] / "shared" / "data"
SFM = PrepareSettings(sfm=True)


@pytest.fixture(scope="module")
def plain_jpeg() -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", noise)[1].tobytes()


@settings(max_examples=40, deadline=None)
@given(st.floats(-89.9, 89.9), st.floats(-179.9, 179.9), st.floats(-400.0, 9000.0))
def test_gps_round_trip(tmp_path_factory, plain_jpeg, lat, lon, alt):
    """Any place comes back: to a millimetre in height, 1e-9 degrees in latitude and longitude."""
    assume(abs(lat) > 1e-3 or abs(lon) > 1e-3)
    path = tmp_path_factory.mktemp("gps") / "a.jpg"
    path.write_bytes(with_gps(plain_jpeg, GeoPoint(lat, lon, alt)))
    got = read_gps(path)
    assert got is not None
    assert got.lat_deg == pytest.approx(lat, abs=1e-9)
    assert got.lon_deg == pytest.approx(lon, abs=1e-9)
    assert got.alt_m == pytest.approx(alt, abs=1e-3)
    assert camera_label(path) == ("Maker Drone 1", 64, 48)


def test_photographs_that_do_not_say(tmp_path, plain_jpeg):
    """No EXIF data, no GPS, half a position, or a receiver without a fix: None."""
    path = tmp_path / "a.jpg"
    place = GeoPoint(51.0, 7.0, 200.0)
    for content in (
        plain_jpeg,
        with_gps(plain_jpeg, None),
        with_gps(plain_jpeg, place, tag6=None),
        with_gps(plain_jpeg, GeoPoint(0.0, 0.0, 0.0)),
    ):
        path.write_bytes(content)
        assert read_gps(path) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tag2": (IFDRational(1, 0), IFDRational(0, 1), IFDRational(0, 1))}, "GPSLatitude is nan"),
        ({"tag2": dms(95.0)}, "GPSLatitude is 95 'N', outside 0..90 N or S"),
        ({"tag1": "X"}, "GPSLatitude is 51 'X'"),
        ({"tag6": IFDRational(1, 0)}, "GPSAltitude is nan, not a number"),
    ],
)
def test_wrong_gps(tmp_path, plain_jpeg, changes, reason):
    """A wrong GPS field is named with its file."""
    path = tmp_path / "a.jpg"
    path.write_bytes(with_gps(plain_jpeg, GeoPoint(51.0, 7.0, 200.0), **changes))
    with pytest.raises(DataError, match=rf"a\.jpg: EXIF {reason}"):
        read_gps(path)
    path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a\.jpg: unreadable photograph"):
        read_gps(path)


vectors = st.tuples(*[st.floats(-3.0, 3.0)] * 3)


@settings(max_examples=80, deadline=None)
@given(vectors, vectors, st.floats(1e-2, 1e3), st.integers(0, 1000))
def test_similarity_is_recovered(turn, shift, scale, seed):
    """Rotation, scale and shift come back exactly, also with a fifth of the points far off."""
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(15, 3))
    rotation = cv2.Rodrigues(np.array(turn))[0]
    target = scale * (source @ rotation.T) + 100.0 * np.array(shift)
    found = fit_similarity(source, target)
    assert found.scale == pytest.approx(scale, rel=1e-9)
    assert np.allclose(found.rotation, rotation, atol=1e-9)
    assert np.allclose(found.apply(source), target, atol=1e-6 * scale)
    target[:3] += scale * rng.normal(30.0, 1.0, (3, 3))
    robust, residuals = fit_robustly(source, target, 1e-6 * scale)
    assert np.allclose(robust.rotation, rotation, atol=1e-6)
    assert residuals[3:].max() < 1e-5 * scale < residuals[:3].min()


def test_straight_lines_and_single_places_are_refused():
    """Positions on one line leave the tilt open."""
    line = np.outer(np.arange(8.0), [30.0, 10.0, 0.1])
    with pytest.raises(DataError, match="in one place or on one line"):
        check_spread(Path("f"), line)
    with pytest.raises(DataError, match="in one place or on one line"):
        check_spread(Path("f"), np.ones((4, 3)))
    check_spread(Path("f"), line + np.eye(8, 3)[:, [1, 0, 2]] * 40.0)


def test_pairs_grow_with_the_flight_not_with_its_square():
    """A few photographs are all matched; of many only neighbours, and those without GPS by name."""
    few = [f"{i:03d}.jpg" for i in range(10)]
    assert len(choose_pairs(few, {})) == 45
    many = [f"{i:03d}.jpg" for i in range(400)]
    places = {
        name: GeoPoint(51.0 + 1e-4 * (i // 20), 7.0 + 1e-4 * (i % 20), 100.0)
        for i, name in enumerate(many)
        if i != 200
    }
    pairs = choose_pairs(many, places)
    assert len(pairs) < 400 * 30 and all(one < other for one, other in pairs)
    assert ("000.jpg", "001.jpg") in pairs and ("000.jpg", "399.jpg") not in pairs
    assert ("200.jpg", "201.jpg") in pairs and ("195.jpg", "200.jpg") in pairs


def test_refusals(tmp_path, plain_jpeg):
    """Too few photographs, names with spaces, and too few with GPS are refused."""
    with pytest.raises(DataError, match="0 photographs"):
        prepare_dataset(tmp_path, tmp_path / "out", SFM)
    for index in range(4):
        (tmp_path / f"{index}.jpg").write_bytes(plain_jpeg)
    with pytest.raises(DataError, match="0 of 4 photographs have GPS"):
        prepare_dataset(tmp_path, tmp_path / "out", SFM)
    with pytest.raises(DataError, match=r"no COLMAP model .* add --sfm"):
        prepare_dataset(tmp_path, tmp_path.parent / "out2", PrepareSettings())
    (tmp_path / "a b.jpg").write_bytes(plain_jpeg)
    with pytest.raises(DataError, match=r"'a b\.jpg' holds a space"):
        find_images(tmp_path)


def test_nothing_to_reconstruct(tmp_path):
    """Photographs that show nothing in common end with what they need, and leave nothing."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index in range(3):
        blank = cv2.imencode(".jpg", np.full((96, 128, 3), rng.integers(60, 200), np.uint8))[1]
        place = GeoPoint(51.0 + 1e-4 * index, 7.0 + 1e-4 * (index % 2), 100.0)
        (folder / f"{index}.jpg").write_bytes(with_gps(blank.tobytes(), place))
    with pytest.raises(DataError, match="no reconstruction of the 3 photographs"):
        prepare_dataset(folder, tmp_path / "out", SFM)
    assert not (tmp_path / "out").exists() and leftovers(tmp_path) == []


@pytest.mark.skipif(not (DATA / "drz").is_dir(), reason="../shared/data/drz is not here")
def test_real_photographs(tmp_path):
    """Twelve real photographs with GPS become a dataset whose cameras are where the GPS says; the
    reconstruction is not made again on --resume."""
    from nerfcore.data.colmap import read_model
    from nerfcore.data.recentre import recentre
    from nerfcore.geometry.frames import camera_centres
    from nerfcore.geometry.geodesy import ecef_to_enu, ecef_to_geodetic

    model, _ = recentre(read_model(DATA / "drz"))
    centres = camera_centres(model.cam_from_world)
    chosen = np.argsort(np.linalg.norm(centres - np.median(centres, axis=0), axis=1))[:12]
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index in chosen:
        place = GeoPoint(*(float(value) for value in ecef_to_geodetic(centres[index])))
        content = (DATA / "drz" / "images" / model.names[index]).read_bytes()
        (folder / model.names[index]).write_bytes(with_gps(content, place))
    phases = []

    class Stopped(BaseException):
        pass

    def stop_at_writing(phase, done, total):
        if phase == "train photographs":
            raise Stopped

    with pytest.raises(Stopped):
        prepare_dataset(folder, tmp_path / "out", SFM, stop_at_writing)
    dataset = prepare_dataset(
        folder,
        tmp_path / "out",
        PrepareSettings(sfm=True, resume=True),
        lambda phase, done, total: phases.append(phase),
    )
    assert set(phases) == {"checking photographs", "train photographs"}
    assert len(dataset.train) >= 10 and len(dataset.points) > 300
    want = ecef_to_enu(centres, dataset.frame.enu_ref)
    got = dataset.frame.world_to_enu_m(dataset.train.c2w[:, :, 3])
    rows = [model.names.index(name) for name in dataset.train.names]
    assert np.linalg.norm(got - want[rows], axis=1).max() < 3.0
    low_m, _ = dataset.frame.altitude_range_enu_m
    assert -115.0 < low_m < -90.0
    noted = json.loads((tmp_path / "out" / "dataset.json").read_text())["settings"]
    assert noted["alignment"]["with_gps"] == noted["alignment"]["reconstructed"] >= 10
    shutil.rmtree(tmp_path / "out")
