"""Cells are closed exactly where no ray of any picture can pass."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from engine_scenes import tiny_scene

from nerfcore.data.images import ImageStore
from nerfcore.data.records import ImageSet
from nerfcore.sampling.visibility import restrict_to_seen

LOOK_DOWN = np.array([[0, 0, -1, -2], [1, 0, 0, 0], [0, -1, 0, 0]], np.float32)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    """One 32x24 photograph straight down from 2 units above, narrower than the scene."""
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.zeros((24, 32, 3), np.uint8))
    images = ImageSet(
        ("a.png",), (path,), (None,), LOOK_DOWN[None], np.array([[64.0, 64, 16, 12]], np.float32),
        np.array([32], np.int32), np.array([24], np.int32),
    )  # fmt: skip
    return ImageStore(images)


def test_cells_on_any_ray_stay_and_far_ones_close(store: ImageStore) -> None:
    scene = tiny_scene(1, 1)
    grid = scene.occupancy
    closed = restrict_to_seen(grid, store)
    assert 0.5 < closed < 0.98
    allowed = grid.allowed.reshape(tuple(grid.dims[0]))
    columns, rows = np.meshgrid(np.arange(33), np.arange(25))
    right, up = (columns.ravel() - 16) / 64.0, -(rows.ravel() - 12) / 64.0
    for t in np.linspace(1.5, 2.49, 40):
        points = np.stack([np.full_like(right, t - 2), right * t, -up * t], 1)
        unit = (points - grid.box_mins[0]) / (grid.box_maxs[0] - grid.box_mins[0])
        index = (unit * grid.dims[0]).astype(int)
        assert allowed[tuple(index.T)].all()
    assert not allowed[:, 0, 0].any() and not allowed[:, -1, -1].any()


def test_a_camera_inside_keeps_its_own_cell(store: ImageStore) -> None:
    store.c2w[0, :, 3] = 0.01
    grid = tiny_scene(1, 1).occupancy
    restrict_to_seen(grid, store)
    centre = tuple(int(n) // 2 for n in grid.dims[0])
    assert grid.allowed.reshape(tuple(grid.dims[0]))[centre]


def test_cells_before_one_camera_close_where_two_are_asked_for(store: ImageStore) -> None:
    grid = tiny_scene(1, 1).occupancy
    assert restrict_to_seen(grid, store, least=2) == 1.0
