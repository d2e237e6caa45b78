"""Scores a ray batch without touching the model."""

import numpy as np

from nerfcore.scene import RENDER_CHUNK_RAYS, SceneModel
from nerfcore.training.pixels import RayBatch


def batch_mse(scene: SceneModel, batch: RayBatch) -> float:
    """Mean squared error in sRGB of rendered rays against their true colours."""
    total = 0.0
    for begin in range(0, len(batch), RENDER_CHUNK_RAYS):
        chunk = slice(begin, begin + RENDER_CHUNK_RAYS)
        rgb, _, _ = scene.render_rays(batch.origins[chunk], batch.directions[chunk])
        total += float(np.square(rgb - batch.rgbs[chunk], dtype=np.float64).sum())
    return total / (3 * len(batch))
