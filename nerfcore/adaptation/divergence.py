"""Owns when an adaptation counts as diverged: the one rule, for jobs and for the viewer.

The same rays, its witnesses, are rendered before the first step and whenever it is asked. Their
loss alone tells too little: where a house has become rubble, a model of one flat colour comes
nearer to the new photographs than the old model did. So the rays that the adaptation has changed
are also held against the best constant colour. New rays are what it learns; old ones, of ground
that still is as it was, are what it must keep where replay or a local update promises that. Colours
are sRGB in [0, 1].
"""

import math

import numpy as np
from numpy.typing import NDArray

from nerfcore.training.learner import psnr_of

WITNESS_RAYS = 1024
NEW_LOSE_DB, OLD_LOSE_DB = 3.0, 6.0
"""Most that all witnesses of one kind may lose: what is learnt gets better, what is kept wavers."""
WELL_KNOWN_DB = 30.0
"""What rays were known better than this counts for nothing."""
CHANGED_BY = 0.02
LEAST_CHANGED = 64
FLAT_SHARE = 0.9
"""Of a constant colour's squared error: with no less, a fit explains no more than that colour."""
FLAT_DB = 23.0
"""Rays known better than this are not shown flat, however like each other their colours are."""
LEAST_EXPLAINED = 0.1
MOST_UNEXPLAINED = 0.5
"""Of the variance share that was explained: with less left the fit is gone, not on its way."""

Colours = NDArray[np.floating]


class Witness:
    """Rays of one kind and how well they were known at best."""

    def __init__(
        self, name: str, truth: Colours, before: Colours, most_lost_db: float = OLD_LOSE_DB
    ) -> None:
        """Begin.

        Args:
            name: of the rays, for the reason.
            truth, before: f[R, 3], their true colours, and as rendered before the first step.
            most_lost_db: PSNR that they may lose from their best.
        """
        self.name = name
        self._most_lost_db = most_lost_db
        self._truth = truth.astype(np.float64)
        self._before = before.astype(np.float64)
        self._best_db = self._psnr(self._before)
        self._best_explained = 0.0

    def divergence(self, now: Colours) -> str | None:
        """Return how the rays show that the adaptation diverged, one line; None while it is well.

        They do where they have lost more than they may since they were known best, or where
        those that changed are shown no better than by one colour, and worse explained than before.

        Args:
            now: f[R, 3], as rendered now.
        """
        now_db = self._psnr(now)
        if not now_db >= self._best_db - self._most_lost_db:
            return (
                f"the PSNR of {self.name} went from {self._best_db:.2f} to {now_db:.2f} dB, "
                f"{self._most_lost_db:g} dB less at most is accepted"
            )
        self._best_db = max(self._best_db, now_db)
        return self._flatness(now.astype(np.float64))

    def _psnr(self, shown: Colours) -> float:
        """PSNR in dB, at most `WELL_KNOWN_DB`; NaN where a colour is not finite."""
        return min(psnr_of(float(np.square(shown - self._truth).mean())), WELL_KNOWN_DB)

    def _flatness(self, now: NDArray[np.float64]) -> str | None:
        is_changed = np.abs(now - self._before).max(axis=1) > CHANGED_BY
        if int(is_changed.sum()) < LEAST_CHANGED:
            return None
        now, before, truth = now[is_changed], self._before[is_changed], self._truth[is_changed]
        explained = _explained(now, truth)
        usual = max(_explained(before, truth), self._best_explained)
        self._best_explained = max(self._best_explained, explained)
        mse = float(np.square(now - truth).mean())
        flat_mse = float(np.square(truth - truth.mean(axis=0)).mean())
        is_gone = usual >= LEAST_EXPLAINED and explained < MOST_UNEXPLAINED * usual
        if mse < FLAT_SHARE * flat_mse or psnr_of(mse) > FLAT_DB or not is_gone:
            return None
        return (
            f"{self.name} that changed are shown no better than by one flat colour, PSNR "
            f"{psnr_of(mse):.2f} dB against {psnr_of(flat_mse):.2f} dB"
        )


def _explained(shown: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Share of the true colours' variance that shown ones explain but for gain and offset, 0 to 1.

    The squared correlation; 0 where either is one colour, or where they go against each other.
    """
    shown, truth = shown - shown.mean(axis=0), truth - truth.mean(axis=0)
    spread = math.sqrt(float(np.square(shown).sum()) * float(np.square(truth).sum()))
    if spread < 1e-12:
        return 0.0
    return max(0.0, float((shown * truth).sum()) / spread) ** 2
