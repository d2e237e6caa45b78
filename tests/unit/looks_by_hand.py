"""Looks made by hand: level ground seen straight down, and a picture with some texture."""

import cv2
import numpy as np

from nerfcore.adaptation.looks import Look
from nerfcore.sampling.ground import GroundGrid

GRID = GroundGrid((-1.0, -1.0), 0.25, (8, 8))


def flat_look(truth: np.ndarray, shown: np.ndarray, image: int = 0) -> Look:
    """A look straight down at level ground that fills GRID."""
    height, width = truth.shape[:2]
    east = -1 + 2 * (np.arange(width) + 0.5) / width
    south = -1 + 2 * (np.arange(height) + 0.5) / height
    points = np.zeros((height, width, 3), np.float32)
    points[..., 1], points[..., 2] = np.meshgrid(east, south)
    directions = np.zeros_like(points)
    directions[..., 0] = 1.0
    depth = np.ones((height, width), np.float32)
    ones = np.ones((height, width), np.bool_)
    origin = np.array([-2.0, 0.0, 0.0], np.float32)
    return Look(
        image, shown.astype(np.float32), truth.astype(np.float32), ones, depth, points, origin,
        directions,
    )  # fmt: skip


def textured(seed: int = 0) -> np.ndarray:
    """A picture f32[64, 64, 3] with some texture, neither black nor burnt out."""
    rng = np.random.default_rng(seed)
    small = rng.uniform(0.35, 0.6, (8, 8, 3)).astype(np.float32)
    return np.asarray(cv2.resize(small, (64, 64), interpolation=cv2.INTER_CUBIC), np.float32)
