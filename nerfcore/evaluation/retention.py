"""Owns the retention map: how much better or worse old views of each ground cell are after
adaptation, in dB, over the site from above.

A pixel's error belongs to the ground cell under the surface that the model showed there *before*
adaptation, so both scores of a cell are over the same pixels.
"""

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from nerfcore.colour import bytes_to_srgb
from nerfcore.data.images import ImageStore
from nerfcore.evaluation.evaluate import camera_of
from nerfcore.evaluation.pictures import write_png
from nerfcore.geometry.camera import Rendered
from nerfcore.metrics.psnr import psnr_from_mse
from nerfcore.sampling.ground import GroundGrid

RETENTION_FILE = "retention.png"
EVERY_PX = 2
CELL_PX = 4
FULL_SCALE_DB = 3.0
LEAST_PIXELS = 4
LEAST_MSE = 1e-6
_UNSEEN_RGB = (238, 238, 238)


@dataclass
class SiteErrors:
    """Gathers old views' errors by ground cell, before and after.

    Attributes:
        grid: the cells; scale_m: metres per world unit.
    """

    grid: GroundGrid
    scale_m: float
    _cells: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    _sums: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    _counts: NDArray[np.int64] | None = None

    def add(self, tto: int, store: ImageStore, index: int, rendered: Rendered) -> None:
        """Count one image's errors; the first tto that shows an image decides where they go."""
        picked = (slice(None, None, EVERY_PX),) * 2
        count = self.grid.shape[0] * self.grid.shape[1]
        if index not in self._cells:
            self._cells[index] = self._places(store, index, rendered)[picked].ravel()
        cells = self._cells[index]
        error = np.square(rendered.rgb - bytes_to_srgb(store.image(index))).mean(-1)[picked].ravel()
        use = cells >= 0
        sums = np.bincount(cells[use], error[use], minlength=count).astype(np.float64)
        self._sums[tto] = self._sums.get(tto, np.zeros(count)) + sums

    def _places(self, store: ImageStore, index: int, rendered: Rendered) -> NDArray[np.int64]:
        """The ground cell of each pixel, i64[H, W], -1 for none."""
        origins, directions = camera_of(store, index).rays()
        t = np.nan_to_num(rendered.depth_m, nan=np.inf).reshape(-1, 1) / self.scale_m
        with np.errstate(invalid="ignore"):
            points = np.nan_to_num(origins + t * directions, nan=np.inf)
        cells = self.grid.index(points[:, 1:])
        cells[~store.valid_mask(index).reshape(-1)] = -1
        count = self.grid.shape[0] * self.grid.shape[1]
        picked = cells.reshape(rendered.depth_m.shape)[::EVERY_PX, ::EVERY_PX]
        own = np.bincount(picked[picked >= 0], minlength=count)
        self._counts = own if self._counts is None else self._counts + own
        return cells.reshape(rendered.depth_m.shape)

    def gain_db(self) -> NDArray[np.float32] | None:
        """PSNR of each cell after minus before, f32[*shape], NaN unseen; None for one tto only."""
        if len(self._sums) < 2 or self._counts is None:
            return None
        first, last = (self._sums[tto] for tto in (min(self._sums), max(self._sums)))
        seen = self._counts >= LEAST_PIXELS
        means = [np.maximum(s / np.maximum(self._counts, 1), LEAST_MSE) for s in (first, last)]
        gain = np.where(seen, 10.0 * np.log10(means[0] / means[1]), np.nan)
        return gain.reshape(self.grid.shape).astype(np.float32)

    def beside(self, cells: NDArray[np.bool_]) -> dict[str, float] | None:
        """Old views' PSNR before and after, over chosen cells and over all others, in dB.

        Args:
            cells: bool[*grid.shape], where the model was meant to change.

        Returns:
            share_inside (of the pixels), and inside_before_db, inside_after_db, outside_before_db,
            outside_after_db, each only where there are such pixels; None for one tto only.
        """
        if len(self._sums) < 2 or self._counts is None:
            return None
        inside, counts = cells.reshape(-1), self._counts
        found = {"share_inside": float(counts[inside].sum() / max(1, counts.sum()))}
        for place, chosen in (("inside", inside), ("outside", ~inside)):
            for moment, tto in (("before", min(self._sums)), ("after", max(self._sums))):
                if counts[chosen].sum():
                    mse = float(self._sums[tto][chosen].sum() / counts[chosen].sum())
                    found[f"{place}_{moment}_db"] = round(psnr_from_mse(mse), 3)
        return found

    def write(self, folder: Path) -> Path | None:
        """Write `retention.png`, north up; None where there is nothing to compare."""
        gain = self.gain_db()
        if gain is None:
            return None
        share = np.clip(0.5 + 0.5 * np.nan_to_num(gain) / FULL_SCALE_DB, 0, 1)
        picture = _diverging(share)
        picture[np.isnan(gain)] = _UNSEEN_RGB
        large = picture.transpose(1, 0, 2).repeat(CELL_PX, 0).repeat(CELL_PX, 1)
        write_png(folder / RETENTION_FILE, np.ascontiguousarray(large))
        return folder / RETENTION_FILE


def _diverging(share: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Red for 0, white for 0.5, blue for 1: u8[..., 3]."""
    stops = np.array([[178, 24, 43], [244, 165, 130], [255, 255, 255], [146, 197, 222],
                      [33, 102, 172]], np.float64)  # fmt: skip
    table = np.stack([np.interp(np.linspace(0, 4, 256), range(5), stops[:, c]) for c in range(3)])
    levels = np.rint(share * 255).astype(np.uint8)
    return np.rint(cv2.transpose(table))[levels].astype(np.uint8)
