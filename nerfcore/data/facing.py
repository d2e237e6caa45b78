"""Owns finding sparse points that lie behind the cameras that see them."""

from dataclasses import replace
from typing import Final

import numpy as np

from nerfcore.data.colmap import ColmapModel
from nerfcore.errors import DataError
from nerfcore.geometry.frames import camera_centres

TOLERATED_SHARE: Final = 0.01  # of the observations; more cannot be wrong matches


def drop_behind(model: ColmapModel) -> tuple[ColmapModel, int]:
    """Return the model without observations of points behind their camera, and their number.

    Raises:
        DataError: they are so many that the poses themselves must be wrong.
    """
    points = model.points
    centres = camera_centres(model.cam_from_world)
    starts = np.searchsorted(points.image_ids, np.arange(len(model.names) + 1))
    in_front = np.ones(len(points.image_ids), np.bool_)
    for index in range(len(model.names)):
        seen = slice(starts[index], starts[index + 1])
        offsets = points.xyz_m[points.point_ids[seen]] - centres[index]
        in_front[seen] = offsets @ model.cam_from_world[index, 2, :3] > 0.0
    behind = int((~in_front).sum())
    if behind > TOLERATED_SHARE * len(in_front):
        per_image = np.bincount(points.image_ids[~in_front], minlength=len(model.names))
        raise DataError(
            f"{model.folder}: {behind} of {len(in_front)} observations are of points behind their "
            f"camera (most in '{model.names[int(per_image.argmax())]}'); the poses must be "
            "world-to-camera, looking along +Z: export the model again"
        )
    if behind == 0:
        return model, 0
    kept = replace(
        points,
        image_ids=points.image_ids[in_front],
        point_ids=points.point_ids[in_front],
        xy_px=points.xy_px[in_front],
    )
    return replace(model, points=kept), behind
