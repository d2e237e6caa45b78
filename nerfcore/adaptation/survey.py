"""Owns the survey that precedes adaptation: exposures, disagreement, and what may be drawn.

All of it is found with the model as it was before adaptation, from reduced photographs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nerfcore.adaptation.disagreement import (
    CHANGED,
    DISAGREES,
    Disagreement,
    disagreement,
    grown,
    solid,
)
from nerfcore.adaptation.exposure import Gains, fit_exposures, typical_exposure
from nerfcore.adaptation.looks import Look, LookAt, look, look_over
from nerfcore.adaptation.shadows import sunlit_cells
from nerfcore.data.images import ImageStore
from nerfcore.sampling.ground import GroundGrid
from nerfcore.scene import SceneModel

MOST_OLD_LOOKS = 48
CELL_LOOK_PX = 3.0
MOST_CELLS_A_SIDE = 512


@dataclass(frozen=True, eq=False)
class Survey:
    """What is known of new photographs before the first step.

    Attributes:
        new: looks at them; gains: their exposures by image.
        old: looks at the old photographs nearest to them.
        found: where they disagree; None where there are no old photographs.
    """

    new: Sequence[Look]
    gains: Mapping[int, Gains]
    old: Sequence[Look]
    found: Disagreement | None

    @property
    def typical_gains(self) -> Gains:
        """Exposure of an image of the new flight that was not adapted to."""
        return typical_exposure(list(self.gains.values()))

    def disagreeing(self) -> NDArray[np.bool_]:
        """Ground cells that a local update may change, with a rim; bool[*grid.shape]."""
        if self.found is None:
            return np.zeros((1, 1), np.bool_)
        return grown(solid(self.found.cells(DISAGREES)))

    def outdated(self) -> NDArray[np.bool_]:
        """Ground cells that old photographs show wrongly: changed, or no longer in shadow."""
        if self.found is None:
            return np.zeros((1, 1), np.bool_)
        return solid(self.found.cells(CHANGED))

    def changed(self) -> NDArray[np.bool_]:
        """Ground cells where the site itself has changed; bool[*grid.shape]."""
        if self.found is None:
            return np.zeros((1, 1), np.bool_)
        lit = sunlit_cells(self.new, self.gains, self.found.grid)
        return solid(self.outdated() & ~lit)


def survey_new_images(
    scene: SceneModel, new: ImageStore, old: ImageStore | None, look_at: LookAt = look
) -> Survey:
    """Look over new photographs and the old ones near them.

    Args:
        scene: the model before adaptation.
        new: photographs to adapt to; pixels that are not valid are not looked at.
        old: photographs of the same place that the model was trained on.
        look_at: looks at one of them; only in it is the model used.
    """
    looks = look_over(scene, new, look_at=look_at)
    gains = fit_exposures(looks)
    if old is None or not len(old):
        return Survey(looks, gains, (), None)
    old_looks = look_over(scene, old, nearest_images(scene, new, looks, old), look_at)
    grid = ground_grid(scene, looks)
    found = disagreement(grid, looks, gains, old_looks, fit_exposures(old_looks))
    return Survey(looks, gains, old_looks, found)


def ground_grid(scene: SceneModel, looks: Sequence[Look]) -> GroundGrid:
    """Cells a few reduced pixels wide over the scene; the model's own where it has variants."""
    if scene.variants is not None:
        return scene.variants.grid
    low, high = scene.partition.aabb[:, 1:]
    spacings = [_pixel_spacing(one) for one in looks]
    known = [spacing for spacing in spacings if np.isfinite(spacing)]
    least = float((high - low).max()) / MOST_CELLS_A_SIDE
    cell = CELL_LOOK_PX * float(np.median(known)) if known else float((high - low).max()) / 64
    return GroundGrid.over(low, high, max(cell, least))


def _pixel_spacing(look: Look) -> float:
    """Median distance in world units between neighbouring blocks' ground places."""
    across = np.diff(look.points[..., 1:], axis=1)
    spacings = np.linalg.norm(across, axis=-1)
    return float(np.nanmedian(spacings)) if np.isfinite(spacings).any() else float("nan")


def nearest_images(
    scene: SceneModel, new: ImageStore, looks: Sequence[Look], old: ImageStore
) -> list[int]:
    """The old photographs that look nearest to where the new ones look, at most 48."""
    heights = np.concatenate([one.points[..., 0].ravel() for one in looks])
    known = heights[np.isfinite(heights)]
    ground = float(np.median(known)) if len(known) else float(scene.partition.aabb[1, 0])
    targets, places = _looked_at(new, ground), _looked_at(old, ground)
    distances = np.linalg.norm(places[:, None] - targets[None], axis=-1).min(1)
    return sorted(np.argsort(distances, kind="stable")[:MOST_OLD_LOOKS].tolist())


def _looked_at(store: ImageStore, ground: float) -> NDArray[np.float64]:
    """Where the images' middle rays meet the ground's height, f64[N, 2] on axes 1 and 2."""
    origins = store.c2w[:, :, 3].astype(np.float64)
    forward = -store.c2w[:, :, 2].astype(np.float64)
    down = np.maximum(forward[:, 0], 0.1)
    t = np.maximum((ground - origins[:, 0]) / down, 0.0)
    return origins[:, 1:] + t[:, None] * forward[:, 1:]
