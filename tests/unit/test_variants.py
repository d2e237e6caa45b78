"""Local variants: what was not chosen renders bit for bit as before, on every tracer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_scenes import rays_into, tiny_scene

from nerfcore.checkpoint import load_checkpoint, save_checkpoint
from nerfcore.errors import CheckpointError, SettingsError
from nerfcore.sampling.ground import GroundGrid
from nerfcore.scene import SceneModel
from nerfcore.settings import BackendName
from nerfcore.variants import with_variants

GRID = GroundGrid((-1.0, -1.0), 0.25, (8, 8))


def chosen_cells() -> np.ndarray:
    """The cells of one corner of the tiny scene."""
    cells = np.zeros(GRID.shape, np.bool_)
    cells[:3, :3] = True
    return cells


def go_local(scene: SceneModel, cells: np.ndarray) -> list[int]:
    """Give the scene copies above these cells; return their indices."""
    count = len(scene.partition.centroids)
    scene.variants, scene.experts, fresh = with_variants(
        scene.variants, scene.experts, count, GRID, cells, np.ones(count, np.bool_)
    )
    return fresh


def spoil(scene: SceneModel, experts: list[int]) -> None:
    """Change every parameter of some experts."""
    generator = torch.Generator().manual_seed(1)
    for k in experts:
        for value in scene.experts[k].values():
            value.add_(torch.randn(value.shape, generator=generator))


def passes(origins: np.ndarray, directions: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Rays that pass above chosen cells inside the box, bool[R], by many small steps."""
    found = np.zeros(len(origins), np.bool_)
    for height in np.linspace(-0.5, 0.5, 2001):
        t = (height - origins[:, 0]) / directions[:, 0]
        index = GRID.index(origins[:, 1:] + t[:, None] * directions[:, 1:])
        found |= (index >= 0) & cells.reshape(-1)[np.maximum(index, 0)]
    return found


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_untouched_cells_render_bit_for_bit_as_before(backend: BackendName) -> None:
    scene = tiny_scene(2, 2, backend=backend)
    origins, directions = rays_into(4000)
    before = scene.render_rays(origins, directions)
    cells = chosen_cells()
    fresh = go_local(scene, cells)
    copied = scene.render_rays(origins, directions)
    for one, other in zip(before, copied, strict=True):
        np.testing.assert_array_equal(one, other)
    spoil(scene, fresh)
    after = scene.render_rays(origins, directions)
    inside = passes(origins, directions, cells)
    assert 0.05 < inside.mean() < 0.9
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one[~inside], other[~inside])
    assert (before[0][inside] != after[0][inside]).any(1).mean() > 0.9


def test_both_tracers_agree_on_who_answers() -> None:
    pictures = []
    for backend in ("numba", "torch"):
        scene = tiny_scene(2, 2, backend=backend)  # type: ignore[arg-type]
        spoil(scene, go_local(scene, chosen_cells()))
        pictures.append(scene.render_rays(*rays_into(500))[0])
    assert np.abs(pictures[0] - pictures[1]).max() < 2e-3


def test_a_second_change_starts_from_the_first_where_they_overlap() -> None:
    scene = tiny_scene(1, 1)
    first = go_local(scene, chosen_cells())
    spoil(scene, first)
    origins, directions = rays_into(2000)
    before = scene.render_rays(origins, directions)[0]
    overlapping = np.zeros(GRID.shape, np.bool_)
    overlapping[1:6, 1:6] = True
    second = go_local(scene, overlapping)
    np.testing.assert_array_equal(scene.render_rays(origins, directions)[0], before)
    assert len(second) == 2  # one copy of the original, one of the first change
    spoil(scene, second)
    after = scene.render_rays(origins, directions)[0]
    outside = ~passes(origins, directions, overlapping)
    np.testing.assert_array_equal(after[outside], before[outside])


def test_densities_come_from_who_answers() -> None:
    scene = tiny_scene(1, 1)
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (400, 3)).astype(np.float32)
    points[:, 1:] *= 1.9
    before = scene.densities(0, points)
    cells = chosen_cells()
    spoil(scene, go_local(scene, cells))
    after = scene.densities(0, points)
    index = GRID.index(points[:, 1:])
    inside = cells.reshape(-1)[index]
    np.testing.assert_array_equal(before[~inside], after[~inside])
    assert (before[inside] != after[inside]).all()


def test_cells_by_hand() -> None:
    grid = GroundGrid.over(np.array([-1.0, 0.0]), np.array([1.0, 0.9]), 0.5)
    assert grid.shape == (4, 2)
    places = np.array([[-0.9, 0.1], [0.99, 0.99], [1.01, 0.2], [np.inf, 0.0], [-1.0, 0.5]])
    assert grid.index(places).tolist() == [0, 7, -1, -1, 1]
    assert grid.centres()[3, 1] == pytest.approx([0.75, 0.75])


def test_checkpoints_hold_variants(tmp_path: Path) -> None:
    scene = tiny_scene(2, 2)
    spoil(scene, go_local(scene, chosen_cells()))
    save_checkpoint(scene, tmp_path / "step1", 1)
    loaded = load_checkpoint(tmp_path / "step1", "cpu", "numba", budget_bytes=1 << 30)
    rays = rays_into(300)
    np.testing.assert_array_equal(loaded.render_rays(*rays)[0], scene.render_rays(*rays)[0])
    assert loaded.variants is not None and loaded.variants.grid == GRID


def test_damaged_variants_are_refused(tmp_path: Path) -> None:
    from nerfcore.checkpoint.variant_files import read_variants, write_variants

    scene = tiny_scene(1, 1)
    go_local(scene, chosen_cells())
    assert scene.variants is not None
    values = write_variants(tmp_path, scene.variants)
    assert read_variants(tmp_path, values, 1) is not None
    for wrong in ({"table": [[0], [9]]}, {"shape": [8, 9]}, {"bases": [0, 5]}, {"cell": "x"}):
        with pytest.raises(CheckpointError, match="local variants"):
            read_variants(tmp_path, {**values, **wrong}, 1)


def test_another_grid_is_refused() -> None:
    scene = tiny_scene(1, 1)
    go_local(scene, chosen_cells())
    other = replace(GRID, cell=0.5)
    with pytest.raises(SettingsError, match="another grid"):
        with_variants(scene.variants, scene.experts, 1, other, chosen_cells(), np.ones(1, np.bool_))
