"""Owns the two survey flights: their cameras (with lens distortion) and poses.

A pose is the camera's axes (right, down, forward) and centre in ENU. Both flights keep their
cameras over the town: a leg looks inwards from either end.
"""

from dataclasses import dataclass

import numpy as np
import pycolmap
from numpy.typing import NDArray

from nerfcore.city.events import Change
from nerfcore.city.plan import Plan, ground_m, stream
from nerfcore.city.settings import CitySettings


@dataclass(frozen=True)
class Shot:
    """One photograph's name, camera and pose.

    Attributes:
        name: file name.
        axes: f64[3, 3], rows: right, down and forward in ENU (so: ENU to camera).
        centre_m: f64[3], ENU.
    """

    name: str
    axes: NDArray[np.float64]
    centre_m: NDArray[np.float64]


@dataclass(frozen=True)
class Flight:
    """One flight: a camera and its shots."""

    camera: pycolmap.Camera
    shots: tuple[Shot, ...]


def first_camera(width_px: int, height_px: int) -> pycolmap.Camera:
    """Return the first flight's camera: OPENCV, slightly barrel-distorted, off-centre."""
    f = 0.93 * width_px
    return pycolmap.Camera(
        camera_id=1, model="OPENCV", width=width_px, height=height_px,
        params=[f, f * 1.002, width_px * 0.504, height_px * 0.495,
                -0.035, 0.006, 0.0004, -0.0003],
    )  # fmt: skip


def second_camera(width_px: int, height_px: int) -> pycolmap.Camera:
    """Return the second flight's camera: SIMPLE_RADIAL, a wider lens."""
    return pycolmap.Camera(
        camera_id=2, model="SIMPLE_RADIAL", width=width_px, height=height_px,
        params=[0.80 * width_px, width_px * 0.498, height_px * 0.503, 0.022],
    )  # fmt: skip


def look(heading_rad: float, pitch_rad: float, roll_rad: float) -> NDArray[np.float64]:
    """Return the camera's axes as rows in ENU.

    Args:
        heading_rad: clockwise from north.
        pitch_rad: below the horizon; pi / 2 looks straight down.
        roll_rad: about the viewing direction.
    """
    sh, ch, sp, cp = np.sin(heading_rad), np.cos(heading_rad), np.sin(pitch_rad), np.cos(pitch_rad)
    forward = np.array([sh * cp, ch * cp, -sp])
    right = np.array([ch, -sh, 0.0])
    down = np.cross(forward, right)
    sr, cr = np.sin(roll_rad), np.cos(roll_rad)
    return np.array([cr * right + sr * down, cr * down - sr * right, forward])


def _lines(count: int, reach: float) -> NDArray[np.float64]:
    """Spread shots over parallel lines, flown to and fro: f64[count, 2] of (along, across)."""
    lines = max(1, round(np.sqrt(count * 0.8)))
    shares = np.array_split(np.arange(count), lines)
    across = np.linspace(-reach, reach, lines) if lines > 1 else np.zeros(1)
    places = []
    for number, share in enumerate(shares):
        along = np.linspace(-reach, reach, max(len(share), 2))[: len(share)]
        along = along if number % 2 == 0 else along[::-1]
        places.append(np.column_stack([along, np.full(len(share), across[number])]))
    return np.concatenate(places)


def _shot(
    name: str, place: NDArray[np.float64], height: float, heading_city: float, pitch: float,
    plan: Plan, rng: np.random.Generator,
) -> Shot:  # fmt: skip
    """Return a shot at a place of the city frame, with a flown camera's unsteadiness."""
    x, y = place + rng.normal(0, 2.0, 2)
    city = np.array([x, y, ground_m(float(y)) + height + rng.normal(0, 1.5)])
    heading = heading_city - plan.yaw_rad + rng.normal(0, 0.07)
    axes = look(heading, pitch + rng.normal(0, 0.03), rng.normal(0, 0.02))
    return Shot(name, axes, plan.enu_from_city() @ city)


def first_flight(settings: CitySettings, plan: Plan) -> Flight:
    """Plan the survey of the whole town: two crossing oblique passes and one straight down."""
    rng = stream(settings.seed, 4)
    down = round(settings.images * 0.3)
    first = (settings.images - down + 1) // 2
    reach = plan.half_m * 0.86
    poses: list[tuple[NDArray[np.float64], float, float, float]] = []
    for count, along_x, pitch, lift in (
        (first, True, 0.98, 0.0), (settings.images - down - first, False, 0.86, 6.0),
    ):  # fmt: skip
        for along, across in _lines(count, reach):
            place = np.array([along, across] if along_x else [across, along])
            inward = -1.0 if along > 0 else 1.0
            heading = inward * np.pi / 2 if along_x else (0.0 if inward > 0 else np.pi)
            poses.append((place, settings.altitude_m + lift, heading, pitch))
    for along, across in _lines(down, reach * 0.92):
        place = np.array([along, across])
        poses.append((place, settings.altitude_m - 6.0, 0.3, np.pi / 2 - 0.05))
    shots = tuple(
        _shot(f"{index + 1:04d}.jpg", *pose, plan, rng) for index, pose in enumerate(poses)
    )
    return Flight(first_camera(settings.width_px, settings.height_px), shots)


def second_flight(settings: CitySettings, plan: Plan, change: Change) -> Flight:
    """Plan the closer look at what changed: a third straight down, the rest from all around."""
    rng = stream(settings.seed, 5)
    focus, reach = np.array(change.focus), change.reach_m
    height = settings.update_altitude_m
    golden = np.pi * (3 - np.sqrt(5))
    shots = []
    for index in range(settings.update_images):
        name = f"new_{index + 1:04d}.jpg"
        share = np.sqrt((index + 0.5) / settings.update_images)
        angle = index * golden
        aim = focus + reach * 0.62 * share * np.array([np.cos(angle), np.sin(angle)])
        if index % 3 == 0:
            shots.append(_shot(name, aim, height, angle, np.pi / 2 - 0.06, plan, rng))
            continue
        pitch = rng.uniform(0.80, 1.05)
        heading = index * 2 * np.pi / settings.update_images * 5 + rng.normal(0, 0.2)
        back = height / np.tan(pitch)
        place = aim - back * np.array([np.sin(heading), np.cos(heading)])
        shots.append(_shot(name, place, height, heading, pitch, plan, rng))
    return Flight(second_camera(settings.width_px, settings.height_px), tuple(shots))
