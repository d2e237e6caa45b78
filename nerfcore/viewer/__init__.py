"""The viewer: a browser page that renders a scene for each visitor and can adapt it live."""

from nerfcore.viewer.poses import overview_camera
from nerfcore.viewer.protocols import AdapterLike, SceneLike, StepResultLike
from nerfcore.viewer.server import EndReason, ViewEnd, serve

__all__ = [
    "AdapterLike",
    "EndReason",
    "SceneLike",
    "StepResultLike",
    "ViewEnd",
    "overview_camera",
    "serve",
]
