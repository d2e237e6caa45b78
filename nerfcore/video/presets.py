"""Owns camera paths that fit any site: turntable, straight flights, spiral, coverage."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nerfcore.data.records import SceneFrame
from nerfcore.geometry.aiming import camera_towards, looking_at
from nerfcore.video.path import CameraPath, KeyFrame, key_frame_of

FOV_DEG: Final = 55.0
TURN_KEYS: Final = 12
SPIRAL_TURNS: Final = 2
FLIGHT_KEYS: Final = 5
FLIGHT_PITCH_DEG: Final = -40.0
COVERAGE_PITCH_DEG: Final = -75.0
LANES: Final = 4
SECONDS_PER_KEY: Final = 1.5


class Preset(StrEnum):
    """The presets."""

    TURNTABLE = "turntable"
    NORTH_SOUTH = "north-south"
    EAST_WEST = "east-west"
    SPIRAL = "spiral"
    COVERAGE = "coverage"


@dataclass(frozen=True)
class Area:
    """What a preset flies over.

    Attributes:
        frame: of the scene.
        middle_m: East, North of the middle, m.
        half_m: half its extent to the East and the North, m.
        ground_m: Up of the ground, m.
        height_m: usual height of the cameras above it, m.
    """

    frame: SceneFrame
    middle_m: tuple[float, float]
    half_m: tuple[float, float]
    ground_m: float
    height_m: float

    @staticmethod
    def of_cameras(c2w: NDArray[np.floating], frame: SceneFrame) -> "Area":
        """Return the area that cameras [N, 3, 4] flew over (its outermost twentieths left out)."""
        places = frame.world_to_enu_m(np.asarray(c2w, np.float64)[:, :, 3])
        low, high = np.percentile(places[:, :2], [5.0, 95.0], axis=0)
        ground = frame.altitude_range_enu_m[0]
        height = max(2.0, float(np.median(places[:, 2])) - ground)
        half = np.maximum(0.5 * (high - low), 0.5 * height)
        middle = 0.5 * (low + high)
        return Area(
            frame,
            (float(middle[0]), float(middle[1])),
            (float(half[0]), float(half[1])),
            ground,
            height,
        )


def preset_path(preset: Preset, area: Area, fps: float = 24.0) -> CameraPath:
    """Return a preset's camera path over an area."""
    make: dict[Preset, Callable[[Area], list[KeyFrame]]] = {
        Preset.TURNTABLE: _turntable,
        Preset.NORTH_SOUTH: lambda a: _flight(a, 180.0),
        Preset.EAST_WEST: lambda a: _flight(a, 270.0),
        Preset.SPIRAL: _spiral,
        Preset.COVERAGE: _coverage,
    }
    return CameraPath(
        key_frames=tuple(make[preset](area)),
        seconds_per_key=SECONDS_PER_KEY,
        fps=fps,
        loop=preset is Preset.TURNTABLE,
    )


def _turntable(area: Area) -> list[KeyFrame]:
    radius = max(area.half_m)
    return [
        _around(area, 360.0 * key / TURN_KEYS, radius, area.height_m) for key in range(TURN_KEYS)
    ]


def _spiral(area: Area) -> list[KeyFrame]:
    keys, frames = SPIRAL_TURNS * TURN_KEYS, []
    for key in range(keys + 1):
        share = key / keys
        radius = max(area.half_m) * (1.2 - 0.8 * share)
        height = area.height_m * (1.3 - 0.6 * share)
        frames.append(_around(area, 360.0 * SPIRAL_TURNS * share, radius, height))
    return frames


def _flight(area: Area, heading_deg: float) -> list[KeyFrame]:
    """Straight over the middle, looking ahead and down."""
    ahead = np.array([math.sin(math.radians(heading_deg)), math.cos(math.radians(heading_deg))])
    reach = float(np.abs(ahead) @ np.array(area.half_m)) + 0.5 * area.height_m
    return [
        _at(area, np.array(area.middle_m) + share * reach * ahead, heading_deg, FLIGHT_PITCH_DEG)
        for share in np.linspace(-1.0, 0.6, FLIGHT_KEYS)
    ]


def _coverage(area: Area) -> list[KeyFrame]:
    """Lane by lane from the south to the north, nearly straight down."""
    frames = []
    for lane, north in enumerate(np.linspace(-1.0, 1.0, LANES)):
        ends = (-1.0, 0.0, 1.0) if lane % 2 == 0 else (1.0, 0.0, -1.0)
        for east in ends:
            spot = np.array(area.middle_m) + np.array([east, north]) * np.array(area.half_m)
            frames.append(_at(area, spot, 0.0, COVERAGE_PITCH_DEG))
    return frames


def _around(area: Area, bearing_deg: float, radius_m: float, height_m: float) -> KeyFrame:
    """From a bearing, looking at the middle of the ground."""
    angle = math.radians(bearing_deg)
    middle = np.array([*area.middle_m, area.ground_m])
    offset = np.array([radius_m * math.sin(angle), radius_m * math.cos(angle), height_m])
    world = area.frame.enu_m_to_world(np.stack([middle + offset, middle]))
    camera = looking_at(world[0], world[1], 64, 64, math.radians(FOV_DEG))
    return key_frame_of(camera, area.frame)


def _at(area: Area, spot_m: NDArray[np.float64], heading_deg: float, pitch_deg: float) -> KeyFrame:
    eye = area.frame.enu_m_to_world([*spot_m, area.ground_m + area.height_m])
    camera = camera_towards(eye, heading_deg, pitch_deg, 0.0, 64, 64, math.radians(FOV_DEG))
    return key_frame_of(camera, area.frame)
