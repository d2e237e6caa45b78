"""Owns protocol "half": the left halves of images are adapted to, the right ones scored.

Source: Turki et al. 2022, "Mega-NeRF": test images' left halves fit their appearance.
"""

from typing import Literal

import numpy as np

from nerfcore.data.images import ImageStore

Side = Literal["left", "right"]


def keep_half(store: ImageStore, side: Side) -> None:
    """Make only one half of each image of a store valid; an odd middle column goes right."""
    valid = store.valid
    if valid is None:
        valid = np.ones(len(store.pixels), np.bool_)
        store.valid = valid
    for index in range(len(store)):
        height, width = int(store.heights[index]), int(store.widths[index])
        start = int(store.offsets[index])
        mask = store.valid_mask(index).copy()
        half = slice(width // 2, None) if side == "left" else slice(None, width // 2)
        mask[:, half] = False
        valid[start : start + height * width] = mask.reshape(-1)
