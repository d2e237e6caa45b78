"""The city's ray caster against a slow reference that knows neither its grid nor its formulas."""

import functools

import numpy as np
import pytest
from numpy.typing import NDArray

from nerfcore.city import render
from nerfcore.city.flight import first_flight
from nerfcore.city.patterns import pulse
from nerfcore.city.plan import GROUND_SLOPE
from nerfcore.city.raycast import GROUND, WATER
from nerfcore.city.settings import CitySettings, Event
from nerfcore.city.solids import Shape, Solid
from nerfcore.city.town import Town, build_town

Array = NDArray[np.float64]


@pytest.fixture(scope="module", params=[Event.COLLAPSE, Event.FLOOD, Event.FIRE])
def town(request: pytest.FixtureRequest) -> Town:
    return build_town(CitySettings(seed=3, blocks=2, event=request.param))


def corners_of(solid: Solid) -> Array:
    """Return f64[8, 3]: base corners round, then top corners round."""
    (hx, hy, hz), (ix, iy) = solid.half_m, solid.inset_m
    base = [(-hx, -hy, -hz), (hx, -hy, -hz), (hx, hy, -hz), (-hx, hy, -hz)]
    tx, ty = hx - ix, hy - iy
    top = [(-tx, -ty, hz), (tx, -ty, hz), (tx, ty, hz), (-tx, ty, hz)]
    return np.array(base + top) @ solid.rotation().T + np.array(solid.centre_m)


@functools.cache
def planes_of(solid: Solid) -> list[tuple[Array, float]]:
    """Return the half spaces n.x <= c of a frustum, from its corners alone."""
    corner = corners_of(solid)
    middle = corner.mean(axis=0)
    faces = [(0, 1, 2, 3), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7)]
    planes = []
    for face in faces:
        points = np.unique(corner[list(face)].round(9), axis=0)
        if len(points) < 3:
            continue  # the ridge or tip of a roof
        normal = np.cross(points[1] - points[0], points[2] - points[0])
        normal /= np.linalg.norm(normal)
        if normal @ (points[0] - middle) < 0:
            normal = -normal
        planes.append((normal, float(normal @ points[0])))
    return planes


def enter_frustum(solid: Solid, o: Array, d: Array) -> float:
    """Return where a ray enters a frustum: clip it by one half space after another."""
    low, high = 0.0, np.inf
    for normal, c in planes_of(solid):
        rate, room = normal @ d, c - normal @ o
        if abs(rate) < 1e-12:
            if room < 0:
                return np.inf
        elif rate > 0:
            high = min(high, room / rate)
        else:
            low = max(low, room / rate)
    return low if 0 < low < high else np.inf


def enter_ellipsoid(solid: Solid, o: Array, d: Array) -> float:
    """Return the nearer root of the ellipsoid's quadratic form along a ray."""
    turn = solid.rotation()
    form = turn @ np.diag(1 / np.array(solid.half_m) ** 2) @ turn.T
    r = o - np.array(solid.centre_m)
    roots = np.roots([d @ form @ d, 2 * r @ form @ d, r @ form @ r - 1])
    real = [float(root.real) for root in roots if abs(root.imag) < 1e-12 and root.real > 0]
    return min(real) if len(real) == 2 else np.inf


def slow_nearest(solids: tuple[Solid, ...], water: float, o: Array, d: Array) -> tuple[float, int]:
    """Return the nearest hit by trying every solid, the ground and the water."""

    def plane(height: float, slope: float) -> float:
        here, ahead = (p[2] - slope * p[1] - height for p in (o, o + d))
        return here / (here - ahead) if here > ahead else np.inf

    best, item = min((plane(0.0, GROUND_SLOPE), GROUND), (plane(water, 0.0), WATER))
    for number, solid in enumerate(solids):
        enter = enter_frustum if solid.shape is Shape.FRUSTUM else enter_ellipsoid
        best, item = min((best, item), (enter(solid, o, d), number))
    return best, item


def test_depth_is_exact(town: Town) -> None:
    """Random rays of survey photographs end where trying every solid says they end."""
    settings = CitySettings(seed=3, blocks=2, images=20)
    flight = first_flight(settings, town.plan)
    rays = render.pixel_rays(flight.camera, 1).reshape(-1, 3)
    rng = np.random.default_rng(0)
    met = set()
    for shot in flight.shots[::4]:
        turn, centre = render.city_pose(shot, town.plan)
        directions = rays[rng.integers(0, len(rays), 12)] @ turn.T
        origins = np.broadcast_to(centre, directions.shape)
        depth, items, _ = render.trace(town.after, origins, directions, 0.4)
        for d, t, item in zip(directions, depth, items, strict=True):
            expected, number = slow_nearest(town.solids_after, town.after.water, centre, d)
            assert t == pytest.approx(expected, abs=1e-6)
            assert item == number
            met.add("ground" if item < 0 else town.solids_after[item].shape)
    assert len(met) >= 2, "the rays must meet ground and solids for the test to mean anything"


def test_low_rays_along_the_streets_are_exact(town: Town) -> None:
    """Nearly horizontal rays cross many grid cells; none of their solids may be missed."""
    rng = np.random.default_rng(1)
    for _ in range(25):
        o = np.array([*rng.uniform(-70, 70, 2), rng.uniform(5, 45)])
        if any(np.all((o >= low) & (o <= high)) for low, high in map(bounds, town.solids_after)):
            continue
        angle, fall = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.1)
        d = np.array([np.cos(angle), np.sin(angle), fall])
        d /= np.linalg.norm(d)
        depth, _, _ = render.trace(town.after, o[None], d[None], 0.4)
        expected, _ = slow_nearest(town.solids_after, town.after.water, o, d)
        assert depth[0] == pytest.approx(expected, abs=1e-6)


def bounds(solid: Solid) -> tuple[Array, Array]:
    return solid.bounds()


def test_bounds_hold_every_corner(town: Town) -> None:
    """The box that sorts a frustum into the grid contains all its corners."""
    for solid in town.solids_after:
        if solid.shape is Shape.FRUSTUM:
            low, high = solid.bounds()
            corner = corners_of(solid)
            assert np.all(corner >= low - 1e-9) and np.all(corner <= high + 1e-9)


@pytest.mark.parametrize("width", [0.01, 0.7, 1.0, 3.4])
def test_pulse_is_a_box_average(width: float) -> None:
    """A pulse train seen through a footprint is the mean of the sharp pulse train over it."""
    period, lo, hi = 1.3, 0.2, 0.65
    for x in (-2.0, 0.1, 0.55, 7.77):
        samples = np.linspace(x - width / 2, x + width / 2, 40_001)
        phase = samples / period - np.floor(samples / period)
        expected = np.mean((phase >= lo) & (phase < hi))
        assert pulse(x, period, lo, hi, width) == pytest.approx(expected, abs=2e-3)
