"""Owns choosing which photographs of a flight are held out."""

import numpy as np
from numpy.typing import NDArray


def evenly_spaced(count: int, share: float) -> NDArray[np.bool_]:
    """Choose round(count * share) of `count` items, evenly spaced, never all of them.

    Returns:
        bool[count].
    """
    chosen = np.zeros(count, np.bool_)
    wanted = min(int(count * share + 0.5), count - 1)
    if wanted > 0:
        # Middles of equal intervals: the first and last photographs, which see the site's rim,
        # stay in training.
        chosen[((np.arange(wanted) + 0.5) * count / wanted).astype(np.int64)] = True
    return chosen
