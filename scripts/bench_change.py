#!/usr/bin/env python3
"""How right a change map is, and what changed and unchanged areas gain, on a synthetic city.

Reads an eval job's change map through its own world file, and holds it against what the city's
maker knows: which ground changed (surface or colour, seen from above; shadows do not count), which
buildings did, and which pixels of the second flight show changed surfaces.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import pycolmap
import typer
from numpy.typing import NDArray

from nerfcore.city.render import CHANGED_ALBEDO, CHANGED_DEPTH_M, trace
from nerfcore.city.settings import CitySettings, Event
from nerfcore.city.town import Town, build_town
from nerfcore.data.undistort import Undistortion
from nerfcore.errors import DataError, NerfcoreError
from nerfcore.evaluation import read_metrics
from nerfcore.evaluation.change_map import PICTURE_FILE, WORLD_FILE
from nerfcore.evaluation.pictures import GT_FOLDER, PREDICTION_FOLDER, picture_name
from nerfcore.geometry.geodesy import GeoPoint, ecef_to_enu, geodetic_to_ecef

ABOVE_M = 150.0  # height that the vertical rays start from
FOUND_SHARE = 0.5  # of a building's seen footprint
app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def town_of(city: Path) -> tuple[Town, dict[str, Any]]:
    """Build a city again from its record.

    Raises:
        DataError: city.json was written by another version, which built another town.
    """
    record = json.loads((city / "city.json").read_text())
    known = {field.name for field in dataclasses.fields(CitySettings)}
    settings = {name: value for name, value in record["settings"].items() if name in known}
    town = build_town(CitySettings(**{**settings, "event": Event(settings["event"])}))
    turn = town.plan.enu_from_city()
    names = [building["name"] for building in record["event"]["changed_buildings"]]
    lows = [building["enu_min_m"] for building in record["event"]["changed_buildings"]]
    made = [town.buildings[number] for number in town.change.buildings]
    found = [(b.corners() @ turn.T).min(axis=0) for b in made]
    if [b.name for b in made] != names or not np.allclose(found, lows, atol=0.01):
        raise DataError(f"{city}: made by another version of the city; make it again")
    return town, record


def map_places(job: Path, reference: GeoPoint, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """East and North in the city's frame of each pixel of a job's change map, f64[H, W, 2]."""
    a, d, b, e, c, f = map(float, (job / WORLD_FILE).read_text().split())
    columns, rows = np.meshgrid(np.arange(shape[1]), np.arange(shape[0]))
    # affine in longitude and latitude, so affine in metres over so small a site: three corners do
    corners = np.array([[0, 0], [shape[1], 0], [0, shape[0]]], np.float64)
    places = []
    for column, row in corners:
        point = GeoPoint(d * column + e * row + f, a * column + b * row + c, reference.alt_m)
        places.append(ecef_to_enu(geodetic_to_ecef(point), reference)[:2])
    across, down = (places[1] - places[0]) / shape[1], (places[2] - places[0]) / shape[0]
    return places[0] + columns[..., None] * across + rows[..., None] * down


def changed_ground(town: Town, places: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether the surface above each place moved or changed colour, bool[H, W]."""
    flat = np.concatenate([places.reshape(-1, 2), np.zeros((places[..., 0].size, 1))], axis=1)
    origins = flat @ town.plan.enu_from_city()
    origins[:, 2] = ABOVE_M
    down = np.tile(np.array([0.0, 0.0, -1.0]), (len(origins), 1))
    old, new = (trace(scene, origins, down, 0.4) for scene in (town.before, town.after))
    with np.errstate(invalid="ignore"):
        moved = np.abs(old[0] - new[0]) > CHANGED_DEPTH_M
    recoloured = np.abs(old[2] - new[2]).max(axis=1) > CHANGED_ALBEDO
    return ((moved | recoloured) & np.isfinite(old[0])).reshape(places.shape[:2])


