#!/usr/bin/env python3
"""How right the viewer's picked distances are, on a synthetic city whose surfaces are known.

Looks through the held-out cameras of a prepared city, picks places of the picture at random as a
click in the viewer does, and holds the distance of random pairs of them against the distance of
what the city's own ray caster meets there.

Exit codes: 0 printed, 1 a file is missing or of another city, 2 wrong command line.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from bench_change import town_of
from numpy.typing import NDArray
from rich.progress import track

from nerfcore.checkpoint.files import load_checkpoint
from nerfcore.checkpoint.store import resolve_checkpoint
from nerfcore.city.render import trace
from nerfcore.city.town import Town
from nerfcore.data.dataset import load_dataset
from nerfcore.data.records import ImageSet, SceneFrame
from nerfcore.errors import NerfcoreError
from nerfcore.geometry.camera import Camera, Rendered
from nerfcore.geometry.geodesy import GeoPoint, ecef_to_enu, geodetic_to_ecef
from nerfcore.shown_model import ShownModel
from nerfcore.viewer.options import RenderOptions
from nerfcore.viewer.picking import find_point, patch_camera

MAGNIFIED = 3  # a viewer's window shows a photograph of the city so much larger
RIGHT_WITHIN = 0.02
SHORTEST_M = (2.0, 10.0, 30.0)
Float64 = NDArray[np.float64]
app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


class Truth:
    """Where rays in a scene's world meet the city."""

    def __init__(self, town: Town, reference: GeoPoint, frame: SceneFrame) -> None:
        self._town, self._reference, self._frame = town, reference, frame

    def meets(self, origin: Float64, direction: Float64) -> Float64 | None:
        """The world point f64[3] of a ray's first surface before the event; None for the sky."""
        ends = self._in_city(np.stack([origin, origin + direction]))
        step = ends[1] - ends[0]
        length = np.linalg.norm(step)
        reach, _, _ = trace(self._town.before, ends[:1], step[None] / length, 0.05)
        return origin + reach[0] / length * direction if np.isfinite(reach[0]) else None

    def _in_city(self, points: Float64) -> Float64:
        places = zip(*self._frame.world_to_geo(points), strict=True)
        enu = [ecef_to_enu(geodetic_to_ecef(GeoPoint(*at)), self._reference) for at in places]
        return np.array(enu) @ self._town.plan.enu_from_city()


def shown_camera(images: ImageSet, index: int) -> Camera:
    """The view of a photograph, as large as a viewer's window."""
    fx, fy, cx, cy = (float(value) * MAGNIFIED for value in images.intrinsics[index])
    width, height = (int(n[index]) * MAGNIFIED for n in (images.widths_px, images.heights_px))
    return Camera(images.c2w[index], fx, fy, cx, cy, width, height)


def picked(model: ShownModel, camera: Camera, across: float, down: float) -> Float64 | None:
    """What a click there finds."""
    patch = patch_camera(camera, across, down)

    def render(reach_m: float | None) -> Rendered | None:
        return model.render(patch, options=RenderOptions(far_m=reach_m))

    return find_point(patch, render, model.frame.pose_scale_factor_m)


def pairs_of_view(
    model: ShownModel, truth: Truth, camera: Camera, clicks: int, rng: np.random.Generator
) -> list[tuple[float, float]]:
    """True and picked distance of random pairs inside the site, m."""
    low, high = model.experts.aabb
    found = []
    for across, down in rng.uniform(0.05, 0.95, (clicks, 2)):
        origins, directions = patch_camera(camera, across, down).rays()
        middle = len(origins) // 2
        wanted = truth.meets(origins[middle].astype(float), directions[middle].astype(float))
        if wanted is None or not ((wanted >= low) & (wanted <= high)).all():
            continue
        point = picked(model, camera, across, down)
        if point is not None:
            found.append((wanted, point))
    scale_m = model.frame.pose_scale_factor_m
    pairs = []
    for _ in range(clicks if len(found) > 1 else 0):
        one, other = (found[i] for i in rng.choice(len(found), 2, replace=False))
        wanted_m, picked_m = (
            float(np.linalg.norm(a - b)) * scale_m for a, b in zip(one, other, strict=True)
        )
        pairs.append((wanted_m, picked_m))
    return pairs


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def main(
    city: Annotated[Path, typer.Argument(help="The city's folder (scripts/make_city.py).")],
    job: Annotated[Path, typer.Argument(help="A train job's folder, of this city.")],
    dataset: Annotated[Path, typer.Argument(help="The prepared dataset it was trained on.")],
    clicks: Annotated[int, typer.Option(min=2, help="In each held-out view.")] = 30,
) -> None:
    """Print, as JSON, how many picked distances are within 2 %, and by how much they err."""
    rng = np.random.default_rng(0)
    try:
        town, record = town_of(city)
        where = record["enu_reference"]
        reference = GeoPoint(where["latitude_deg"], where["longitude_deg"], where["height_m"])
        scene = load_checkpoint(resolve_checkpoint(job))
        model, images = ShownModel(scene, lambda: scene), load_dataset(dataset).val
        truth, pairs = Truth(town, reference, scene.frame), []
        for index in track(range(len(images)), "views", transient=True):
            camera = shown_camera(images, index)
            pairs += pairs_of_view(model, truth, camera, clicks, rng)
    except (NerfcoreError, OSError, KeyError, ValueError) as error:
        print(f"bench_picks: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    wanted, found = np.array(pairs).T
    error = np.abs(found - wanted) / wanted
    rows = []
    for shortest_m in SHORTEST_M:
        own = error[wanted >= shortest_m]
        rows.append({
            "at_least_m": shortest_m, "pairs": len(own), "within_2_percent":
            float((own < RIGHT_WITHIN).mean()), "median": float(np.median(own)),
            "p90": float(np.quantile(own, 0.9)),
        })  # fmt: skip
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    app()
