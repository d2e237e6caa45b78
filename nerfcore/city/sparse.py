"""Owns the sparse points: surface points with the photographs that truly see them.

An observation is a point's projection through the true distortion plus pixel noise, kept only if
the exact ray from the camera ends at the point, on a surface of the point's colour. So a point on
a wall that fell is not observed afterwards, and one on a new surface was not observed before.
"""

from dataclasses import dataclass

import numpy as np
import pycolmap
from numpy.typing import NDArray

from nerfcore.city.flight import Flight, Shot
from nerfcore.city.plan import Plan
from nerfcore.city.render import city_pose, in_parallel, trace
from nerfcore.city.scene import Scene

FOOTPRINT_M = 0.4
SAME_PLACE_M = 0.01
SAME_ALBEDO = 0.03
DETECTED = 0.55  # share of the true sightings that a feature matcher would find
BORDER_PX = 2.0
LEAST_TRACK = 3


@dataclass(frozen=True)
class Points:
    """Surface points.

    Attributes:
        xyz: f64[P, 3], city frame, m.
        albedo: f64[P, 3].
    """

    xyz: NDArray[np.float64]
    albedo: NDArray[np.float64]


@dataclass(frozen=True)
class Sightings:
    """Which points one photograph observes, and where.

    Attributes:
        points: i64[N], sorted.
        pixels: f64[N, 2], px, with noise.
    """

    points: NDArray[np.int64]
    pixels: NDArray[np.float64]


def join(first: Points, second: Points) -> Points:
    """Return both sets of points, the second's numbered after the first's."""
    return Points(
        np.concatenate([first.xyz, second.xyz]), np.concatenate([first.albedo, second.albedo])
    )


def find_points(
    scene: Scene, plan: Plan, flight: Flight, rays: NDArray[np.float64], count: int,
    rng: np.random.Generator,
) -> Points:  # fmt: skip
    """Return surface points under random pixels of a flight's photographs.

    Args:
        scene, plan: the city.
        flight: the photographs.
        rays: `pixel_rays(flight.camera, 1)`.
        count: points to draw; those in the sky or far outside the town are left out.
        rng: random stream.
    """
    per_shot = -(-count // len(flight.shots))
    found, colours = [], []
    flat = rays.reshape(-1, 3)
    for shot in flight.shots:
        turn, centre = city_pose(shot, plan)
        directions = flat[rng.integers(0, len(flat), per_shot)] @ turn.T
        origins = np.broadcast_to(centre, directions.shape)
        depth, _, albedo = trace(scene, origins, directions, FOOTPRINT_M)
        hit = np.isfinite(depth)
        xyz = centre + depth[hit, None] * directions[hit]
        inside = np.abs(xyz[:, :2]).max(axis=1) < plan.half_m + 25.0
        found.append(xyz[inside])
        colours.append(albedo[hit][inside])
    return Points(np.concatenate(found), np.concatenate(colours))


def project(
    camera: pycolmap.Camera, shot: Shot, plan: Plan, xyz: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return where points appear, f64[N, 2] px; NaN behind the camera.

    Args:
        camera: the flight's camera.
        shot: the pose.
        plan: the city's.
        xyz: f64[N, 3], city frame.
    """
    local = (xyz @ plan.enu_from_city().T - shot.centre_m) @ shot.axes.T
    ahead = local[:, 2] > 0.5
    pixels = np.full((len(xyz), 2), np.nan)
    pixels[ahead] = camera.img_from_cam(local[ahead])
    return pixels


def sight(
    scene: Scene, plan: Plan, flight: Flight, points: Points, noise_px: float, seed: list[int]
) -> list[Sightings]:
    """Return what every photograph of a flight observes.

    Args:
        scene, plan: the city as it stood during the flight.
        flight: the photographs.
        points: candidates.
        noise_px: standard deviation of an observation, px an axis.
        seed: decides which true sightings are found, and the noise.
    """
    camera = flight.camera
    size = np.array([camera.width, camera.height])

    def one(index: int) -> Sightings:
        shot = flight.shots[index]
        rng = np.random.default_rng([*seed, index])
        luck, noise = rng.random(len(points.xyz)), rng.normal(0, noise_px, (len(points.xyz), 2))
        pixels = project(camera, shot, plan, points.xyz) + noise
        with np.errstate(invalid="ignore"):
            framed = np.all((pixels > BORDER_PX) & (pixels < size - BORDER_PX), axis=1)
        tried = np.flatnonzero(framed & (luck < DETECTED))
        _, centre = city_pose(shot, plan)
        reach = points.xyz[tried] - centre
        distance = np.linalg.norm(reach, axis=1)
        depth, _, albedo = trace(
            scene, np.broadcast_to(centre, reach.shape), reach / distance[:, None], FOOTPRINT_M
        )
        alike = np.abs(albedo - points.albedo[tried]).max(axis=1) < SAME_ALBEDO
        seen = tried[(np.abs(depth - distance) < SAME_PLACE_M) & alike]
        return Sightings(seen, pixels[seen])

    return list(in_parallel(one, list(range(len(flight.shots)))))


def well_tracked(sightings: list[Sightings], count: int) -> NDArray[np.bool_]:
    """Return bool[P]: points that enough photographs observe.

    Args:
        sightings: of all photographs.
        count: number of points.
    """
    seen = np.concatenate([s.points for s in sightings]) if sightings else np.zeros(0, np.int64)
    return np.bincount(seen, minlength=count) >= LEAST_TRACK


def keep_points(
    points: Points, sightings: list[Sightings], keep: NDArray[np.bool_]
) -> tuple[Points, list[Sightings]]:
    """Return only some points, renumbered in order, and their sightings."""
    number = np.cumsum(keep) - 1
    kept = [
        Sightings(number[s.points[keep[s.points]]], s.pixels[keep[s.points]]) for s in sightings
    ]
    return Points(points.xyz[keep], points.albedo[keep]), kept
