"""The rule of divergence by hand: what witnesses say of models that learn, fall, or go flat."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from painted_scene import FAST, Stores, painted_stores

from nerfcore.adaptation import Adapter, AdaptSettings
from nerfcore.adaptation.divergence import LEAST_CHANGED, NEW_LOSE_DB, OLD_LOSE_DB, Witness
from nerfcore.errors import NonFiniteError
from nerfcore.training.learner import Rates

RNG = np.random.default_rng(0)
TRUTH = RNG.random((600, 3))
WRONG = RNG.random((600, 3))
FLAT = np.full((600, 3), 0.5)


def mixed(share: float, other: np.ndarray = WRONG) -> np.ndarray:
    """Colours this near to the truth: 1 is the truth itself."""
    return share * TRUTH + (1.0 - share) * other


def witness_of(before: np.ndarray) -> Witness:
    return Witness("rays", TRUTH, before)


def test_a_fit_that_comes_nearer_from_wherever_it_began_goes_well() -> None:
    for start in (0.0, 0.3, 0.8):
        witness = witness_of(mixed(start))
        for share in np.linspace(start, 1.0, 12):
            assert witness.divergence(mixed(share)) is None


def test_a_fall_is_one_from_the_best_that_was_reached() -> None:
    """Given 12 dB gained since the first step, it may not lose more than the limit of them."""
    witness = witness_of(mixed(0.6))
    assert witness.divergence(mixed(0.9)) is None
    assert witness.divergence(mixed(0.85)) is None
    reason = witness.divergence(mixed(0.75))
    assert reason is not None and f"{OLD_LOSE_DB:g} dB less at most" in reason


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_divergence(value: float) -> None:
    now = mixed(0.5)
    now[7] = value
    assert witness_of(mixed(0.5)).divergence(now)


def test_one_flat_colour_is_no_fit_although_it_lies_nearer_than_what_was_there() -> None:
    """A quarter of the rays showed what has gone: grey is nearer, and is still no picture."""
    before = mixed(0.8)
    before[:150] = 1.0 - TRUTH[:150]
    assert np.square(FLAT - TRUTH).mean() < np.square(before - TRUTH).mean()
    reason = witness_of(before).divergence(FLAT)
    assert reason is not None and "flat colour" in reason


def test_a_model_that_knows_nothing_yet_may_be_flat() -> None:
    witness = witness_of(FLAT + 0.1)
    assert witness.divergence(FLAT) is None
    assert witness.divergence(mixed(0.1, FLAT)) is None


def test_slow_progress_below_a_constant_colour_is_no_divergence() -> None:
    """What is wrong by definition explains less than a flat colour for some steps."""
    witness = witness_of(1.0 - TRUTH)
    for share in np.linspace(0.0, 1.0, 12):
        assert witness.divergence((1.0 - share) * (1.0 - TRUTH) + share * TRUTH) is None


def test_rays_that_did_not_change_say_nothing_of_flatness() -> None:
    now = mixed(0.6)
    now[: LEAST_CHANGED - 1] = 0.5
    assert witness_of(mixed(0.6)).divergence(now) is None


def test_a_scene_of_one_colour_cannot_be_flatter() -> None:
    grey = Witness("rays", FLAT, FLAT + 0.1)
    assert grey.divergence(FLAT) is None


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    with painted_stores(tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("replay", [0.0, 0.25])
def test_a_local_adaptation_with_absurd_rates_is_refused(stores: Stores, replay: float) -> None:
    """It cannot fall far below cells that were wrong; what it has to keep tells, after one step."""
    scene, old, new = stores
    settings = AdaptSettings(rays=512, replay=replay, rates=FAST, local=True)
    calm = Adapter(scene, new, settings, old=old)
    for _ in range(8):
        calm.step()
        calm.require_progress()
    calm.reset()
    wild = Adapter(scene, new, replace(settings, rates=Rates(1.0, 1.0, 1.0, 1.0)), old=old)
    wild.step()
    with pytest.raises(NonFiniteError, match="diverged"):
        wild.require_progress()


@pytest.mark.parametrize(("replay", "count"), [(0.0, 1), (0.5, 2)])
def test_old_rays_are_asked_only_where_they_are_to_be_kept(
    stores: Stores, replay: float, count: int
) -> None:
    """A survey for the change map alone decides nothing about what is accepted."""
    scene, old, new = stores
    adapter = Adapter(scene, new, AdaptSettings(rays=256, replay=replay, rates=FAST), old=old)
    assert adapter.look_over().outdated().any()
    adapter.step()
    assert len(adapter._witnesses) == count


def test_new_rays_may_lose_less_than_old_ones() -> None:
    """They are what is learnt."""
    loss = 10 ** (4.5 / 20)
    for limit, refused in ((NEW_LOSE_DB, True), (OLD_LOSE_DB, False)):
        witness = Witness("rays", TRUTH, TRUTH + 0.1, limit)
        assert (witness.divergence(TRUTH + 0.1 * loss) is not None) is refused


def test_rates_and_rays_change_without_a_second_survey_or_copy(stores: Stores) -> None:
    scene, old, new = stores
    adapter = Adapter(scene, new, AdaptSettings(rays=256, rates=FAST, local=True), old=old)
    adapter.step()
    survey, experts, cells = adapter.survey, list(scene.experts), scene.variants
    adapter.retune(128, 0.5, Rates(0.0, 0.0, 0.0, 0.0))
    before = [value.clone() for own in scene.experts for value in own.values()]
    assert adapter.step().step == 2
    assert adapter.survey is survey and scene.variants is cells
    assert all(own is was for own, was in zip(scene.experts, experts, strict=True))
    for value, was in zip((v for own in scene.experts for v in own.values()), before, strict=True):
        assert torch.equal(value, was), "a rate of 0 changes nothing"
    assert adapter.old_rays == 64
    adapter.retune(128, 0.0, FAST)
    assert adapter.step().step == 3 and adapter.old_rays == 0
    adapter.reset()
    assert scene.variants is None
