"""Owns which experts an image shows: the blending weights of the surfaces seen, averaged."""

from dataclasses import dataclass

import numpy as np

from nerfcore.data.partition import Partition
from nerfcore.geometry.camera import Camera, Rendered

EVERY_PX = 8


@dataclass(frozen=True, eq=False)
class ExpertShares:
    """Works out shares for one partition.

    Attributes:
        partition: the experts.
        scale_m: metres per world unit.
    """

    partition: Partition
    scale_m: float

    def of(self, camera: Camera, rendered: Rendered) -> str:
        """Experts and their shares of what a picture shows, as "0:0.75 2:0.25".

        Every eighth pixel a side counts; weights are those of `sampling.march`: m d_min / d_k - 1.
        """
        origins, directions = camera.rays()
        shape = (camera.height_px, camera.width_px)
        middle = slice(EVERY_PX // 2, None, EVERY_PX)
        picked = np.arange(shape[0] * shape[1]).reshape(shape)[middle, middle].ravel()
        t = rendered.depth_m.reshape(-1)[picked] / np.float32(self.scale_m)
        points = origins[picked] + t[:, None] * directions[picked]
        points = points[np.isfinite(t)]
        if not len(points):
            return ""
        p, first = self.partition, 1 if self.partition.cluster_2d else 0
        away = points[:, None, first:] - p.centroids[None, :, first:]
        distances = np.maximum(np.linalg.norm(away, axis=-1), 1e-9)
        nearest = distances.min(1, keepdims=True)
        weights = np.maximum(p.boundary_margin * nearest / distances - 1.0, 0.0)
        weights[(distances == nearest) & (weights == 0)] = 1e-6
        shares = (weights / weights.sum(1, keepdims=True)).mean(0)
        return " ".join(f"{k}:{share:.3f}" for k, share in enumerate(shares) if share >= 0.0005)
