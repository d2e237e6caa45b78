"""Adaptation that is not finite or diverges: it ends at once, and the model is as it was."""

import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from engine_scenes import tiny_scene

from nerfcore.adaptation import Adapter, AdaptSettings
from nerfcore.adaptation.divergence import NEW_LOSE_DB
from nerfcore.data.images import ImageStore
from nerfcore.data.records import ImageSet
from nerfcore.errors import NonFiniteError
from nerfcore.scene import SceneModel
from nerfcore.training.learner import Rates, psnr_of
from nerfcore.training.pixels import RayBatch

SIZE_PX = 32
CALM, WILD = Rates(0.02, 0.005, 0.005, 0.005), Rates(50.0, 50.0, 50.0, 50.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    """One grey photograph from above the tiny scene."""
    path = tmp_path / "0.png"
    cv2.imwrite(str(path), np.full((SIZE_PX, SIZE_PX, 3), 128, np.uint8))
    pose = np.array([[[0, 0, -1, -2], [1, 0, 0, 0], [0, -1, 0, 0]]], np.float32)
    intrinsics = np.array([[SIZE_PX, SIZE_PX, SIZE_PX / 2, SIZE_PX / 2]], np.float32)
    size = np.full(1, SIZE_PX, np.int32)
    with ImageStore(ImageSet(("0",), (path,), (None,), pose, intrinsics, size, size)) as opened:
        yield opened


def state_of(scene: SceneModel) -> list[torch.Tensor]:
    """Copies of parameters and occupancy."""
    parameters = [value.clone() for own in scene.experts for value in own.values()]
    parameters += [value.clone() for value in scene.background.values()]
    return parameters + [torch.from_numpy(array.copy()) for array in scene.occupancy.state()]


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for value, want in zip(found, expected, strict=True):
        assert torch.equal(value, want)


@pytest.mark.parametrize("good", [0, 3])
def test_one_step_that_is_not_finite_ends_adaptation(store: ImageStore, good: int) -> None:
    """Named by its number; reset then brings parameters and occupancy back."""
    scene = tiny_scene(table_scale=2e3)
    before = state_of(scene)
    adapter = Adapter(scene, store, AdaptSettings(rays=256, rates=CALM))
    for _ in range(good):
        adapter.step()
    draw = adapter._draw_new

    def spoilt(count: int) -> RayBatch:
        batch = draw(count)
        batch.rgbs[0] = np.nan
        return batch

    adapter._draw_new = spoilt
    with pytest.raises(NonFiniteError, match=f"adaptation step {good + 1}: .*not finite"):
        adapter.step()
    assert adapter.steps == good
    adapter.reset()
    assert_same(state_of(scene), before)


def test_an_adaptation_that_makes_its_own_rays_far_worse_is_refused(store: ImageStore) -> None:
    """Absurd rates on a model that fits its rays: finite numbers, and still no adaptation."""
    scene = tiny_scene(table_scale=2e3)
    calm = Adapter(scene, store, AdaptSettings(rays=256, rates=CALM))
    calm.require_progress()  # no step, no harm
    for _ in range(40):
        calm.step()
        calm.require_progress()
    before = state_of(scene)
    wild = Adapter(scene, store, AdaptSettings(rays=256, rates=WILD))
    for _ in range(5):
        wild.step()
    with pytest.raises(NonFiniteError, match=rf"step 5: diverged.*{NEW_LOSE_DB:g} dB less"):
        wild.require_progress()
    wild.reset()
    assert_same(state_of(scene), before)


@pytest.mark.parametrize("mse", [math.nan, math.inf])
def test_no_error_that_is_not_finite_has_a_psnr(mse: float) -> None:
    assert math.isnan(psnr_of(mse))
    assert psnr_of(0.01) == pytest.approx(20.0) and psnr_of(0.0) == 100.0
