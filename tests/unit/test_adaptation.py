"""Exposure, disagreement, replay and local adaptation on a scene small enough to know."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from looks_by_hand import GRID, flat_look, textured
from painted_scene import FAST, SIZE_PX, Stores, painted_stores

from nerfcore.adaptation import Adapter, AdaptSettings
from nerfcore.adaptation.disagreement import CHANGED, cell_errors, disagreement, solid
from nerfcore.adaptation.exposure import exposed, fit_exposure, fit_exposures, no_exposure
from nerfcore.adaptation.looks import Look, look
from nerfcore.adaptation.rays import BlockSampler, crossing, ending_in
from nerfcore.evaluation.evaluate import camera_of
from nerfcore.sampling.ground import GroundGrid


def test_exposure_is_found_although_a_third_of_the_site_changed() -> None:
    shown = textured()
    gains = np.array([-0.8, -0.5, 0.3], np.float32)
    truth = exposed(shown, gains)
    truth[:, :21] = textured(5)[:, :21] * 0.5
    found = fit_exposure(flat_look(truth, shown))
    assert found is not None
    assert found == pytest.approx(gains, abs=0.04)


def test_exposures_undo_each_other() -> None:
    picture, gains = textured(), np.array([0.4, -0.2, 0.1], np.float32)
    assert exposed(exposed(picture, gains), -gains) == pytest.approx(picture, abs=1e-5)
    assert exposed(picture, no_exposure()) == pytest.approx(picture, abs=1e-6)


def test_an_image_that_cannot_be_compared_takes_its_flights_median() -> None:
    shown = textured()
    looks = [flat_look(exposed(shown, np.full(3, g, np.float32)), shown, i)
             for i, g in enumerate((-0.5, -0.4, -0.3))]  # fmt: skip
    looks.append(flat_look(np.zeros_like(shown), shown, 3))
    found = fit_exposures(looks)
    assert found[3] == pytest.approx(found[1], abs=1e-6)


def test_a_cells_error_by_hand() -> None:
    """A step of 0.2 in one half is 0.04 there, away from the blurred edge."""
    shown = np.full((64, 64, 3), 0.5, np.float32)
    truth = shown.copy()
    truth[:, 32:] = 0.7
    errors = cell_errors(flat_look(truth, shown), no_exposure(), GRID).reshape(8, 8)
    assert errors[:3] == pytest.approx(0.0, abs=1e-5)  # the first axis is East: columns
    assert errors[5:] == pytest.approx(0.04, rel=1e-2)


def test_what_one_photograph_alone_shows_is_no_change() -> None:
    """A moving car in one of three photographs leaves the median alone."""
    shown = textured()
    car = shown.copy()
    car[8:24, 8:24] = 0.95
    new = [flat_look(picture, shown, i) for i, picture in enumerate((shown, shown, car))]
    noisy = np.clip(shown + np.random.default_rng(0).normal(0, 0.03, shown.shape), 0, 1)
    old = [flat_look(noisy, shown, i) for i in range(3)]
    zeros = dict.fromkeys(range(3), no_exposure())
    assert not disagreement(GRID, new, zeros, old, zeros).cells(CHANGED).any()
    both = [flat_look(picture, shown, i) for i, picture in enumerate((car, car, shown))]
    changed = disagreement(GRID, both, zeros, old, zeros).cells(CHANGED)
    assert changed[1:3, 1:3].all() and not changed[4:].any()


def test_specks_are_no_areas() -> None:
    cells = np.zeros((9, 9), np.bool_)
    cells[1, 1] = True
    cells[4:8, 4:8] = True
    cells[5, 5] = False
    found = solid(cells)
    assert not found[:3, :3].any() and found[5, 5] and found[5:7, 5:7].all()


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    """A trained tiny scene, photographs of it, and later ones with one corner painted over."""
    with painted_stores(tmp_path) as opened:
        yield opened


def above(seen: Look, grid: GroundGrid, cells: np.ndarray) -> np.ndarray:
    """Pixels whose rays pass above chosen cells, bool[h, w], in many small steps."""
    found = np.zeros(seen.valid.shape, np.bool_)
    for height in np.linspace(-0.5, 0.5, 3001):
        t = (height - seen.origin[0]) / seen.directions[..., :1]
        index = grid.index(seen.origin[1:] + t * seen.directions[..., 1:])
        found |= (index >= 0) & cells.reshape(-1)[np.maximum(index, 0)]
    return found


def test_a_local_adaptation_changes_what_disagrees_and_nothing_else(
    stores: Stores,
) -> None:
    scene, old, new = stores
    cameras = [camera_of(new, i) for i in range(len(new))]
    before = [scene.render(camera) for camera in cameras]
    occupied = scene.occupancy.state()
    settings = AdaptSettings(rays=512, replay=0.25, rates=FAST, exposure=True, local=True)
    adapter = Adapter(scene, new, settings, old=old)
    losses = [adapter.step().loss for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    survey = adapter.survey
    assert survey is not None and survey.found is not None
    grid, cells = survey.found.grid, survey.disagreeing()
    assert 0 < cells.mean() < 0.7
    for i, camera in enumerate(cameras):
        rendered, was = scene.render(camera), before[i]
        assert rendered is not None and was is not None
        meets = above(survey.new[i], grid, cells)
        np.testing.assert_array_equal(rendered.rgb[~meets], was.rgb[~meets])
        assert (rendered.rgb[meets] != was.rgb[meets]).any()
    for one, other in zip(scene.occupancy.state(), occupied, strict=True):
        np.testing.assert_array_equal(one, other)
    adapter.reset()
    assert scene.variants is None and len(scene.experts) == 4
    for camera, was in zip(cameras, before, strict=True):
        rendered = scene.render(camera)
        assert rendered is not None and was is not None
        np.testing.assert_array_equal(rendered.rgb, was.rgb)


def test_a_local_adaptation_to_what_is_known_says_that_it_changes_nothing(
    stores: Stores,
) -> None:
    """The old photographs again: no cell disagrees, and no byte of the experts changes."""
    scene, old, new = stores
    before = [value.clone() for own in scene.experts for value in own.values()]
    adapter = Adapter(scene, old, AdaptSettings(rays=256, rates=FAST, local=True), old=old)
    for _ in range(3):
        adapter.step()
    assert adapter.changes_nothing
    after = [value for own in scene.experts for value in own.values()]
    for value, was in zip(after, before, strict=True):
        assert torch.equal(value, was)
    adapter.reset()
    other = Adapter(scene, new, AdaptSettings(rays=256, rates=FAST, local=True), old=old)
    other.step()
    assert not other.changes_nothing


def test_replay_never_holds_on_to_what_changed(
    stores: Stores,
) -> None:
    scene, old, new = stores
    settings = AdaptSettings(rays=256, replay=0.5, rates=FAST, exposure=True)
    adapter = Adapter(scene, new, settings, old=old)
    adapter.step()
    survey, draw = adapter.survey, adapter._draw_old
    assert survey is not None and survey.found is not None and draw is not None
    changed = survey.outdated()
    assert changed.any()
    batch = draw(4000)
    assert len(batch) == 4000
    _, _, depth_m = scene.render_rays(batch.origins, batch.directions)
    t = depth_m / np.float32(scene.scale_m)
    places = (batch.origins + t[:, None] * batch.directions)[np.isfinite(t), 1:]
    index = survey.found.grid.index(places)
    assert changed.reshape(-1)[np.maximum(index, 0)][index >= 0].mean() < 0.02


@pytest.mark.parametrize(("part", "stays"), [("features", "sigma.0"), ("mlps", "table")])
def test_only_the_chosen_part_changes(stores: Stores, part: str, stays: str) -> None:
    scene, _, new = stores
    before = {n: v.clone() for n, v in scene.experts[0].items()}
    adapter = Adapter(scene, new, AdaptSettings(rays=256, rates=FAST, part=part))  # type: ignore[arg-type]
    for _ in range(3):
        adapter.step()
    for name, value in scene.experts[0].items():
        is_kept = name.split(".")[0] == stays.split(".")[0] or (
            part == "features" and name != "table"
        )
        assert torch.equal(value, before[name]) == is_kept, name


def test_blocks_cover_their_pixels_and_no_others(
    stores: Stores,
) -> None:
    _, old, _ = stores
    scene = stores[0]
    seen = look(scene, old, 2)
    mask = np.zeros(seen.valid.shape, np.bool_)
    mask[4:6, 7] = True
    sampler = BlockSampler(old, [seen], [mask], np.random.default_rng(0))
    flat = sampler._flat(500) - old.offsets[2]
    rows, columns = flat // SIZE_PX, flat % SIZE_PX
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {(4, 7), (5, 7)}


def test_endings_are_among_the_crossings(
    stores: Stores,
) -> None:
    scene, old, _ = stores
    cells = np.zeros(GRID.shape, np.bool_)
    cells[2:4, 5:7] = True
    seen = look(scene, old, 0)
    ends, meets = ending_in(seen, GRID, cells), crossing(seen, GRID, cells, scene.partition.aabb)
    assert ends.any() and (ends & ~meets).mean() < 0.01
