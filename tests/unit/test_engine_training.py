"""Adam, the learner, adaptation, episodes and pixel rays against slow or hand-made references."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from engine_scenes import grid_partition, rays_into, tiny_scene

from nerfcore.adaptation import Adapter, AdaptSettings
from nerfcore.data.images import ImageStore
from nerfcore.data.records import ImageSet
from nerfcore.encoding import numba_grid
from nerfcore.encoding.layout import grid_layout
from nerfcore.encoding.splats import Splats
from nerfcore.errors import NonFiniteError, SettingsError
from nerfcore.geometry.camera import Camera
from nerfcore.settings import HashGridSettings
from nerfcore.training import episodes
from nerfcore.training.adam import Adam, Update, _adam_torch, update_all
from nerfcore.training.episodes import EpisodeSampler, ground_cells
from nerfcore.training.learner import FastWeights, Learner, Rates
from nerfcore.training.pixels import PixelSampler, RayBatch, rays_of
from nerfcore.training.schedule import decay, training_sampling
from nerfcore.training.table_adam import TableDescent

LOOK_DOWN = np.array([[0, 0, -1, -2], [1, 0, 0, 0], [0, -1, 0, 0]], np.float32)


def test_adam_matches_torch_where_there_is_gradient() -> None:
    """Against torch.optim.Adam over five steps; entries without gradient stay put."""
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(40, 2, generator=generator)
    oracle = value.clone().double().requires_grad_()
    optimiser = torch.optim.Adam([oracle], lr=1e-2, betas=(0.9, 0.99), eps=1e-15)
    parameters = {"table": value.clone()}
    adam = Adam()
    for _ in range(5):
        grad = torch.randn(40, 2, generator=generator)
        grad[::4] = 0.0
        oracle.grad = grad.double()
        optimiser.step()
        buffer = {"table": grad.clone()}
        adam.update(parameters, buffer, {"table": 1e-2})
        assert not buffer["table"].any()
    seen = torch.ones(40, dtype=torch.bool)
    seen[::4] = False
    assert torch.allclose(parameters["table"][seen].double(), oracle.detach()[seen], atol=1e-6)
    assert torch.equal(parameters["table"][~seen], value[~seen])


def test_rows_that_were_seen_before_do_not_drift() -> None:
    parameters = {"table": torch.ones(2, 2)}
    adam = Adam()
    adam.update(parameters, {"table": torch.ones(2, 2)}, {"table": 0.1})
    after_one = parameters["table"].clone()
    adam.update(parameters, {"table": torch.tensor([[1.0, 1.0], [0.0, 0.0]])}, {"table": 0.1})
    assert torch.equal(parameters["table"][1], after_one[1])
    assert (parameters["table"][0] < after_one[0]).all()


def test_gpu_form_of_adam_takes_the_same_step() -> None:
    generator = torch.Generator().manual_seed(0)
    value, grad = torch.randn(2, 30, generator=generator)
    grad[::3] = 0.0
    parameters, buffers = {"sigma.0": value[:, None].clone()}, {"sigma.0": grad[:, None].clone()}
    adam = Adam()
    adam.update(parameters, buffers, {"sigma": 0.01})
    first, second, other = torch.zeros(30), torch.zeros(30), value.clone()
    _adam_torch(other, grad.clone(), first, second, 0.01 / 0.1, 1 / 0.01)
    assert torch.allclose(other, parameters["sigma.0"][:, 0], atol=1e-6)


def test_rates_decay_to_the_factor() -> None:
    assert decay(0.0, 10) == pytest.approx(1.0)
    assert decay(0.5, 10) == pytest.approx(1 / math.sqrt(10))
    assert decay(1.0, 10) == decay(1.7, 10) == pytest.approx(0.1)


def grey_batch(count: int = 256, value: float = 0.25) -> RayBatch:
    origins, directions = rays_into(count)
    truth = np.full((count, 3), value, np.float32)
    return RayBatch(origins, directions, truth, np.zeros(count, np.int64))


def test_learning_lowers_the_loss() -> None:
    scene = tiny_scene(2, 2, table_scale=100.0)
    learner = Learner(scene, np.random.default_rng(0))
    batch = grey_batch()
    first, _ = learner.step(batch, Rates())
    for _ in range(100):
        last, _ = learner.step(batch, Rates())
    assert last < 0.2 * first


def test_non_finite_loss_changes_nothing_and_fails_after_ten() -> None:
    scene = tiny_scene()
    learner = Learner(scene, np.random.default_rng(0))
    before = {n: v.clone() for n, v in scene.experts[0].items()}
    bad = grey_batch(value=float("nan"))
    for _ in range(9):
        mse, _ = learner.step(bad, Rates())
        assert math.isnan(mse)
    assert all(torch.equal(v, before[n]) for n, v in scene.experts[0].items())
    with pytest.raises(NonFiniteError, match="10 steps in a row"):
        learner.step(bad, Rates())


def test_fast_weights_leave_the_scene_alone() -> None:
    scene = tiny_scene(1, 2, margin=1.5)
    learner = Learner(scene, np.random.default_rng(0))
    fast = {n: v.clone() for n, v in scene.experts[1].items()}
    store = learner.new_store()
    learner.gradient(grey_batch(), FastWeights(1, fast, store))
    assert all(bool(g.any()) for g in store.of(1).values()) and store.table(1) is not None
    assert store.touched == {1} and not any(bool(g.any()) for g in store.background.values())
    assert not learner.store.touched and learner.store.table(1) is None


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    """Four 32x24 photographs looking straight down from different places."""
    rng = np.random.default_rng(0)
    paths, poses = [], []
    for i in range(4):
        path = tmp_path / f"{i}.png"
        cv2.imwrite(str(path), rng.integers(0, 255, (24, 32, 3)).astype(np.uint8))
        pose = LOOK_DOWN.copy()
        pose[1:, 3] = rng.uniform(-0.4, 0.4, 2)
        paths.append(path)
        poses.append(pose)
    return ImageSet(
        tuple(p.name for p in paths), tuple(paths), (None,) * 4, np.stack(poses),
        np.tile(np.array([20.0, 20, 16, 12], np.float32), (4, 1)),
        np.full(4, 32, np.int32), np.full(4, 24, np.int32),
    )  # fmt: skip


def test_pixel_rays_match_the_camera(images: ImageSet) -> None:
    with ImageStore(images) as store:
        batch = rays_of(store, np.arange(len(store.pixels)))
        for i in range(4):
            camera = Camera(images.c2w[i], 20.0, 20.0, 16.0, 12.0, 32, 24)
            origins, directions = camera.rays()
            span = slice(i * 768, (i + 1) * 768)
            assert np.allclose(batch.origins[span], origins, atol=1e-6)
            assert np.allclose(batch.directions[span], directions, atol=1e-6)
            assert np.allclose(batch.rgbs[span] * 255, store.image(i).reshape(-1, 3))


def test_camera_ray_by_hand() -> None:
    """Pixel (row 0, column 0) of a camera that looks down: left of centre is west, top is north."""
    camera = Camera(LOOK_DOWN, 10.0, 10.0, 2.0, 2.0, 4, 4)
    _, directions = camera.rays()
    expected = np.array([1.0, -0.15, -0.15]) / math.sqrt(1 + 2 * 0.15**2)
    assert directions[0] == pytest.approx(expected, abs=1e-6)


def test_sampler_never_draws_invalid_pixels(images: ImageSet) -> None:
    with ImageStore(images) as store:
        store.valid = np.zeros(len(store.pixels), np.bool_)
        store.valid[100:200] = True
        flat = PixelSampler(store, np.random.default_rng(0)).draw_flat(500)
        assert flat.min() >= 100 and flat.max() < 200


def test_episodes_split_images_and_stay_in_their_cell(
    images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episodes, "BLOCK_PX", 4)
    partition = grid_partition(2, 2)
    with ImageStore(images) as store:
        cells = ground_cells(store, partition, 0.0, 2)
        sampler = EpisodeSampler(store, cells, np.random.default_rng(0))
        for expert in sampler.experts:
            episode = sampler.draw(expert, 64, 32)
            support, query = episode.support, episode.query
            assert not set(support.image_ids) & set(query.image_ids)
            t = -support.origins[:, 0] / support.directions[:, 0]
            hits = support.origins[:, 1:] + t[:, None] * support.directions[:, 1:]
            distances = np.linalg.norm(hits[:, None] - partition.centroids[None, :, 1:], axis=2)
            assert (distances.argmin(1) == expert).mean() > 0.7  # blocks straddle borders


def test_episodes_need_two_images_on_a_cell(images: ImageSet) -> None:
    with ImageStore(images.subset([0])) as store:
        cells = ground_cells(store, grid_partition(1, 1), 0.0, 1)
        with pytest.raises(SettingsError, match="cell_dim"):
            EpisodeSampler(store, cells, np.random.default_rng(0))


def test_adaptation_improves_and_resets_exactly(images: ImageSet) -> None:
    scene = tiny_scene(2, 2)
    before = [{n: v.clone() for n, v in p.items()} for p in scene.experts]
    with ImageStore(images) as store:
        adapter = Adapter(scene, store, AdaptSettings(rays=512, replay=0.5), old=store)
        first = adapter.step()
        for _ in range(20):
            last = adapter.step()
        assert last.step == 21 and last.loss < first.loss
        adapter.reset()
    for parameters, expected in zip(scene.experts, before, strict=True):
        assert all(torch.equal(v, expected[n]) for n, v in parameters.items())


def test_replay_needs_old_images(images: ImageSet) -> None:
    with ImageStore(images) as store, pytest.raises(SettingsError, match="old images"):
        Adapter(tiny_scene(), store, AdaptSettings(replay=0.5))


def test_sampling_gets_finer_over_the_run() -> None:
    final = tiny_scene().sampling
    steps = [training_sampling(final, p).step_m for p in (0.0, 0.2, 0.4, 0.8, 1.0)]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] > 2 * final.step_m and steps[-1] == final.step_m


def test_query_rays_of_a_meta_step_also_teach_the_background() -> None:
    scene = tiny_scene(1, 2, margin=1.5)
    learner = Learner(scene, np.random.default_rng(0))
    fast = {n: v.clone() for n, v in scene.experts[1].items()}
    weights = FastWeights(1, fast, learner.store, scene.background)
    learner.gradient(grey_batch(), weights)
    assert all(bool(g.any()) for g in learner.store.background.values())


def table_step(points: int, steps: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Tables after some Adam steps: by splats, and by a scattered buffer with the plain Adam."""
    layout = grid_layout(HashGridSettings(levels=6, log2_size=12, max_resolution=256))
    generator = np.random.default_rng(0)
    start = torch.from_numpy(generator.normal(size=(layout.rows, 2)).astype(np.float32))
    fused, plain = {"table": start.clone()}, {"table": start.clone()}
    adams, descent = (Adam(), Adam()), TableDescent(layout)
    for _ in range(steps):
        positions = generator.random((3, points), dtype=np.float32)
        grad = generator.normal(size=(layout.width, points)).astype(np.float32)
        splats = Splats(positions, grad)
        update_all([Update(adams[0], fused, {}, {"table": 0.01}, splats)], descent)
        buffer = torch.zeros_like(start)
        numba_grid.scatter(positions, grad, layout, buffer.numpy())
        adams[1].update(plain, {"table": buffer}, {"table": 0.01})
    return fused["table"], plain["table"]


@pytest.mark.parametrize("points", [5, 3000])  # few: walked; many: scanned
def test_scatter_and_adam_in_one_pass_is_scatter_then_adam(points: int) -> None:
    fused, plain = table_step(points)
    assert torch.allclose(fused, plain, atol=1e-5)


def test_experts_that_no_ray_met_hold_no_optimiser_state() -> None:
    scene = tiny_scene(1, 2, margin=1.0)
    learner = Learner(scene, np.random.default_rng(0))
    batch = grey_batch()
    left = batch.origins[:, 2] < -0.3
    rays = RayBatch(
        *(a[left] for a in (batch.origins, batch.directions, batch.rgbs, batch.image_ids))
    )
    rays.directions[:] = (1.0, 0.0, 0.0)
    learner.step(rays, Rates())
    assert learner.adams[0].first and not learner.adams[1].first
