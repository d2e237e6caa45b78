"""Pictures from far away: their rays begin nearer to the scene, so that nothing thin is missed."""

from dataclasses import replace

import numpy as np
import pytest
from engine_scenes import tiny_scene

from nerfcore.geometry.aiming import looking_at
from nerfcore.geometry.camera import Camera
from nerfcore.sampling.headway import LONGEST_STEPS, headway
from nerfcore.scene import SceneModel
from nerfcore.settings import SamplingSettings

BOX = np.array([[-0.5, -1, -1], [0.5, 1, 1]], np.float32)
SAMPLING = SamplingSettings(step_m=0.5, step_growth=0.05)  # allowed: 10 m, or 20 with two steps


def from_above(height: float) -> Camera:
    """Look down on the box, which fills the picture, from a height in world units (10 m each)."""
    eye = np.array([-height, 0.05, 0.05])
    return looking_at(eye, np.zeros(3), 24, 24, 2.0 * np.arctan(0.9 / height))


def scene_with(**sampling: float) -> SceneModel:
    """The tiny scene with other sampling."""
    scene = tiny_scene(2, 2)
    return scene.with_sampling(replace(scene.sampling, max_samples=4000, **sampling))


@pytest.mark.parametrize("height", [60.0, 200.0])
def test_a_far_picture_shows_what_small_steps_show(height: float) -> None:
    """Its steps, grown with the distance, would be longer than the scene is deep."""
    truth = scene_with().render(from_above(height))
    far = scene_with(step_growth=0.05).render(from_above(height))
    assert truth is not None and far is not None
    assert np.abs(far.opacity - truth.opacity).max() < 0.1
    both = np.isfinite(far.depth_m) & np.isfinite(truth.depth_m)
    assert both.mean() > 0.5
    np.testing.assert_allclose(far.depth_m[both], truth.depth_m[both], atol=1.5)


def test_a_picture_from_where_photographs_are_taken_is_as_before() -> None:
    """Nothing is skipped there."""
    camera = from_above(2.0)
    origins, directions = camera.rays()
    assert headway(origins, directions, BOX, SAMPLING, 10.0) == 0.0


def test_what_is_skipped_lies_before_the_box() -> None:
    """The first ray's step is as long there as is allowed."""
    origins, directions = from_above(50.0).rays()
    ahead = headway(origins, directions, BOX, SAMPLING, 10.0)
    allowed = LONGEST_STEPS * 0.5 / 0.05 / 10.0
    assert ahead == pytest.approx(49.5 - allowed, abs=0.02)


def test_it_is_not_done_where_it_cannot_be() -> None:
    """Fixed steps, rays that meet nothing, a far bound before the scene."""
    origins, directions = from_above(50.0).rays()
    fixed, bounded = replace(SAMPLING, step_growth=0.0), replace(SAMPLING, far_m=100.0)
    assert headway(origins, directions, BOX, fixed, 10.0) == 0.0
    assert headway(origins, -directions, BOX, SAMPLING, 10.0) == 0.0
    assert headway(origins, directions, BOX, bounded, 10.0) == 0.0


def test_bounds_are_still_measured_from_the_camera() -> None:
    """A near bound in the middle of the scene hides its upper half, from far away too."""
    camera = from_above(60.0)
    cut = scene_with(step_growth=0.05, near_m=600.0).render(camera)
    truth = scene_with(near_m=600.0).render(camera)
    assert cut is not None and truth is not None
    assert np.nanmin(cut.depth_m) >= 599.0
    assert np.abs(cut.opacity - truth.opacity).mean() < 0.05
