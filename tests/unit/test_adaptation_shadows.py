"""Ground that a shadow has left, told from ground that has changed."""

import numpy as np
import pytest
from looks_by_hand import GRID, flat_look, textured

from nerfcore.adaptation.disagreement import disagreement
from nerfcore.adaptation.exposure import no_exposure
from nerfcore.adaptation.shadows import light_by_cell, sunlit_cells
from nerfcore.adaptation.survey import Survey
from nerfcore.colour import linear_to_srgb_array, srgb_to_linear_array

ZEROS = dict.fromkeys(range(3), no_exposure())
PATCH = np.s_[8:32, 8:32]  # cells 1..3 of both axes
INSIDE = np.s_[2:3, 2:3]  # of them the one that no blurred edge reaches


def lit(picture: np.ndarray, factor: float) -> np.ndarray:
    """The picture with the patch's linear light multiplied."""
    linear = srgb_to_linear_array(picture)
    linear[PATCH] *= factor
    return linear_to_srgb_array(linear).astype(np.float32)


def test_light_by_hand() -> None:
    shown = np.full((64, 64, 3), 0.3, np.float32)
    growth, remains, light = light_by_cell(
        flat_look(lit(shown, 3.0), shown), no_exposure(), GRID
    ).reshape(3, 8, 8)
    assert growth[INSIDE] == pytest.approx(np.log2(3.0), abs=1e-3)
    assert growth[5:, 5:] == pytest.approx(0.0, abs=1e-3)
    assert remains[INSIDE] == pytest.approx(0.0, abs=1e-6)
    assert light[5:, 5:] == pytest.approx(float(srgb_to_linear_array(shown)[0, 0, 0]), rel=1e-3)


def survey_of(truth: np.ndarray, shown: np.ndarray) -> Survey:
    """Three new photographs against what the model shows, and old ones that fit it."""
    noisy = np.clip(shown + np.random.default_rng(0).normal(0, 0.02, shown.shape), 0, 1)
    new = [flat_look(truth, shown, i) for i in range(3)]
    old = [flat_look(noisy.astype(np.float32), shown, i) for i in range(3)]
    return Survey(new, ZEROS, old, disagreement(GRID, new, ZEROS, old, ZEROS))


def test_a_shadow_that_has_gone_is_outdated_but_no_change() -> None:
    sunny = textured()
    found = survey_of(sunny, lit(sunny, 1 / 3.5))
    assert found.outdated()[INSIDE].all()
    assert not found.changed()[INSIDE].any()


def test_another_surface_in_the_sun_is_a_change() -> None:
    """Rubble where a dark roof was: brighter too, but not by one factor."""
    shown = lit(textured(), 1 / 3.5)
    rubble = shown.copy()
    blocks = np.random.default_rng(1).uniform(0.3, 0.9, (4, 4, 3)).repeat(6, 0).repeat(6, 1)
    rubble[PATCH] = blocks
    assert survey_of(rubble, shown).changed()[INSIDE].all()


@pytest.mark.parametrize("factor", [1 / 3.5, 12.0])
def test_ground_grown_dark_or_brighter_than_the_sun_can_is_a_change(factor: float) -> None:
    shown = (0.35 * textured()).astype(np.float32)
    assert not sunlit_cells([flat_look(lit(shown, factor), shown)], ZEROS, GRID)[INSIDE].any()


def test_a_bright_place_grown_brighter_was_no_shadow() -> None:
    shown = lit(np.full((64, 64, 3), 0.3, np.float32), 3.0)
    truth = lit(shown, 2.0)
    assert not sunlit_cells([flat_look(truth, shown)], ZEROS, GRID)[INSIDE].any()
