"""An analytic scene for viewer tests: coloured boxes on a green ground under an empty sky.

It is ray-cast exactly, so a picture in the browser can be compared with the truth. `BoxesAdapter`
paints the tower another colour, step by step, as adaptation to a changed building would.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np

from nerfcore.data.records import ImageSet, SceneFrame
from nerfcore.geometry.aiming import looking_at
from nerfcore.geometry.camera import Camera, Rendered
from nerfcore.geometry.geodesy import GeoPoint
from nerfcore.viewer import AdaptChoice, ExpertLayout, PhotoGroup, PreparationLike, RenderOptions
from nerfcore.viewer.colours import Show, depth_colours, opacity_greys, to_bytes
from nerfcore.viewer.options import AS_IT_IS

SCALE_M = 100.0
FLIGHT_HEIGHT_M = 80.0
CHUNK_RAYS = 8192
SUN = np.array([0.25, 0.35, 0.9])
GROUND_RGB = np.array([0.25, 0.5, 0.2])
SKY_RGB = np.array([0.55, 0.75, 0.95])
TOWER_RGB = np.array([0.85, 0.15, 0.1])
CHANGED_RGB = np.array([0.1, 0.2, 0.9])
# East, North, Up in metres: low corner, high corner, colour.
BOXES = [
    ((-15, -15, 0), (15, 15, 45), TOWER_RGB),
    ((30, -10, 0), (60, 25, 20), np.array([0.9, 0.8, 0.2])),
    ((-60, 10, 0), (-30, 40, 12), np.array([0.6, 0.3, 0.7])),
    ((-10, 40, 0), (40, 70, 25), np.array([0.8, 0.8, 0.8])),
]


def make_frame() -> SceneFrame:
    """A frame whose world origin lies at flight height above the middle of the boxes."""
    return SceneFrame(
        SCALE_M,
        np.array([-FLIGHT_HEIGHT_M, 0.0, 0.0]),
        GeoPoint(47.0, 8.0, 400.0),
        (0.0, FLIGHT_HEIGHT_M),
    )


class BoxesScene:
    """The boxes; `fail_next` makes the next renders raise, `rays_rendered` counts."""

    def __init__(self) -> None:
        self.frame = make_frame()
        half = 200.0 / SCALE_M
        self.experts = ExpertLayout(
            np.array([[0.8, -1.0, 0.0], [0.8, 1.0, 0.0]], np.float32),
            True,
            np.array([[-0.2, -half, -half], [0.85, half, half]], np.float32),
        )
        self.options_seen: list[RenderOptions] = []
        self.tower_rgb = TOWER_RGB.copy()
        self.fail_next = 0
        self.users = 0
        self.most_users = 0
        self._count_lock = threading.Lock()

    def render(
        self,
        camera: Camera,
        *,
        options: RenderOptions = AS_IT_IS,
        cancelled: Callable[[], bool] | None = None,
    ) -> Rendered | None:
        self.options_seen = [*self.options_seen[-99:], options]
        tower_rgb = TOWER_RGB if options.is_before else self.tower_rgb
        if self.fail_next > 0:
            self.fail_next -= 1
            raise RuntimeError("the boxes fell over")
        origins, directions = camera.rays()
        parts = []
        for start in range(0, len(origins), CHUNK_RAYS):
            if cancelled is not None and cancelled():
                return None
            with self.in_use():
                chunk = slice(start, start + CHUNK_RAYS)
                parts.append(self._cast(origins[chunk], directions[chunk], tower_rgb))
        shape = (camera.height_px, camera.width_px)
        rgb, depth_m = (np.concatenate(part) for part in zip(*parts, strict=True))
        if options.background_rgb is not None:
            rgb[~np.isfinite(depth_m)] = options.background_rgb
        low_m, high_m = options.near_m or 0.0, options.far_m or np.inf
        depth_m[~((depth_m >= low_m) & (depth_m <= high_m))] = np.nan
        depth_m = depth_m.reshape(shape).astype(np.float32)
        opacity = np.isfinite(depth_m).astype(np.float32)
        return Rendered(rgb.reshape(*shape, 3).astype(np.float32), depth_m, opacity)

    def copy(self) -> "BoxesScene":
        """The same boxes, for a test's own renders: they count as nobody's use."""
        other = BoxesScene()
        other.tower_rgb = self.tower_rgb.copy()
        return other

    def seen_by(self, camera: Camera) -> Rendered:
        """The whole picture of a camera."""
        rendered = self.render(camera)
        assert rendered is not None
        return rendered

    def in_use(self) -> "_Use":
        """Count who touches the model at once: it must never be two."""
        return _Use(self)

    def _cast(self, origins, directions, tower_rgb):
        eyes = self.frame.world_to_enu_m(origins)
        rays = self.frame.world_to_enu_m(directions) - self.frame.world_to_enu_m(np.zeros(3))
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        nearest = np.full(len(eyes), np.inf)
        rgb = np.tile(SKY_RGB, (len(eyes), 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            ground = -eyes[:, 2] / rays[:, 2]
            spot = eyes + ground[:, None] * rays
            on_ground = (ground > 0) & (np.abs(spot[:, :2]) < 200.0).all(axis=1)
            nearest[on_ground] = ground[on_ground]
            checks = np.floor(spot[:, :2] / 20.0).sum(axis=1) % 2
            rgb[on_ground] = (GROUND_RGB * (0.8 + 0.4 * checks[:, None]))[on_ground]
            for index, (low, high, colour) in enumerate(BOXES):
                first, second = (np.asarray(low) - eyes) / rays, (np.asarray(high) - eyes) / rays
                entries = np.minimum(first, second)
                entry, leave = entries.max(axis=1), np.maximum(first, second).min(axis=1)
                is_hit = (entry < leave) & (entry > 0) & (entry < nearest)
                normals = -np.sign(rays) * np.eye(3)[entries.argmax(axis=1)]
                light = 0.55 + 0.45 * np.clip(normals @ SUN, 0, 1)
                base = tower_rgb if index == 0 else colour
                rgb[is_hit] = (base * light[:, None])[is_hit]
                nearest[is_hit] = entry[is_hit]
        return np.clip(rgb, 0, 1), np.where(np.isfinite(nearest), nearest, np.nan)


class _Use:
    def __init__(self, scene: BoxesScene) -> None:
        self._scene = scene

    def __enter__(self) -> None:
        with self._scene._count_lock:
            self._scene.users += 1
            self._scene.most_users = max(self._scene.most_users, self._scene.users)

    def __exit__(self, *_) -> None:
        with self._scene._count_lock:
            self._scene.users -= 1


@dataclass(frozen=True)
class BoxesStep:
    step: int
    loss: float
    psnr: float
    seconds: float


class BoxesAdapter:
    """Moves the tower's colour a tenth of the way to blue each step.

    Args:
        scene: changed in place.
        diverge_at, raise_at, flat_at: the step that goes wrong, None = none.
    """

    def __init__(
        self,
        scene: BoxesScene,
        diverge_at: int | None = None,
        raise_at: int | None = None,
        flat_at: int | None = None,
    ) -> None:
        self._scene = scene
        self._before = scene.tower_rgb.copy()
        self._diverge_at, self._raise_at, self.flat_at = diverge_at, raise_at, flat_at
        self._steps = 0

    def retune(self, choice: AdaptChoice) -> bool:
        return False

    def prepare(self, preparation: PreparationLike) -> None:
        with preparation.model() as asked:
            assert not asked()

    def divergence(self) -> str | None:
        is_flat = self.flat_at is not None and self._steps >= self.flat_at
        return "all of one flat colour" if is_flat else None

    def step(self) -> BoxesStep:
        with self._scene.in_use():
            self._steps += 1
            if self._steps == self._raise_at:
                self._scene.tower_rgb = np.zeros(3)
                raise RuntimeError("out of memory")
            self._scene.tower_rgb = 0.9 * self._scene.tower_rgb + 0.1 * CHANGED_RGB
            loss = float(np.square(self._scene.tower_rgb - CHANGED_RGB).mean())
            if self._steps == self._diverge_at:
                self._scene.tower_rgb = np.full(3, np.nan)
                loss = float("nan")
            psnr = -10.0 * np.log10(max(loss, 1e-9))
            return BoxesStep(self._steps, loss, psnr, 0.01 * self._steps)

    def reset(self) -> None:
        self._scene.tower_rgb = self._before.copy()
        self._steps = 0


class BoxesAdapting:
    """Live adaptation of the boxes; `faults` go to the adapters it makes."""

    def __init__(self, scene: BoxesScene, **faults: int) -> None:
        self._scene = scene
        self._faults = faults
        self.made: list[AdaptChoice] = []
        self.last: BoxesAdapter | None = None
        self.batches = ("batch_0001", "batch_0002")
        self.choice = AdaptChoice("batch_0001")

    def make(self, choice: AdaptChoice, steps: int) -> BoxesAdapter:
        self.made.append(choice)
        self.last = BoxesAdapter(self._scene, **self._faults)
        return self.last

    def put_back(self) -> None:
        self._scene.tower_rgb = TOWER_RGB.copy()


class BoxesVersions:
    """Versions of the boxes: towers of several colours; `fault` is raised by the next use."""

    COLOURS: ClassVar = {"step100": TOWER_RGB, "step200": np.array([0.1, 0.8, 0.2])}

    def __init__(self, scene: BoxesScene) -> None:
        self._scene = scene
        self.current = "step100"
        self.latest: str | None = "step100"
        self.fault: Exception | None = None
        self.saved: list[tuple[Path, int]] = []
        self.saved_batches: list[str] = []

    def names(self) -> list[str]:
        return [*self.COLOURS, *(path.name for path, _ in self.saved)]

    def newest(self) -> str | None:
        return self.latest

    def read(self, name: str) -> Callable[[], None]:
        self._raise_fault()
        colour = self.COLOURS[name]

        def show() -> None:
            self._scene.tower_rgb = colour.copy()
            self.current = name

        return show

    def save(self, path: Path, steps: int, batches: Sequence[str]) -> None:
        self._raise_fault()
        path.mkdir()
        self.saved.append((path, steps))
        self.saved_batches = list(batches)

    def _raise_fault(self) -> None:
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault


def boxes_photographs(folder: Path, scene: BoxesScene, count: int = 4) -> list[PhotoGroup]:
    """Write photographs of the boxes, and of the boxes with a blue tower; return both flights."""
    changed = BoxesScene()
    changed.tower_rgb = CHANGED_RGB.copy()
    return [
        _photograph_group(folder, "first flight", scene, count, False),
        _photograph_group(folder, "batch_0001", changed, count, True),
    ]


def _photograph_group(
    folder: Path, name: str, scene: BoxesScene, count: int, is_later: bool
) -> PhotoGroup:
    cameras = [
        looking_at([0.0, np.sin(angle), np.cos(angle)], [0.8, 0.0, 0.0], 160, 120, 0.8)
        for angle in np.linspace(-0.4, 0.4, count)
    ]
    paths = []
    for index, camera in enumerate(cameras):
        path = folder / f"{name}-{index}.png"
        rendered = scene.render(camera)
        assert rendered is not None
        cv2.imwrite(str(path), to_bytes(rendered.rgb)[..., ::-1])
        paths.append(path)
    images = ImageSet(
        tuple(path.name for path in paths),
        tuple(paths),
        (None,) * count,
        np.stack([camera.c2w for camera in cameras]),
        np.array([[c.fx, c.fy, c.cx, c.cy] for c in cameras], np.float32),
        np.full(count, 160, np.int32),
        np.full(count, 120, np.int32),
    )
    return PhotoGroup(name, images, is_later)


def painted(rendered: Rendered, show: Show, depth_max_m: float) -> np.ndarray:
    """The picture a page should show of a render, u8[H, W, 3] RGB."""
    if show is Show.DEPTH:
        return depth_colours(rendered.depth_m, depth_max_m)
    if show is Show.OPACITY:
        return opacity_greys(rendered.opacity)
    return to_bytes(rendered.rgb)