def judge_map(job: Path, town: Town, record: dict[str, Any]) -> dict[str, Any]:
    """Precision and recall by area, and the share of each changed building's ground found."""
    picture = cv2.imread(str(job / PICTURE_FILE), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise DataError(f"{job / PICTURE_FILE}: missing; run the eval job with a batch")
    where = record["enu_reference"]
    reference = GeoPoint(where["latitude_deg"], where["longitude_deg"], where["height_m"])
    places = map_places(job, reference, picture.shape)
    seen, found = picture[..., 3] > 0, picture[..., 3] == 255
    truth = changed_ground(town, places) & seen
    buildings = {}
    for building in record["event"]["changed_buildings"]:
        corners = np.array(building["footprint_enu_m"], np.float32)
        outline = np.asarray(cv2.convexHull(corners)[:, 0], np.float32)
        own = _inside(places, outline) & seen
        buildings[building["name"]] = round(float(found[own].mean()), 3) if own.any() else None
    known = [share for share in buildings.values() if share is not None]
    return {
        "precision_by_area": float((found & truth).sum() / max(1, found.sum())),
        "recall_by_area": float((found & truth).sum() / max(1, truth.sum())),
        "buildings_found": sum(share >= FOUND_SHARE for share in known),
        "buildings_seen": len(known),
        "share_of_each_building": buildings,
    }


def _inside(places: NDArray[np.float64], outline: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which places lie in a convex outline f32[N, 2], either way round."""
    following = np.roll(outline, -1, axis=0)
    edges, away = following - outline, places[..., None, :] - outline
    sides = edges[:, 0] * away[..., 1] - edges[:, 1] * away[..., 0]
    return np.asarray((sides >= 0).all(-1) | (sides <= 0).all(-1), np.bool_)


def judge_pictures(city: Path, job: Path) -> list[dict[str, float]]:
    """PSNR of held-out new images over changed and over unchanged pixels, by tto."""
    frame = read_metrics(job)
    model = pycolmap.Reconstruction(str(city / "after" / "model"))
    cameras = {image.name: model.cameras[image.camera_id] for image in model.images.values()}
    rows = []
    for tto in sorted(frame["tto"].unique()):
        own = frame[(frame["tto"] == tto) & (frame["split"] == "new_heldout")]
        errors, masks = [], []
        for image in own["image"]:
            name = picture_name("new_heldout", image)
            truth, shown = (
                cv2.imread(str(path), cv2.IMREAD_COLOR)
                for path in (job / GT_FOLDER / name, job / PREDICTION_FOLDER / str(tto) / name)
            )
            if truth is None or shown is None:
                raise DataError(f"{job}: the pictures of {image} after {tto} steps are missing")
            error = np.square(truth.astype(np.float64) - shown).mean(-1) / 255.0**2
            errors.append(error.ravel())
            masks.append(_changed_pixels(city, image, cameras[image], truth.shape).ravel())
        error, mask = np.concatenate(errors), np.concatenate(masks)
        psnr = [-10.0 * float(np.log10(error[chosen].mean())) for chosen in (mask, ~mask)]
        rows.append({"tto": int(tto), "changed_db": psnr[0], "unchanged_db": psnr[1]})
    return rows


def _changed_pixels(
    city: Path, image: str, camera: pycolmap.Camera, shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """The city's change mask of a photograph, as the prepared one lies; bool[H, W]."""
    path = city / "after" / "change" / f"{Path(image).stem}.png"
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise DataError(f"{path}: missing; make the city with scripts/make_city.py")
    thrice = np.repeat(np.asarray(mask, np.uint8)[..., None], 3, axis=2)
    straight, _ = Undistortion(camera).apply(thrice, None)
    size = (shape[1], shape[0])
    return cv2.resize(straight[..., 0], size, interpolation=cv2.INTER_AREA) > 127


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def main(
    city: Annotated[Path, typer.Argument(help="The city's folder (scripts/make_city.py).")],
    job: Annotated[Path, typer.Argument(help="An eval job's folder, with the city's new flight.")],
) -> None:
    """Print, as JSON, how right a job's change map is and what its adaptation gained where.

    A building counts as found when half of its seen ground is marked as changed.

    Exit codes: 0 printed, 1 a file is missing or of another city, 2 wrong command line.
    """
    try:
        town, record = town_of(city)
        found = {**judge_map(job, town, record), "psnr": judge_pictures(city, job)}
    except (NerfcoreError, OSError, KeyError, ValueError) as error:
        print(f"bench_change: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    app()
