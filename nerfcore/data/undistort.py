"""Owns turning any COLMAP camera into a pinhole, for pixels, validity and observed points.

Pixel centres lie at +0.5 on both sides. A pinhole keeps its pixels untouched.
"""

import threading
from typing import Final

import cv2
import numpy as np
import pycolmap
from numpy.typing import NDArray

from nerfcore.errors import DataError

_Maps = tuple[NDArray[np.float32], NDArray[np.float32]]
_ROWS_AT_ONCE_PX: Final = 1 << 20  # bounds the float64 temporaries for large photographs


class Undistortion:
    """The map from one COLMAP camera's photographs to those of a pinhole.

    Attributes:
        is_identity: the camera is a pinhole already, photographs are used as they are.
        intrinsics: f64[4], fx, fy, cx, cy of the pinhole, px.
        width_px, height_px: size of its photographs.
        source_size: (width, height) of the camera's own photographs.
    """

    def __init__(self, camera: pycolmap.Camera, *, keep_maps: bool = True) -> None:
        """Choose the pinhole: the largest view without pixels that lack a source.

        Args:
            camera: the source.
            keep_maps: keep the pixel maps (8 bytes a pixel) once built, for the next photograph;
                False when only one photograph was taken with this camera.

        Raises:
            DataError: the camera cannot be shown by a pinhole.
        """
        self._camera = camera
        self.source_size = (int(camera.width), int(camera.height))
        # is_undistorted alone is also true of a fisheye whose further terms are zero.
        self.is_identity = bool(camera.is_perspective_pinhole() and camera.is_undistorted())
        pinhole = camera if self.is_identity else pinhole_for(camera)
        k = pinhole.calibration_matrix()
        self.intrinsics = np.array([k[0, 0], k[1, 1], k[0, 2], k[1, 2]], np.float64)
        if not (np.isfinite(self.intrinsics).all() and (self.intrinsics[:2] > 0).all()):
            raise DataError(
                f"camera {camera.camera_id}: focal length {self.intrinsics[0]:g} x "
                f"{self.intrinsics[1]:g} px, must be positive; correct the model's camera"
            )
        self.width_px, self.height_px = int(pinhole.width), int(pinhole.height)
        self._keep_maps, self._building = keep_maps, threading.Lock()
        self._kept: _Maps | None = None

    def _maps(self) -> _Maps:
        """Return the pixel maps, built for the first photograph of the right size."""
        if not self._keep_maps:
            return self._build_maps()
        with self._building:
            if self._kept is None:
                self._kept = self._build_maps()
            return self._kept

    def _build_maps(self) -> _Maps:
        """Return for each pinhole pixel the source column and row (cv2: centres at integers)."""
        fx, fy, cx, cy = self.intrinsics
        columns = (np.arange(self.width_px) + 0.5 - cx) / fx
        maps = np.empty((self.height_px, self.width_px, 2), np.float32)
        step = max(1, _ROWS_AT_ONCE_PX // self.width_px)
        for top in range(0, self.height_px, step):
            rows = (np.arange(top, min(top + step, self.height_px)) + 0.5 - cy) / fy
            rays = np.ones((len(rows), self.width_px, 3))
            rays[..., 0], rays[..., 1] = columns[None, :], rows[:, None]
            pixels = np.asarray(self._camera.img_from_cam(rays.reshape(-1, 3)), np.float64)
            pixels = np.where(np.isfinite(pixels), pixels - 0.5, -1e6)
            maps[top : top + step] = pixels.reshape(len(rows), self.width_px, 2)
        return np.ascontiguousarray(maps[..., 0]), np.ascontiguousarray(maps[..., 1])

    def apply(
        self, source: NDArray[np.uint8], source_invalid: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """Return the pinhole's photograph, and its pixels without a true measurement.

        Args:
            source: u8[H, W, 3], the camera's own photograph.
            source_invalid: bool[H, W], its bad pixels, None when all are good.

        Returns:
            u8[h, w, 3], and bool[h, w] or None when all pixels are good.
        """
        if self.is_identity:
            return source, source_invalid
        x, y = self._maps()
        warped = cv2.remap(source, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        width_px, height_px = self.source_size
        missing = (x < -0.5) | (x > width_px - 0.5) | (y < -0.5) | (y > height_px - 0.5)
        if source_invalid is not None:
            missing |= cv2.remap(source_invalid.astype(np.uint8), x, y, cv2.INTER_NEAREST) > 0
        return np.asarray(warped, np.uint8), missing if missing.any() else None

    def points(self, xy_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where source pixels f64[N, 2] lie in the pinhole's photograph, f64[N, 2]."""
        if self.is_identity or len(xy_px) == 0:
            return xy_px
        normalised = np.asarray(self._camera.cam_from_img(xy_px), np.float64)
        return normalised * self.intrinsics[:2] + self.intrinsics[2:]


def pinhole_for(camera: pycolmap.Camera) -> pycolmap.Camera:
    """Return the pinhole camera that a camera's pictures are undistorted to.

    Raises:
        DataError: there is none, as for a panorama.
    """
    try:
        return pycolmap.undistort_camera(pycolmap.UndistortCameraOptions(), camera)
    except (ValueError, RuntimeError, IndexError) as error:
        raise DataError(
            f"camera {camera.camera_id}: model {camera.model_name} cannot be undistorted to a "
            "pinhole; use a perspective or fisheye camera of less than 180 degrees"
        ) from error
