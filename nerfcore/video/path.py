"""Owns camera paths: key frames, the smooth way between them, and their JSON file.

Positions are East, North, Up in metres of the scene's frame; rotations are unit quaternions (w, x,
y, z) from the camera (OpenCV: right, down, forward) to East, North, Up. Between key frames
everything follows a cardinal spline: tension 0 is Catmull-Rom, 1 stops at each key frame.
"""

import json
import math
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from scipy.spatial.transform import Rotation

from nerfcore import atomic
from nerfcore.data.records import SceneFrame
from nerfcore.errors import DataError
from nerfcore.geometry.camera import Camera
from nerfcore.geometry.frames import ENU_TO_DRB, RDF_TO_RUB

FORMAT_VERSION: Final = 1
MOST_KEY_FRAMES: Final = 1000
MOST_FILE_BYTES: Final = 1 << 20


class KeyFrame(BaseModel):
    """One pose on the way.

    Attributes:
        position_enu_m: East, North, Up, m.
        wxyz: camera (OpenCV) to East, North, Up.
        fov_deg: vertical field of view.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    position_enu_m: tuple[float, float, float]
    wxyz: tuple[float, float, float, float]
    fov_deg: float = Field(ge=1.0, le=170.0)

    @model_validator(mode="after")
    def _is_a_rotation(self) -> "KeyFrame":
        if not 0.9 < math.hypot(*self.wxyz) < 1.1:
            raise ValueError("wxyz must be a unit quaternion")
        return self


class CameraPath(BaseModel):
    """A way for a camera.

    Attributes:
        key_frames: poses in order, at least two.
        seconds_per_key: from one key frame to the next, s.
        fps: pictures a second.
        tension: 0 (smooth) to 1 (stops at each key frame).
        loop: the last key frame is followed by the first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format_version: Literal[1] = FORMAT_VERSION
    key_frames: tuple[KeyFrame, ...] = Field(min_length=2, max_length=MOST_KEY_FRAMES)
    seconds_per_key: float = Field(default=2.0, gt=0, le=600)
    fps: float = Field(default=24.0, ge=1, le=120)
    tension: float = Field(default=0.0, ge=0, le=1)
    loop: bool = False

    @property
    def segments(self) -> int:
        """Stretches between key frames."""
        return len(self.key_frames) if self.loop else len(self.key_frames) - 1

    @property
    def seconds(self) -> float:
        """Length, s."""
        return self.segments * self.seconds_per_key

    @property
    def frame_count(self) -> int:
        """Pictures of the film; a loop leaves out the last, which is the first again."""
        whole = max(1, round(self.seconds * self.fps))
        return whole if self.loop else whole + 1

    def poses(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return each picture's position f64[N, 3], rotation f64[N, 4] and field of view f64[N]."""
        places = np.arange(self.frame_count) / (self.fps * self.seconds_per_key)
        values = self._along(np.minimum(places, self.segments))
        wxyz = values[:, 3:7] / np.linalg.norm(values[:, 3:7], axis=1, keepdims=True)
        return values[:, :3], wxyz, np.clip(values[:, 7], 1.0, 170.0)

    def cameras(self, frame: SceneFrame, width_px: int, height_px: int) -> list[Camera]:
        """Return each picture's camera.

        Args:
            frame: of the scene.
            width_px, height_px: size of the film.
        """
        positions, rotations, fovs_deg = self.poses()
        eyes = frame.enu_m_to_world(positions)
        turns = Rotation.from_quat(rotations, scalar_first=True).as_matrix()
        axes = ENU_TO_DRB @ turns @ RDF_TO_RUB
        c2w = np.concatenate([axes, eyes[:, :, None]], axis=2).astype(np.float32)
        focals = 0.5 * height_px / np.tan(0.5 * np.radians(fovs_deg))
        middle = 0.5 * width_px, 0.5 * height_px
        return [
            Camera(pose, float(focal), float(focal), *middle, width_px, height_px)
            for pose, focal in zip(c2w, focals, strict=True)
        ]

    def _along(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values f64[N, 8] (position, rotation, field of view) at places counted in key frames.

        Source: Bartels, Beatty, Barsky, An Introduction to Splines, cardinal splines.
        """
        values, slopes = self._controls()
        first = np.minimum(np.floor(places).astype(np.int64), self.segments - 1)
        t = (places - first)[:, None]
        start, end = values[first], values[first + 1]
        out, into = slopes[first], slopes[first + 1]
        cubic = (2 * t**3 - 3 * t**2 + 1) * start + (t**3 - 2 * t**2 + t) * out
        return cubic + (3 * t**2 - 2 * t**3) * end + (t**3 - t**2) * into

    def _controls(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Values and slopes f64[segments + 1, 8] at the key frames, rotations on one side."""
        rows = [[*key.position_enu_m, *key.wxyz, key.fov_deg] for key in self.key_frames]
        values = np.array(rows + rows[:2] if self.loop else rows, np.float64)
        for i in range(1, len(values)):  # q and -q are the same rotation: keep to one side
            if values[i - 1, 3:7] @ values[i, 3:7] < 0:
                values[i, 3:7] *= -1.0
        before = np.concatenate([values[:1], values[:-1]])
        after = np.concatenate([values[1:], values[-1:]])
        if self.loop:
            before[0, :] = self._before_first(values)
        slopes = 0.5 * (1.0 - self.tension) * (after - before)
        return values[: self.segments + 1], slopes[: self.segments + 1]

    def _before_first(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        last = values[len(self.key_frames) - 1].copy()
        if last[3:7] @ values[0, 3:7] < 0:
            last[3:7] *= -1.0
        return last


def key_frame_of(camera: Camera, frame: SceneFrame) -> KeyFrame:
    """Return a camera as a key frame (its principal point is taken as the middle)."""
    axes = ENU_TO_DRB.T @ camera.c2w[:, :3].astype(np.float64) @ RDF_TO_RUB
    w, x, y, z = (float(v) for v in Rotation.from_matrix(axes).as_quat(scalar_first=True))
    east, north, up = (float(v) for v in frame.world_to_enu_m(camera.c2w[:, 3]))
    fov = math.degrees(2.0 * math.atan(0.5 * camera.height_px / camera.fy))
    return KeyFrame(position_enu_m=(east, north, up), wxyz=(w, x, y, z), fov_deg=fov)


def parse_path(content: bytes | str, origin: str) -> CameraPath:
    """Return the camera path that a JSON text holds.

    Args:
        content: the text.
        origin: where it is from, for the error.

    Raises:
        DataError: not JSON, or a field is missing or wrong; names it.
    """
    if len(content) > MOST_FILE_BYTES:
        raise DataError(f"{origin}: {len(content)} bytes, a camera path has at most 1 MiB")
    try:
        return CameraPath.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "content"
        raise DataError(f"{origin}: {where}: {first['msg']}; save it from the viewer") from error


def read_path(file: Path) -> CameraPath:
    """Read a camera path.

    Raises:
        DataError: missing, unreadable, or no camera path.
    """
    try:
        with file.open("rb") as handle:
            content = handle.read(MOST_FILE_BYTES + 1)
    except OSError as error:
        raise DataError(f"{file}: camera path unreadable ({error.strerror})") from error
    return parse_path(content, str(file))


def write_path(file: Path, path: CameraPath) -> None:
    """Write a camera path, complete or not at all.

    Raises:
        OSError: it cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(file, json.dumps(path.model_dump(mode="json"), indent=1) + "\n")
