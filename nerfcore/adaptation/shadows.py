"""Owns telling ground that a shadow has left from ground that has changed.

Where a house has fallen, the ground that lay in its shadow is lit: photographs differ from the
model there, though the site has not changed. Such ground was dark, has become brighter by one
factor in all channels (in linear light, as far as the sun outshines the sky), and differs in
nothing else. A burnt or flooded place is not brighter, rubble has another texture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from nerfcore.adaptation.exposure import Gains, blurred, exposed
from nerfcore.adaptation.looks import Look, cell_means
from nerfcore.colour import linear_to_srgb_array, srgb_to_linear_array
from nerfcore.sampling.ground import GroundGrid

Float32 = NDArray[np.float32]
WINDOW_PX = 3
LEAST_LIGHT = 1e-6


@dataclass(frozen=True)
class Sunlit:
    """When a cell has only lost a shadow.

    Attributes:
        brighter_log2: least and greatest growth of its light, log2.
        rms: most that remains of the difference then, root mean square, sRGB in [0, 1].
        dark: most light that the model shows there, of the site's median.
    """

    brighter_log2: tuple[float, float]
    rms: float
    dark: float


SUNLIT = Sunlit((0.5, 2.3), 0.04, 0.6)


def light_by_cell(look: Look, gains: Gains, grid: GroundGrid) -> Float32:
    """How one photograph's light differs from the model's, by cell.

    Returns:
        f32[3, cells]: growth of the light in log2; mean squared difference that remains when the
        model's light has grown so, sRGB; the light that the model shows. NaN where the photograph
        hardly looks.
    """
    was = srgb_to_linear_array(blurred(look.shown)).astype(np.float32)
    now = srgb_to_linear_array(blurred(exposed(look.truth, -gains))).astype(np.float32)
    both, own = (
        cv2.blur(np.asarray(product.sum(-1), np.float32), (WINDOW_PX, WINDOW_PX))
        for product in (was * now, was * was)
    )
    growth = np.maximum(both, LEAST_LIGHT) / np.maximum(own, LEAST_LIGHT)
    lit = linear_to_srgb_array(was * growth[..., None])
    remains = np.square(lit - linear_to_srgb_array(now)).mean(-1)
    values = (np.log2(growth), remains, was.mean(-1))
    return np.stack([cell_means(look, grid, value) for value in values])


def sunlit_cells(
    looks: Sequence[Look], gains: Mapping[int, Gains], grid: GroundGrid, limits: Sunlit = SUNLIT
) -> NDArray[np.bool_]:
    """Cells that have only lost a shadow, by the median over photographs; bool[*grid.shape].

    Args:
        looks: at new photographs; gains: their exposures by image.
    """
    found = np.stack([light_by_cell(one, gains[one.image], grid) for one in looks])
    seen = np.isfinite(found).any((0, 1))
    medians = np.full(found.shape[1:], np.nan, np.float32)
    medians[:, seen] = np.nanmedian(found[:, :, seen], axis=0)
    growth, remains, light = medians
    least, most = limits.brighter_log2
    with np.errstate(invalid="ignore"):
        dark = light < limits.dark * np.median(light[seen]) if seen.any() else seen
        only_lit = (growth > least) & (growth < most) & (np.sqrt(remains) < limits.rms)
    return (dark & only_lit).reshape(grid.shape)
