"""Owns turning the camera fields of a transforms.json (nerfstudio, instant-ngp) into COLMAP's.

The file's perspective lens is 1 + k1 r^2 + k2 r^4 + k3 r^6 with tangential p1, p2; its fisheye is
OpenCV's with k1..k4. Pixels in COLMAP's way: centres at +0.5, so cx, cy carry over.
"""

import math
from typing import Final

import numpy as np
import pycolmap
from pydantic import BaseModel, ConfigDict, Field

from nerfcore.data.camera_limits import camera_fault
from nerfcore.errors import DataError

_PERSPECTIVE: Final = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")
_FISHEYE: Final = ("OPENCV_FISHEYE",)
_OTHER_LENSES: Final = ("ftheta_p0", "latlong", "is_latlong", "equirectangular")
_LEAST_ANGLE_RAD: Final = 1e-3


class CameraFields(BaseModel):
    """Camera fields of the whole file or of one frame; a frame's own ones win.

    Attributes:
        camera_angle_x, camera_angle_y: fields of view, rad, where focal lengths are not given.
        fl_x, fl_y, cx, cy: px.
        w, h: size of the photographs, px.
        k1..k4, p1, p2: distortion.
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    camera_model: str | None = None
    is_fisheye: bool | None = None
    camera_angle_x: float | None = Field(default=None, ge=_LEAST_ANGLE_RAD, lt=math.pi)
    camera_angle_y: float | None = Field(default=None, ge=_LEAST_ANGLE_RAD, lt=math.pi)
    fl_x: float | None = Field(default=None, gt=0.0)
    fl_y: float | None = Field(default=None, gt=0.0)
    cx: float | None = None
    cy: float | None = None
    w: float | None = Field(default=None, ge=1.0)
    h: float | None = Field(default=None, ge=1.0)
    k1: float | None = None
    k2: float | None = None
    k3: float | None = None
    k4: float | None = None
    p1: float | None = None
    p2: float | None = None


_OWN: Final = tuple(CameraFields.model_fields)


def merged(common: CameraFields, own: CameraFields) -> CameraFields:
    """Return the fields of a frame: its own where given, else the file's."""
    values = {name: getattr(common, name) for name in _OWN}
    values |= {name: getattr(own, name) for name in _OWN if getattr(own, name) is not None}
    extra = (common.model_extra or {}) | (own.model_extra or {})
    return CameraFields(**values, **{name: extra[name] for name in _OTHER_LENSES if name in extra})


def camera_from(fields: CameraFields, size_px: tuple[int, int], where: str) -> pycolmap.Camera:
    """Return the COLMAP camera of a frame.

    Args:
        fields: merged fields.
        size_px: width and height of the photograph.
        where: file and frame, for errors.

    Raises:
        DataError: no focal length, a number beyond all photographs, or a lens that COLMAP has no
            model for.
    """
    focal_x, focal_y = _focal_lengths(fields, size_px, where)
    cx = size_px[0] / 2.0 if fields.cx is None else fields.cx
    cy = size_px[1] / 2.0 if fields.cy is None else fields.cy
    kind, extra = _lens(fields, where)
    fault = camera_fault(size_px, (focal_x, focal_y), (cx, cy), extra)
    if fault is not None:
        raise DataError(f"{where}: {fault}; correct w, h, fl_x, fl_y, cx, cy or the lens's terms")
    return pycolmap.Camera(
        camera_id=1,
        model=kind,
        width=size_px[0],
        height=size_px[1],
        params=np.array([focal_x, focal_y, cx, cy, *extra]),
    )


def _focal_lengths(
    fields: CameraFields, size_px: tuple[int, int], where: str
) -> tuple[float, float]:
    focal_x, focal_y = fields.fl_x, fields.fl_y
    if focal_x is None and fields.camera_angle_x is not None:
        focal_x = size_px[0] / 2.0 / math.tan(fields.camera_angle_x / 2.0)
    if focal_y is None and fields.camera_angle_y is not None:
        focal_y = size_px[1] / 2.0 / math.tan(fields.camera_angle_y / 2.0)
    if focal_x is None and focal_y is None:
        raise DataError(f"{where}: fl_x is missing; give fl_x (px) or camera_angle_x (rad)")
    # Square pixels are what a file with a single focal length means.
    one = focal_x if focal_x is not None else focal_y
    assert one is not None
    return (one if focal_x is None else focal_x), (one if focal_y is None else focal_y)


def _lens(fields: CameraFields, where: str) -> tuple[str, list[float]]:
    other = [name for name in _OTHER_LENSES if (fields.model_extra or {}).get(name)]
    known = (*_PERSPECTIVE, *_FISHEYE)
    if other or (fields.camera_model is not None and fields.camera_model not in known):
        found = other[0] if other else f"camera_model {fields.camera_model!r}"
        raise DataError(
            f"{where}: {found} is not a lens that can be undistorted here; known: "
            f"{', '.join(known)}; undistort the photographs first"
        )
    k1, k2, k3, k4 = (value or 0.0 for value in (fields.k1, fields.k2, fields.k3, fields.k4))
    p1, p2 = fields.p1 or 0.0, fields.p2 or 0.0
    if fields.camera_model in _FISHEYE or fields.is_fisheye:
        if p1 or p2:
            raise DataError(f"{where}: p1, p2: a fisheye lens takes none; set them to 0")
        return "OPENCV_FISHEYE", [k1, k2, k3, k4]
    if k4:
        raise DataError(f"{where}: k4: {k4} on a lens that is no fisheye; k1, k2, k3 are known")
    if k3:
        return "FULL_OPENCV", [k1, k2, p1, p2, k3, 0.0, 0.0, 0.0]
    if k1 or k2 or p1 or p2:
        return "OPENCV", [k1, k2, p1, p2]
    return "PINHOLE", []
