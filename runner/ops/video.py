"""Owns a video job: a film along a camera path, picture by picture."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs import VideoJob
from configs.video import PRESETS
from nerfcore.data.records import Dataset, SceneFrame
from nerfcore.geometry.camera import Camera
from nerfcore.scene import SceneModel
from nerfcore.video.film import check_room, render_film
from nerfcore.video.path import CameraPath, read_path, write_path
from nerfcore.video.presets import Area, Preset, preset_path
from nerfcore.viewer.colours import depth_colours, nice_ceiling, to_bytes
from nerfcore.viewer.poses import ground_target, overview_camera
from runner.context import JobContext
from runner.ops.loading import load_model


def run(context: JobContext[VideoJob]) -> dict[str, Any]:
    """Render the film, and return what result.json says of it.

    Raises:
        InterruptedJobError: stopped on request; no half film is left.
        DataError: the camera path is missing or wrong.
        NerfcoreError: see `nerfcore.errors`.
    """
    job, folder = context.job, context.folder
    context.progress.progress("load", 0, 1)
    model = load_model(job, context.inputs)
    path = _path(context, model.dataset)
    context.progress.progress("load", 1, 1)
    cameras = path.cameras(model.scene.frame, job.width_px, job.height_px)
    check_room(folder.root, len(cameras), (job.width_px, job.height_px))
    write_path(folder.camera_path, path)
    depth_max_m = job.depth_max_m or _depth_scale(model.scene.frame, model.dataset)
    count = render_film(
        folder.video,
        _pictures(context, model.scene, cameras, depth_max_m),
        (job.width_px, job.height_px),
        path.fps,
        lambda done: context.progress.progress("render", done, len(cameras)),
    )
    if count is None:
        context.stop.raise_if_asked("no film was written")
    context.progress.artifact(folder.video)
    context.progress.artifact(folder.camera_path)
    return {
        "pictures": count,
        "film_s": round(len(cameras) / path.fps, 3),
        "artifacts": [folder.video.name, folder.camera_path.name],
    }


def _path(context: JobContext[VideoJob], dataset: Dataset) -> CameraPath:
    """The job's camera path with the job's own fields put in."""
    job = context.job
    if job.camera_path in PRESETS:
        area = Area.of_cameras(dataset.train.c2w, dataset.frame)
        path = preset_path(Preset(job.camera_path), area)
    else:
        assert context.inputs.camera_path is not None
        path = read_path(context.inputs.camera_path)
    changes: dict[str, Any] = {}
    if job.fps is not None:
        changes["fps"] = job.fps
    if job.seconds is not None:
        changes["seconds_per_key"] = job.seconds / path.segments
    if job.fov_deg is not None:
        keys = (key.model_copy(update={"fov_deg": job.fov_deg}) for key in path.key_frames)
        changes["key_frames"] = tuple(keys)
    return path.model_copy(update=changes)


def _pictures(
    context: JobContext[VideoJob],
    scene: SceneModel,
    cameras: list[Camera],
    depth_max_m: float,
) -> Iterator[NDArray[np.uint8] | None]:
    for camera in cameras:
        rendered = scene.render(camera, cancelled=context.stop.is_asked)
        if rendered is None:
            yield None
            return
        if context.job.show == "depth":
            yield depth_colours(rendered.depth_m, depth_max_m)
        else:
            yield to_bytes(rendered.rgb)


def _depth_scale(frame: SceneFrame, dataset: Dataset) -> float:
    start = overview_camera(frame, dataset.train.c2w)
    offset = ground_target(start, frame) - start.c2w[:, 3]
    return nice_ceiling(2.0 * float(np.linalg.norm(offset)) * frame.pose_scale_factor_m)
