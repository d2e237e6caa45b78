"""Each event of the synthetic city: what its change masks, depth and photographs say agrees."""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pymap3d
import pytest
from numpy.typing import NDArray

from nerfcore.city import CitySettings, Event, render, write_city
from nerfcore.city.flight import second_flight
from nerfcore.city.town import build_town

SHOTS = 5
MOVED_M = 0.3


@dataclass(frozen=True)
class Site:
    """A written city, its settings and what its city.json tells."""

    root: Path
    settings: CitySettings
    told: dict


@dataclass(frozen=True)
class View:
    """One photograph of the second flight, from disk, and the same view before the event."""

    changed: NDArray[np.bool_]
    depth_m: NDArray[np.float32]
    depth_before_m: NDArray[np.float64]
    difference: NDArray[np.float64]
    places_enu_m: NDArray[np.float64]


@pytest.fixture(scope="module", params=list(Event))
def site(request, tmp_path_factory) -> Site:
    settings = CitySettings(
        seed=5, blocks=2, images=8, update_images=SHOTS, width_px=128, height_px=96, points=300,
        event=request.param, ground_truth=True,
    )  # fmt: skip
    root = tmp_path_factory.mktemp("events") / settings.event
    return Site(root, settings, write_city(root, settings))


@pytest.fixture(scope="module")
def views(site: Site) -> list[View]:
    town = build_town(site.settings)
    flight = second_flight(site.settings, town.plan, town.change)
    fine, centres = (render.pixel_rays(flight.camera, side) for side in (2, 1))
    model = pycolmap.Reconstruction(site.root / "after" / "model")
    found = []
    for shot in flight.shots:
        stem = Path(shot.name).stem
        mask = cv2.imread(str(site.root / "after" / "change" / f"{stem}.png"), 0)
        picture = cv2.imread(str(site.root / "after" / "images" / shot.name))
        assert mask is not None and picture is not None and set(np.unique(mask)) <= {0, 255}
        depth = np.load(site.root / "after" / "depth" / f"{stem}.npz")["depth_m"]
        before = render.photograph(town.before, town.plan, flight.camera, fine, shot)
        depth_before, _ = render.depth_map(town.before, town.plan, centres, shot)
        gap = np.abs(before.astype(float) - picture[..., ::-1]).mean(axis=-1)
        places = back_projected(model, shot.name, depth, site.settings)
        found.append(View(mask > 0, depth, depth_before, gap, places))
    return found


def back_projected(
    model: pycolmap.Reconstruction, name: str, depth_m: NDArray, settings: CitySettings
) -> NDArray[np.float64]:
    """Return where each pixel's surface lies, ENU f64[H, W, 3], by the COLMAP model alone."""
    image = next(one for one in model.images.values() if one.name == name)
    rows, columns = np.mgrid[0 : depth_m.shape[0], 0 : depth_m.shape[1]] + 0.5
    pixels = np.stack([columns, rows], axis=-1).reshape(-1, 2)
    rays = np.column_stack([image.camera.cam_from_img(pixels), np.ones(len(pixels))])
    rays *= depth_m.reshape(-1, 1) / np.linalg.norm(rays, axis=1, keepdims=True)
    ecef = image.cam_from_world().inverse() * rays
    reference = (settings.latitude_deg, settings.longitude_deg, settings.height_m)
    enu = np.stack(pymap3d.ecef2enu(*np.asarray(ecef).T, *reference), axis=-1)
    return enu.reshape(*depth_m.shape, 3)


def test_city_json_tells_the_event(site: Site) -> None:
    """Its name, the changed buildings and the water; only a flood has a water level."""
    event = json.loads((site.root / "city.json").read_text())["event"]
    assert event["kind"] == site.settings.event
    assert (event["water_level_m"] is not None) == (site.settings.event is Event.FLOOD)
    assert bool(event["changed_buildings"]) == (site.settings.event is not Event.NONE)


def test_the_mask_holds_all_that_moved_and_what_looks_different(site: Site, views) -> None:
    """No surface moved outside it; inside the picture changed, outside it did not."""
    share = np.mean([view.changed for view in views])
    assert share == pytest.approx(site.told["changed_share"])
    if site.settings.event is Event.NONE:
        assert share == 0.0
    else:
        assert 0.1 < share < 0.9
    for view in views:
        moved = np.abs(view.depth_before_m - view.depth_m) > MOVED_M
        assert not (moved & ~view.changed).any()
        assert np.median(view.difference[~view.changed]) < 4, "shadows may differ, no more"
    if site.settings.event is not Event.NONE:
        inside = np.concatenate([view.difference[view.changed] for view in views])
        assert np.median(inside) > 15 and np.mean(inside < 6) < 0.15


@pytest.mark.parametrize("site", [Event.NONE], indirect=True)
def test_nothing_happened_nothing_differs(site: Site, views) -> None:
    """Without an event, every pixel is as before."""
    for view in views:
        assert np.allclose(view.depth_m, view.depth_before_m, atol=1e-4)
        assert view.difference.mean() < 5, "the JPEG's loss, no more"


@pytest.mark.parametrize("site", [Event.FLOOD], indirect=True)
def test_the_flood_is_level(site: Site, views) -> None:
    """Changed pixels lie at the water level; what is not changed rises above it."""
    level_m = site.told["event"]["water_level_m"]
    for view in views:
        up = view.places_enu_m[..., 2]
        assert np.mean(np.abs(up[view.changed] - level_m) < 0.01) > 0.99
        assert np.all(up[~view.changed] > level_m - 0.01)


@pytest.mark.parametrize("site", [Event.FIRE, Event.COLLAPSE], indirect=True)
def test_fire_and_rubble_are_where_the_buildings_are_said_to_be(site: Site, views) -> None:
    """Much of what changed lies in the boxes told; smoke hides only, rubble also shows more."""
    event = site.settings.event
    boxes = [
        (np.array(one["enu_min_m"]) - 3.0, np.array(one["enu_max_m"]) + 3.0)
        for one in site.told["event"]["changed_buildings"]
    ]
    changed = np.concatenate([view.places_enu_m[view.changed] for view in views])
    within = [np.all((changed >= low) & (changed <= high), axis=1) for low, high in boxes]
    assert np.mean(np.any(within, axis=0)) > 0.4
    nearer = np.concatenate([(v.depth_before_m - v.depth_m)[v.changed] for v in views])
    if event is Event.FIRE:
        assert nearer.min() > -0.01, "nothing goes away in a fire"
        assert np.mean(nearer > MOVED_M) > 0.02, "smoke stands before the rest"
    else:
        assert np.mean(nearer < -MOVED_M) > 0.4, "where a building stood the ray goes on"
