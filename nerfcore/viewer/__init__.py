"""The viewer: a browser page that renders a scene for each visitor and can adapt it live."""

from nerfcore.viewer.options import RenderOptions
from nerfcore.viewer.photographs import PhotoGroup
from nerfcore.viewer.poses import overview_camera
from nerfcore.viewer.protocols import (
    AdaptChoice,
    AdapterLike,
    AdaptingLike,
    ExpertLayout,
    PreparationLike,
    SceneLike,
    StepResultLike,
    VersionsLike,
)
from nerfcore.viewer.server import EndReason, ViewEnd, serve

__all__ = [
    "AdaptChoice",
    "AdapterLike",
    "AdaptingLike",
    "EndReason",
    "ExpertLayout",
    "PhotoGroup",
    "PreparationLike",
    "RenderOptions",
    "SceneLike",
    "StepResultLike",
    "VersionsLike",
    "ViewEnd",
    "overview_camera",
    "serve",
]
