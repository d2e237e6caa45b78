"""Occupancy: seeding from points, emptying by what training sees, opening by new points."""

import numpy as np
import pytest
from engine_scenes import grid_partition, rays_into, tiny_scene

from nerfcore.sampling.occupancy import (
    DECAY,
    THRESHOLD,
    OccupancyGrid,
    admit_points,
    full_grid,
    restrict_to_points,
)
from nerfcore.tracing.contract import Rays
from nerfcore.tracing.placing import place_samples


@pytest.fixture
def grid() -> OccupancyGrid:
    return full_grid(grid_partition(1, 2), 0.1)


def flat_points(height: float, rng: np.random.Generator, reach: float = 1.0) -> np.ndarray:
    ground = rng.uniform(-reach, reach, (400, 2))
    return np.concatenate([np.full((400, 1), height), ground], axis=1).astype(np.float32)


def test_points_leave_a_band_around_their_height(grid: OccupancyGrid) -> None:
    restrict_to_points(grid, flat_points(0.2, np.random.default_rng(0)), 0.05)
    for expert in range(2):
        cells = np.flatnonzero(grid.occupied[grid.span(expert)])
        heights = grid.cell_centres(expert, cells)[:, 0]
        assert len(cells) and abs(np.median(heights) - 0.2) < 0.1
        assert heights.min() > -0.2 and heights.max() < 0.5


def test_too_few_points_leave_it_full(grid: OccupancyGrid) -> None:
    restrict_to_points(grid, flat_points(0.2, np.random.default_rng(0))[:11], 0.05)
    assert grid.share() == 1.0


def test_observing_empty_space_empties_the_seen_cells_only(grid: OccupancyGrid) -> None:
    scene = tiny_scene(1, 2)
    grid = scene.occupancy
    origins, directions = rays_into(50)
    jitter = np.full(50, 0.5, np.float32)
    samples = place_samples(scene.traced(), Rays(origins, directions, jitter))
    visits = int(np.ceil(np.log(THRESHOLD / 0.05) / np.log(DECAY))) + 1
    for _ in range(visits):
        grid.observe(samples, np.zeros(samples.count, np.float32), origins, directions, 0.5)
    assert 0 < (grid.occupied == 0).sum() < len(grid.occupied)
    after = place_samples(scene.traced(), Rays(origins, directions, jitter))
    assert after.count == 0


def test_observing_matter_keeps_the_cells(grid: OccupancyGrid) -> None:
    scene = tiny_scene(1, 2)
    origins, directions = rays_into(50)
    jitter = np.full(50, 0.5, np.float32)
    samples = place_samples(scene.traced(), Rays(origins, directions, jitter))
    for _ in range(20):
        scene.occupancy.observe(
            samples, np.full(samples.count, 1.0, np.float32), origins, directions, 0.5
        )
    assert scene.occupancy.share() == 1.0
    assert scene.occupancy.opacity.max() == pytest.approx(1 - np.exp(-0.5), abs=1e-5)


def test_update_revives_cells_where_the_field_has_matter(grid: OccupancyGrid) -> None:
    grid.restore((grid.allowed, np.zeros_like(grid.occupied), np.zeros_like(grid.opacity)))
    rng = np.random.default_rng(0)
    for _ in range(60):
        grid.update(lambda _, x: np.where(x[:, 1] > 0.5, 9.0, 0.0).astype(np.float32), 1, 500, rng)
    for expert in range(2):
        cells = np.arange(int(np.prod(grid.dims[expert])))
        matter = grid.cell_centres(expert, cells)[:, 1] > 0.5
        occupied = grid.occupied[grid.span(expert)].astype(bool)
        assert occupied[matter].mean() > 0.9 and not occupied[~matter].any()


def test_new_points_open_cells_nearby_only(grid: OccupancyGrid) -> None:
    rng = np.random.default_rng(0)
    restrict_to_points(grid, flat_points(0.3, rng), 0.02)
    before = grid.allowed.copy()
    admit_points(grid, flat_points(-0.3, rng, reach=0.3), 0.03)
    opened = grid.allowed & ~before
    assert opened.any()
    for expert in range(2):
        cells = np.flatnonzero(opened[grid.span(expert)])
        centres = grid.cell_centres(expert, cells)
        assert (np.abs(centres[:, 1:]) < 0.6).all() and (centres[:, 0] < 0.2).all()
