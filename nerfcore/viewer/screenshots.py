"""Owns screenshot files: PNG with the view in their metadata, written whole or not at all.

The metadata is one iTXt chunk with keyword `skyline:view`: JSON with the camera (RUB to DRB world),
its place in ENU metres and, where the scene has a geodetic reference, on the Earth.
"""

import json
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from nerfcore import atomic
from nerfcore.data.records import SceneFrame
from nerfcore.geometry.camera import Camera

KEYWORD: Final = "skyline:view"
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_HEADER_END: Final = len(_SIGNATURE) + 25


def describe_view(camera: Camera, frame: SceneFrame, show: str) -> dict[str, Any]:
    """Return a view as plain JSON values: camera, place in metres, place on the Earth or null."""
    eye = camera.c2w[:, 3].astype(np.float64)
    geo = None
    if frame.enu_ref is not None:
        latitude, longitude, altitude = frame.world_to_geo(eye)
        geo = {"lat_deg": float(latitude), "lon_deg": float(longitude), "alt_m": float(altitude)}
    return {
        "show": show,
        "camera_axes": "RUB",
        "world_axes": "DRB",
        "c2w": camera.c2w.astype(float).tolist(),
        "fx": camera.fx,
        "fy": camera.fy,
        "cx": camera.cx,
        "cy": camera.cy,
        "width_px": camera.width_px,
        "height_px": camera.height_px,
        "pose_scale_factor_m": frame.pose_scale_factor_m,
        "position_enu_m": frame.world_to_enu_m(eye).tolist(),
        "position_geo": geo,
    }


def save_screenshot(folder: Path, picture: NDArray[np.uint8], view: dict[str, Any]) -> Path:
    """Write a screenshot and return its path.

    Args:
        folder: made if missing.
        picture: u8[H, W, 3] RGB.
        view: what `describe_view` returned.

    Raises:
        OSError: the file cannot be written; nothing is left behind.
    """
    now = datetime.now(UTC)
    content = encode_png(picture, {**view, "time": now.isoformat()})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{now:%Y%m%dT%H%M%S_%f}_{str(view['show']).lower()}.png"
    atomic.write_bytes(path, content)
    return path


def encode_png(picture: NDArray[np.uint8], view: dict[str, Any]) -> bytes:
    """Return a PNG file's bytes with the view as its metadata."""
    is_encoded, encoded = cv2.imencode(".png", picture[..., ::-1])
    if not is_encoded:
        raise ValueError(f"a picture of shape {picture.shape} cannot be written as PNG")
    png = encoded.tobytes()
    # Source: PNG specification 11.3.3.4: keyword, NUL, no compression, no language, no translation.
    body = KEYWORD.encode() + b"\0\0\0\0\0" + json.dumps(view).encode()
    return png[:_HEADER_END] + _chunk(b"iTXt", body) + png[_HEADER_END:]


def read_view(path: Path) -> dict[str, Any] | None:
    """Return the view stored in a screenshot, or None where the file has none."""
    content = path.read_bytes()
    position = len(_SIGNATURE)
    while position + 8 <= len(content):
        length = int.from_bytes(content[position : position + 4], "big")
        kind = content[position + 4 : position + 8]
        body = content[position + 8 : position + 8 + length]
        keyword, _, rest = body.partition(b"\0")
        if kind == b"iTXt" and keyword.decode("latin-1") == KEYWORD:
            return json.loads(rest[4:])
        position += length + 12
    return None


def _chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(kind + body).to_bytes(4, "big")
    return len(body).to_bytes(4, "big") + kind + body + checksum
