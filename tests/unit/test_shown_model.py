"""The shown model: options of renders on a real (untrained) scene model, exchange and put back."""

import numpy as np
import pytest
import torch

from nerfcore.data.partition import Partition
from nerfcore.data.records import SceneFrame
from nerfcore.errors import CheckpointError
from nerfcore.geometry.aiming import looking_at
from nerfcore.scene import SceneModel, new_scene
from nerfcore.settings import HashGridSettings, ModelSettings, SamplingSettings
from nerfcore.shown_model import ShownModel
from nerfcore.viewer.options import RenderOptions

FRAME = SceneFrame(100.0, np.array([-50.0, 0.0, 0.0]), None, (0.0, 50.0))


def make_scene(seed: int = 0) -> SceneModel:
    """Two experts side by side (west, east), everywhere solid."""
    low, high = np.array([-0.1, -1.0, -1.0]), np.array([0.5, 1.0, 1.0])
    partition = Partition(
        "two",
        np.array([[0.2, -0.5, 0.0], [0.2, 0.5, 0.0]], np.float32),
        np.array([low, [-0.1, 0.0, -1.0]], np.float32),
        np.array([[0.5, 0.0, 1.0], high], np.float32),
        np.array([low, high], np.float32),
        True,
        1.0,
        (1, 2),
    )
    settings = ModelSettings(
        grid=HashGridSettings(log2_size=10, max_resolution=32), sigma_depth=1, color_depth=1
    )
    scene = new_scene(
        FRAME, partition, settings, SamplingSettings(step_m=4.0), cell_m=10.0, seed=seed
    )
    generator = torch.Generator().manual_seed(seed)
    for expert in scene.experts:
        for value in expert.values():
            value.copy_(torch.rand(value.shape, generator=generator))
    return scene


CAMERA = looking_at([-1.2, 0.0, 0.001], [0.5, 0.0, 0.0], 48, 32, 1.0)


def seen(shown: ShownModel, **options):
    rendered = shown.render(CAMERA, options=RenderOptions(**options))
    assert rendered is not None
    return rendered


@pytest.fixture
def shown() -> ShownModel:
    return ShownModel(make_scene(), make_scene)


def test_without_options_it_is_the_scene_s_own_render(shown):
    own = shown.scene.render(CAMERA)
    assert own is not None
    np.testing.assert_array_equal(seen(shown).rgb, own.rgb)
    np.testing.assert_array_equal(seen(shown).depth_m, own.depth_m)


def test_one_expert_shows_its_own_half(shown):
    west, east = seen(shown, expert=0).opacity, seen(shown, expert=1).opacity
    assert west[:, :20].mean() > 0.5 > west[:, 28:].mean()
    assert east[:, 28:].mean() > 0.5 > east[:, :20].mean()
    assert seen(shown).opacity[:, 5:43].mean() > 0.5


def test_a_crop_box_shows_only_what_is_inside(shown):
    """East of 20 m and below 10 m: the west is empty, and the surface lies deeper."""
    cropped = seen(shown, crop_enu_m=((20.0, -100.0, 0.0), (100.0, 100.0, 10.0)))
    assert cropped.opacity[:, :20].max() < 0.01
    whole = seen(shown)
    both = np.isfinite(cropped.depth_m) & np.isfinite(whole.depth_m)
    assert both.any() and (cropped.depth_m[both] > whole.depth_m[both] + 5.0).all()


def test_an_empty_crop_box_shows_nothing_and_does_not_break(shown):
    far = ((5000.0, 5000.0, 5000.0), (5001.0, 5001.0, 5001.0))
    assert seen(shown, crop_enu_m=far).opacity.max() < 0.01


def test_near_and_far_bound_every_ray(shown):
    whole = seen(shown).depth_m
    beyond = seen(shown, near_m=float(np.nanmin(whole)) + 20.0)
    assert np.nanmin(beyond.depth_m) >= np.nanmin(whole) + 19.0
    assert seen(shown, far_m=10.0).opacity.max() == 0.0


def test_the_background_is_the_colour_chosen(shown):
    nothing = {"far_m": 1.0}
    magenta = seen(shown, background_rgb=(1.0, 0.0, 1.0), **nothing).rgb
    np.testing.assert_allclose(magenta, np.broadcast_to([1, 0, 1], magenta.shape), atol=1e-3)
    grey = seen(shown, background_rgb=(0.5, 0.5, 0.5), **nothing).rgb
    np.testing.assert_allclose(grey, 0.5, atol=2e-3), "sRGB, whatever is composited"


def test_before_stays_while_the_live_model_changes_and_put_back_undoes_it(shown):
    original = seen(shown).rgb
    for expert in shown.scene.experts:
        expert["table" if "table" in expert else next(iter(expert))].mul_(0.0)
    assert np.abs(seen(shown).rgb - original).max() > 0.01
    np.testing.assert_array_equal(seen(shown, is_before=True).rgb, original)
    shown.put_back()
    np.testing.assert_array_equal(seen(shown).rgb, original)


def test_another_version_is_shown_and_becomes_the_one_before(shown):
    other = make_scene(7)
    expected = other.render(CAMERA)
    assert expected is not None
    shown.exchange(other, lambda: make_scene(7))
    np.testing.assert_array_equal(seen(shown).rgb, expected.rgb)
    np.testing.assert_array_equal(seen(shown, is_before=True).rgb, expected.rgb)


def test_a_vanished_version_is_an_error_and_the_live_model_stays():
    def gone():
        raise CheckpointError("manifest.json: missing; choose another version")

    shown = ShownModel(make_scene(), gone)
    live = shown.scene
    with pytest.raises(CheckpointError, match="choose another"):
        shown.put_back()
    with pytest.raises(CheckpointError):
        seen(shown, is_before=True)
    assert shown.scene is live
