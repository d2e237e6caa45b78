"""What is truly seen of the synthetic city from a camera of a scene prepared from its flights."""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pycolmap

from nerfcore.city.flight import Shot
from nerfcore.city.render import photograph, pixel_rays, trace
from nerfcore.city.scene import Scene
from nerfcore.city.settings import CitySettings, Event
from nerfcore.city.town import build_town
from nerfcore.data.records import SceneFrame
from nerfcore.geometry.camera import Camera
from nerfcore.geometry.geodesy import GeoPoint, ecef_to_enu, enu_to_ecef

LEVEL_M = 0.05  # a roof's own surface, without what stands on it
RAYS_A_SIDE = 2


@dataclass(frozen=True)
class Seen:
    """What the middle of each pixel meets.

    Attributes:
        places_m: f64[H, W, 3], city frame; infinite for the sky.
        owners: i32[H, W], number of the building, -1 for everything else.
    """

    places_m: np.ndarray
    owners: np.ndarray


@dataclass(frozen=True)
class Spot:
    """A pixel (column, row), the place it shows (m, city frame) and its distance from the edge."""

    x: int
    y: int
    place_m: np.ndarray
    clearance_px: float


class CityTruth:
    """The analytic city that flights were made of.

    Args:
        flights: made by `scripts/make_city.py`.
        frame: of the dataset prepared from them.

    Attributes:
        town: the city before and after its event.
    """

    def __init__(self, flights: Path, frame: SceneFrame) -> None:
        record = json.loads((flights / "city.json").read_text())
        settings, where = record["settings"], record["enu_reference"]
        self.town = build_town(CitySettings(**{**settings, "event": Event(settings["event"])}))
        self._reference = GeoPoint(where["latitude_deg"], where["longitude_deg"], where["height_m"])
        self._frame = frame

    def seen(self, scene: Scene, camera: Camera) -> Seen:
        """Cast a ray of the city's own ray caster through the middle of every pixel."""
        origins, directions = (part.astype(np.float64) for part in camera.rays())
        turn = self.town.plan.enu_from_city()
        eye = self._to_enu_m(origins[:1]) @ turn
        rays = self._to_enu_m(origins + directions) @ turn - eye
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        depth_m, items, _ = trace(scene, np.broadcast_to(eye, rays.shape), rays, LEVEL_M)
        owners = np.where(items >= 0, scene.building[items], -1)
        shape = (camera.height_px, camera.width_px)
        return Seen((eye + depth_m[:, None] * rays).reshape(*shape, 3), owners.reshape(shape))

    def photograph(self, scene: Scene, camera: Camera) -> np.ndarray:
        """Take the photograph a perfect model would show, u8[H, W, 3] sRGB."""
        lens = pycolmap.Camera(
            camera_id=1, model="PINHOLE", width=camera.width_px, height=camera.height_px,
            params=[camera.fx, camera.fy, camera.cx, camera.cy],
        )  # fmt: skip
        eye, axes = camera.c2w[:, 3].astype(np.float64), camera.c2w[:, :3].astype(np.float64)
        ends = self._to_enu_m(np.concatenate([eye[None], eye + axes.T]))
        right, up, back = (ends[1:] - ends[0]) / self._frame.pose_scale_factor_m
        shot = Shot("page", np.stack([right, -up, -back]), ends[0])
        return photograph(scene, self.town.plan, lens, pixel_rays(lens, RAYS_A_SIDE), shot)

    def flat_roofs(self, seen: Seen, is_clear: np.ndarray) -> list[Spot]:
        """The middle of the largest free piece of every flat roof in view, the largest first.

        Args:
            seen: before the event.
            is_clear: bool[H, W], where nothing lies over the picture.
        """
        spots = []
        for number, building in enumerate(self.town.buildings):
            top_m = building.base[2] + building.size[2]
            is_level = np.abs(seen.places_m[..., 2] - top_m) < LEVEL_M
            is_roof = np.pad((seen.owners == number) & is_level & is_clear, 1)
            away = cv2.distanceTransform(is_roof.astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
            y, x = np.unravel_index(away.argmax(), away.shape)
            if away[y, x] > 0:
                spots.append(Spot(int(x), int(y), seen.places_m[y, x], float(away[y, x])))
        return sorted(spots, key=lambda spot: -spot.clearance_px)

    def _to_enu_m(self, points: np.ndarray) -> np.ndarray:
        """World points [..., 3] as metres east, north and up of the city's own reference."""
        assert self._frame.enu_ref is not None
        ecef_m = enu_to_ecef(self._frame.world_to_enu_m(points), self._frame.enu_ref)
        return ecef_to_enu(ecef_m, self._reference)
