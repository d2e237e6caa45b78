"""Owns a city on disk.

    OUT/city.json                      settings, reference, the event's changes in ENU
    OUT/before/{images,model}          the first flight, and its COLMAP model
    OUT/after/{images,model}           the second flight's images; the model holds both flights
    OUT/after/change/<image>.png       255 where the surface changed since the first flight
    OUT/{before,after}/depth/<image>.npz   `depth_m` f32[H, W], m along the ray (ground truth only)

The folder appears complete or not at all.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nerfcore import atomic
from nerfcore.city import render, sparse
from nerfcore.city.flight import Flight, Shot, first_flight, second_flight
from nerfcore.city.model import Place, point_colours, write_model
from nerfcore.city.plan import stream
from nerfcore.city.scene import Scene
from nerfcore.city.settings import CitySettings
from nerfcore.city.town import Town, build_town
from nerfcore.errors import DataError

FORMAT_VERSION = 1
JPEG_QUALITY = 96
DRAWN_PER_POINT = 1.35  # candidates drawn for each point wanted: some end up with short tracks

Progress = Callable[[str, int, int], None]
Photograph = NDArray[np.uint8]


def _silent(phase: str, done: int, total: int) -> None:
    """Report nothing."""


def _encode(name: str, suffix: str, pixels: NDArray[Any], options: Sequence[int] = ()) -> bytes:
    """Return an image file's content."""
    done, content = cv2.imencode(suffix, pixels, list(options))
    if not done:
        raise DataError(f"{name}: the picture could not be encoded as {suffix}; check OpenCV")
    return content.tobytes()


def _save(file: Path, content: bytes) -> None:
    with atomic.naming(file):
        file.write_bytes(content)


def _take(
    folder: Path, scene: Scene, town: Town, flight: Flight, settings: CitySettings,
    progress: Progress,
) -> list[Photograph]:  # fmt: skip
    """Take and save a flight's photographs."""
    folder.mkdir(parents=True)
    rays = render.pixel_rays(flight.camera, settings.supersampling)
    quality = (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)

    def one(shot: Shot) -> Photograph:
        picture = render.photograph(scene, town.plan, flight.camera, rays, shot)
        content = _encode(shot.name, ".jpg", picture[..., ::-1], quality)
        _save(folder / shot.name, content)
        return picture

    pictures = []
    for done, picture in enumerate(render.in_parallel(one, list(flight.shots)), start=1):
        pictures.append(picture)
        progress(f"photographs {folder.parent.name}", done, len(flight.shots))
    return pictures


def _save_depth(folder: Path, scene: Scene, town: Town, flight: Flight) -> None:
    folder.mkdir()
    rays = render.pixel_rays(flight.camera, 1)
    for shot in flight.shots:
        depth, _ = render.depth_map(scene, town.plan, rays, shot)
        file = folder / f"{Path(shot.name).stem}.npz"
        with atomic.naming(file):
            np.savez_compressed(file, depth_m=depth.astype(np.float32))


def _save_changes(folder: Path, town: Town, flight: Flight) -> float:
    """Save the change masks of the second flight; return the share of changed pixels."""
    folder.mkdir()
    rays = render.pixel_rays(flight.camera, 1)

    def one(shot: Shot) -> float:
        mask = render.change_mask(town.before, town.after, town.plan, rays, shot)
        content = _encode(shot.name, ".png", mask.astype(np.uint8) * 255)
        _save(folder / f"{Path(shot.name).stem}.png", content)
        return float(mask.mean())

    return float(np.mean(list(render.in_parallel(one, list(flight.shots)))))


def _first_points(
    town: Town, flight: Flight, settings: CitySettings
) -> tuple[sparse.Points, list[sparse.Sightings]]:
    """Return the first flight's sparse points and who sees them."""
    rays = render.pixel_rays(flight.camera, 1)
    drawn = sparse.find_points(
        town.before, town.plan, flight, rays, round(settings.points * DRAWN_PER_POINT),
        stream(settings.seed, 8),
    )  # fmt: skip
    seen = sparse.sight(
        town.before, town.plan, flight, drawn, settings.pixel_noise_px, [settings.seed, 9]
    )
    keep = sparse.well_tracked(seen, len(drawn.xyz))
    spare = stream(settings.seed, 10).permutation(np.flatnonzero(keep))[settings.points :]
    keep[spare] = False
    return sparse.keep_points(drawn, seen, keep)


