"""Owns the fields of `op: "video"`: a film along a camera path."""

from typing import Annotated, Literal

from pydantic import Field

from configs.common import (
    CHECKPOINT_PATH,
    CheckpointFields,
    DataFields,
    GeneralFields,
    PathText,
    RenderFields,
    StoredModelFields,
)

PRESETS = ("turntable", "north-south", "east-west", "spiral", "coverage")
Side = Annotated[int, Field(ge=16, le=4096, multiple_of=2)]


class VideoJob(GeneralFields, DataFields, StoredModelFields, RenderFields, CheckpointFields):
    """A film: video.mp4 (VP9) along a preset, or along a path saved from the viewer."""

    op: Literal["video"] = Field(description="the operation")
    checkpoint_path: PathText = Field(description=CHECKPOINT_PATH)
    camera_path: PathText = Field(
        "turntable",
        description=f"{', '.join(PRESETS)}, or a JSON file saved from the viewer: a path below the "
        "log root such as site-1-view/camera_paths/path.json, or an absolute path inside the log "
        "or data roots",
    )
    width_px: Side = Field(854, description="width, even")
    height_px: Side = Field(480, description="height, even")
    fps: Annotated[float, Field(ge=1, le=120)] | None = Field(
        None, description="pictures a second; null = the path's (a preset: 24)"
    )
    seconds: Annotated[float, Field(gt=0, le=3600)] | None = Field(
        None, description="length of the film; null = the path's"
    )
    fov_deg: Annotated[float, Field(ge=1, le=170)] | None = Field(
        None, description="vertical field of view, degrees; null = the path's"
    )
    show: Literal["rgb", "depth"] = Field("rgb", description="colours, or depth on a fixed scale")
    depth_max_m: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        None, description="end of the depth scale, m; null = twice the start view's distance"
    )
