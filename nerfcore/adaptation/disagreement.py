"""Owns where new photographs disagree with the model, by ground cell.

Each reduced photograph (see `looks`), brought to the model's exposure and blurred, is compared with
what the model shows. A pixel's squared error belongs to the ground cell under the surface that the
*model* shows there: whatever replaced a house is counted where the house stood. A cell's error is
the median over the photographs that see it, so that one moving car or one glint decides nothing.
The same over old photographs says how well the model knows the cell: only error far above that is
disagreement.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nerfcore.adaptation.exposure import Gains, blurred, exposed
from nerfcore.adaptation.looks import Look, cell_means
from nerfcore.sampling.ground import GroundGrid

LEAST_OLD_VIEWS = 2
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Limits:
    """When a cell counts.

    Attributes:
        ratio: new error (root mean square) over the model's usual error there, at least.
        rms: new error itself, at least, sRGB in [0, 1].
        views: new photographs that look at the cell, at least.
    """

    ratio: float
    rms: float
    views: int


DISAGREES = Limits(1.5, 0.04, 1)
CHANGED = Limits(2.0, 0.06, 2)


@dataclass(frozen=True, eq=False)
class Disagreement:
    """Errors by ground cell.

    Attributes:
        grid: the cells.
        new_rms, old_rms: f32[*grid.shape], root mean square error in sRGB against new and old
            photographs; NaN where too few of them look. Old errors are filled from neighbours.
        views: i32[*grid.shape], new photographs that see the cell.
    """

    grid: GroundGrid
    new_rms: Float32
    old_rms: Float32
    views: NDArray[np.int32]

    @property
    def ratio(self) -> Float32:
        """New error over usual error, f32[*grid.shape]; NaN where no new photograph looks."""
        return (self.new_rms / self.old_rms).astype(np.float32)

    def cells(self, limits: Limits) -> NDArray[np.bool_]:
        """Cells whose error reaches the limits, bool[*grid.shape]."""
        with np.errstate(invalid="ignore"):
            enough = (self.ratio >= limits.ratio) & (self.new_rms >= limits.rms)
        return enough & (self.views >= limits.views)


def cell_errors(look: Look, gains: Gains, grid: GroundGrid) -> Float32:
    """One photograph's mean squared error by cell, f32[cells]; NaN where it hardly looks."""
    truth = exposed(look.truth, -gains)
    error = np.square(blurred(look.shown) - blurred(truth)).mean(-1)
    return cell_means(look, grid, error)


def disagreement(
    grid: GroundGrid,
    new: Sequence[Look],
    gains: Mapping[int, Gains],
    old: Sequence[Look],
    old_gains: Mapping[int, Gains],
) -> Disagreement:
    """Compare new photographs with the model, against how old ones compare.

    Args:
        grid: the cells.
        new: looks at new photographs; gains: their exposures by image.
        old: looks at old photographs of the same ground; old_gains: their exposures.
    """
    new_errors = np.stack([cell_errors(one, gains[one.image], grid) for one in new])
    old_errors = np.stack([cell_errors(one, old_gains[one.image], grid) for one in old])
    views = np.isfinite(new_errors).sum(0)
    new_rms = _rms(new_errors, 1)
    return Disagreement(
        grid,
        new_rms.reshape(grid.shape),
        _filled(_rms(old_errors, LEAST_OLD_VIEWS).reshape(grid.shape)),
        views.reshape(grid.shape).astype(np.int32),
    )


def grown(cells: NDArray[np.bool_], steps: int = 1) -> NDArray[np.bool_]:
    """Cells and their neighbours up to so many steps away."""
    if steps < 1:
        return cells
    return np.asarray(
        ndimage.binary_dilation(cells, np.ones((3, 3), np.bool_), iterations=steps), np.bool_
    )


def solid(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Cells without single specks and pinholes: the majority of each cell's neighbourhood."""
    share = cv2.blur(cells.astype(np.float32), (3, 3), borderType=cv2.BORDER_REPLICATE)
    return share > 0.5


def _rms(errors: Float32, least: int) -> Float32:
    """Root of the median over photographs, NaN where fewer than `least` look."""
    seen = np.isfinite(errors).sum(0)
    out = np.full(errors.shape[1], np.nan, np.float32)
    enough = seen >= least
    out[enough] = np.sqrt(np.nanmedian(errors[:, enough], axis=0))
    return out


def _filled(values: Float32) -> Float32:
    """Values with NaN replaced by the nearest known one, smoothed over neighbours."""
    unknown = np.isnan(values)
    if unknown.all():
        return np.full_like(values, 0.05)
    nearest = np.asarray(
        ndimage.distance_transform_edt(unknown, return_distances=False, return_indices=True)
    )
    full = values[tuple(nearest)]
    return np.asarray(cv2.blur(full, (3, 3), borderType=cv2.BORDER_REPLICATE), np.float32)
