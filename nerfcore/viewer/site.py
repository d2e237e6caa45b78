"""Owns what all clients of a viewer share about the place they look at."""

from dataclasses import dataclass
from pathlib import Path

from nerfcore.data.records import SceneFrame
from nerfcore.geometry.camera import Camera
from nerfcore.viewer.photographs import PhotoShelf
from nerfcore.viewer.protocols import ExpertLayout


@dataclass(frozen=True, eq=False)
class Site:
    """A place.

    Attributes:
        frame: how world coordinates relate to metres and to the Earth.
        experts: which expert owns what.
        shelf: the photographs.
        start_camera: the view a visit starts with.
        depth_max_m: end of the depth colour scale, m.
        max_side_px: longer side of the largest picture.
        folder: the job's folder; screenshots, videos and paths go below it.
        name: what the page is called.
    """

    frame: SceneFrame
    experts: ExpertLayout
    shelf: PhotoShelf
    start_camera: Camera
    depth_max_m: float
    max_side_px: int
    folder: Path
    name: str

    @property
    def ground_up_m(self) -> float:
        """Up of the ground, m."""
        return self.frame.altitude_range_enu_m[0]
