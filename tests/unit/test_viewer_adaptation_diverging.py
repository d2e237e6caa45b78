"""Live adaptation that diverges is put back and said, and never saved."""

import pytest
from live_adapters import CHOICE, Counter, adaptations, is_idle, until

from nerfcore.viewer.adaptation import (
    JUDGED_EVERY_STEPS,
    AdaptationFailedError,
)
from nerfcore.viewer.protocols import AdaptChoice


@pytest.fixture
def make_adaptation():
    with adaptations() as make:
        yield make


class Flattening(Counter):
    """A model whose steps look well, until somebody asks whether it has diverged."""

    def __init__(self, flat_at):
        super().__init__()
        self.flat_at = flat_at

    def divergence(self):
        return "one flat colour" if self.value >= self.flat_at else None


def test_a_run_that_diverges_with_finite_losses_is_put_back_and_the_mend_is_said(make_adaptation):
    model = Flattening(12)
    adaptation, _ = make_adaptation(lambda: model)
    adaptation.start(CHOICE, max_steps=500)
    until(is_idle(adaptation))
    problem = adaptation.status.problem
    assert problem is not None and "it diverged (one flat colour)" in problem
    assert "the model is back" in problem and "lower the rates" in problem
    assert model.value == 0 and adaptation.status.steps == 0 and adaptation.batches == ()


def test_steps_of_earlier_runs_that_are_undone_too_are_said(make_adaptation):
    class Tunable(Flattening):
        def retune(self, choice):
            return True

    model = Tunable(6)
    adaptation, _ = make_adaptation(lambda: model)
    adaptation.start(CHOICE, max_steps=5)
    until(is_idle(adaptation))
    adaptation.start(AdaptChoice(CHOICE.batch, rays=64), max_steps=1)
    until(is_idle(adaptation))
    assert "the model is back as it was before its 6 steps" in str(adaptation.status.problem)
    assert model.value == 0 and adaptation.status.steps == 0


@pytest.mark.parametrize("steps", [1, 3, JUDGED_EVERY_STEPS])
def test_a_short_run_is_judged_when_it_ends(make_adaptation, steps):
    model = Flattening(steps)
    adaptation, _ = make_adaptation(lambda: model)
    adaptation.start(CHOICE, max_steps=steps)
    until(is_idle(adaptation))
    assert "diverged" in str(adaptation.status.problem) and model.value == 0


def test_a_run_that_is_stopped_is_judged(make_adaptation):
    model = Flattening(3)
    adaptation, _ = make_adaptation(lambda: model)
    adaptation.start(CHOICE, max_steps=2)
    until(is_idle(adaptation))
    assert adaptation.status.problem is None and model.value == 2
    model.flat_at = 2
    adaptation.start(CHOICE)
    adaptation.stop()
    until(is_idle(adaptation))
    assert "diverged" in str(adaptation.status.problem) and model.value == 0


def test_a_diverged_model_is_never_saved(make_adaptation):
    """Given a run under way, the saver's turn finds it out, puts it back and ends the run."""
    model = Flattening(1_000_000)
    adaptation, _ = make_adaptation(lambda: model)
    adaptation.start(CHOICE)
    until(lambda: model.value > 3)
    with adaptation._turns.turn():
        adaptation.require_sound()
        model.flat_at = 0
        with pytest.raises(AdaptationFailedError, match=r"diverged \(one flat colour\)"):
            adaptation.require_sound()
        assert model.value == 0
        adaptation.require_sound()  # what is shown now is as it was loaded
    until(is_idle(adaptation))
    assert "diverged" in str(adaptation.status.problem)
    assert model.value == 0 and adaptation.status.steps == 0