def _both_points(
    town: Town, flights: tuple[Flight, Flight], settings: CitySettings, old: sparse.Points,
    old_seen: list[sparse.Sightings],
) -> tuple[sparse.Points, list[sparse.Sightings]]:  # fmt: skip
    """Return old and new points, and who sees them in both flights."""
    first, second = flights
    noise, seed = settings.pixel_noise_px, settings.seed
    rays = render.pixel_rays(second.camera, 1)
    count = max(100, settings.points * len(second.shots) // (2 * len(first.shots)))
    new = sparse.find_points(town.after, town.plan, second, rays, count, stream(seed, 11))
    before = sparse.sight(town.before, town.plan, first, new, noise, [seed, 12])
    shift = len(old.xyz)
    seen = [
        sparse.Sightings(
            np.concatenate([a.points, b.points + shift]), np.concatenate([a.pixels, b.pixels])
        )
        for a, b in zip(old_seen, before, strict=True)
    ]
    both = sparse.join(old, new)
    seen += sparse.sight(town.after, town.plan, second, both, noise, [seed, 13])
    return sparse.keep_points(both, seen, sparse.well_tracked(seen, len(both.xyz)))


def _describe(town: Town, settings: CitySettings, extra: dict[str, Any]) -> dict[str, Any]:
    """Return what city.json says."""
    turn = town.plan.enu_from_city()
    changed = []
    for number in town.change.buildings:
        building = town.buildings[number]
        corners = building.corners() @ turn.T
        changed.append({
            "name": building.name, "style": building.style,
            "enu_min_m": corners.min(axis=0).round(3).tolist(),
            "enu_max_m": corners.max(axis=0).round(3).tolist(),
            "footprint_enu_m": corners[[0, 1, 3, 2], :2].round(3).tolist(),
        })  # fmt: skip
    focus = turn @ np.array([*town.change.focus, 0.0])
    return {
        "format_version": FORMAT_VERSION,
        "settings": dataclasses.asdict(settings),
        "enu_reference": {
            "latitude_deg": settings.latitude_deg, "longitude_deg": settings.longitude_deg,
            "height_m": settings.height_m,
        },
        "half_extent_m": town.plan.half_m,
        "buildings": len(town.buildings),
        "event": {
            "kind": str(settings.event), "changed_buildings": changed,
            "focus_enu_m": focus[:2].round(3).tolist(), "reach_m": town.change.reach_m,
            "water_level_m": town.change.water_level_m,
        },
        **extra,
    }  # fmt: skip


def write_city(out: Path, settings: CitySettings, progress: Progress = _silent) -> dict[str, Any]:
    """Build a city, fly over it twice, and write everything.

    Args:
        out: the folder to make.
        settings: which city.
        progress: called with a phase, how much of it is done, and its total.

    Returns:
        The content of city.json.

    Raises:
        DataError: the folder exists already.
        OSError: the disk is full, with the file's name; nothing is left then.
    """
    if out.exists():
        raise DataError(f"out: {out} exists already; remove it or name another folder")
    progress("city", 0, 1)
    town = build_town(settings)
    progress("city", 1, 1)
    place = Place(settings.latitude_deg, settings.longitude_deg, settings.height_m)
    first = first_flight(settings, town.plan)
    second = second_flight(settings, town.plan, town.change)
    with atomic.new_folder(out) as folder:
        before, after = folder / "before", folder / "after"
        old = _take(before / "images", town.before, town, first, settings, progress)
        new = _take(after / "images", town.after, town, second, settings, progress)
        progress("models", 0, 2)
        points, seen = _first_points(town, first, settings)
        colours = point_colours(old, seen, len(points.xyz))
        error = write_model(before / "model", [first], seen, points, colours, town.plan, place)
        progress("models", 1, 2)
        all_points, all_seen = _both_points(town, (first, second), settings, points, seen)
        colours = point_colours(old + new, all_seen, len(all_points.xyz))
        flights = [first, second]
        write_model(after / "model", flights, all_seen, all_points, colours, town.plan, place)
        progress("models", 2, 2)
        share = _save_changes(after / "change", town, second)
        if settings.ground_truth:
            _save_depth(before / "depth", town.before, town, first)
            _save_depth(after / "depth", town.after, town, second)
        described = _describe(town, settings, {
            "points": {"before": len(points.xyz), "after": len(all_points.xyz)},
            "reprojection_error_px": error,
            "changed_share": share,
        })  # fmt: skip
        _save(folder / "city.json", (json.dumps(described, indent=1) + "\n").encode())
    return described
