"""Geodesy against known values and against pymap3d, in float64."""

import numpy as np
import pymap3d
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerfcore.geometry.geodesy import (
    GeoPoint,
    ecef_to_enu,
    ecef_to_enu_rotation,
    ecef_to_geodetic,
    enu_to_ecef,
    enu_to_geodetic,
    geodetic_to_ecef,
    looks_like_ecef,
)

latitudes = st.floats(-89.9, 89.9)
longitudes = st.floats(-180.0, 180.0)
heights = st.floats(-400.0, 9000.0)
offsets = st.tuples(*[st.floats(-5000.0, 5000.0)] * 3)


@pytest.mark.parametrize(
    ("point", "ecef"),
    [
        (GeoPoint(0.0, 0.0, 0.0), (6378137.0, 0.0, 0.0)),
        (GeoPoint(0.0, 90.0, 10.0), (0.0, 6378147.0, 0.0)),
        (GeoPoint(90.0, 0.0, 0.0), (0.0, 0.0, 6356752.314245179)),
        # The worked example of pymap3d's own documentation.
        (GeoPoint(42.0, -82.0, 200.0), (660675.2518247, -4700948.68316, 4245737.66222)),
    ],
)
def test_known_places(point, ecef):
    """WGS84's axes, and one published place."""
    assert np.allclose(geodetic_to_ecef(point), ecef, atol=1e-5)
    lat, lon, alt = ecef_to_geodetic(np.array(ecef))
    assert (lat, alt) == (pytest.approx(point.lat_deg), pytest.approx(point.alt_m, abs=1e-5))
    if point.lat_deg < 90.0:
        assert lon == pytest.approx(point.lon_deg)


def test_axes_at_the_equator():
    """At 0 N 0 E: east is +Y, north is +Z, up is +X of ECEF."""
    reference = GeoPoint(0.0, 0.0, 0.0)
    assert np.allclose(enu_to_ecef([1.0, 0.0, 0.0], reference), [6378137.0, 1.0, 0.0])
    assert np.allclose(enu_to_ecef([0.0, 1.0, 0.0], reference), [6378137.0, 0.0, 1.0])
    assert np.allclose(enu_to_ecef([0.0, 0.0, 1.0], reference), [6378138.0, 0.0, 0.0])


@given(latitudes, longitudes, heights, offsets)
def test_enu_agrees_with_pymap3d_and_returns(lat, lon, alt, enu):
    """ENU -> ECEF is pymap3d's within a micrometre, and the way back is exact."""
    reference = GeoPoint(lat, lon, alt)
    ecef = enu_to_ecef(enu, reference)
    assert np.allclose(ecef, pymap3d.enu2ecef(*enu, lat, lon, alt), atol=1e-6)
    assert np.allclose(ecef_to_enu(ecef, reference), enu, atol=1e-6)


@given(latitudes, longitudes)
def test_rotation_is_a_rotation(lat, lon):
    """The ECEF -> ENU rotation is orthonormal and right-handed."""
    rotation = ecef_to_enu_rotation(GeoPoint(lat, lon, 0.0))
    assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)


@given(latitudes, longitudes, heights)
def test_reference_is_enu_zero(lat, lon, alt):
    """ENU zero is the reference itself, within a micrometre of height."""
    got = enu_to_geodetic(np.zeros(3), GeoPoint(lat, lon, alt))
    assert np.allclose(got, (lat, lon, alt), atol=1e-6)


def test_recognises_ecef():
    """Points on the Earth's surface are ECEF; a local scene and a satellite are not."""
    assert looks_like_ecef([geodetic_to_ecef(GeoPoint(51.5, 7.4, 300.0))])
    assert looks_like_ecef([geodetic_to_ecef(GeoPoint(-90.0, 0.0, -400.0))])
    assert not looks_like_ecef([[100.0, 200.0, 50.0]])
    assert not looks_like_ecef([[2.6e7, 0.0, 0.0]])
