"""Live adaptation: start, stop, single steps; a broken run leaves the model as it was."""

import re
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest

from nerfcore.viewer.adaptation import Adaptation, AdaptState, AdaptStatus
from nerfcore.viewer.divergence import WINDOW_STEPS, divergence_of
from nerfcore.viewer.panels.adapt_panel import describe_status
from nerfcore.viewer.protocols import AdaptChoice
from nerfcore.viewer.sharing import Turns

DEADLINE_S = 10.0


@dataclass(frozen=True)
class Step:
    step: int
    loss: float
    psnr: float = 20.0
    seconds: float = 0.01


class Counter:
    """A model that is one number; a step adds one, `spoil` says at which step it breaks."""

    def __init__(self, spoil=None, how: float | Exception = 0.0):
        self.value = 0
        self.spoil, self.how = spoil, how
        self.resets = 0

    def prepare(self, asked):
        assert not asked()

    def step(self):
        self.value += 1
        if self.value == self.spoil:
            if isinstance(self.how, Exception):
                raise self.how
            return Step(self.value, self.how)
        return Step(self.value, 1.0 / self.value)

    def reset(self):
        self.value = 0
        self.resets += 1


CHOICE = AdaptChoice("batch_0001")


class Adapting:
    """Makes adapters with a function; `put_back` undoes the last one."""

    batches = ("batch_0001", "batch_0002")
    choice = CHOICE

    def __init__(self, make_adapter):
        self._make = make_adapter
        self.last = None
        self.choices = []

    def make(self, choice):
        self.choices.append(choice)
        self.last = self._make()
        return self.last

    def put_back(self):
        if self.last is not None:
            self.last.reset()


@pytest.fixture
def make_adaptation():
    made = []

    def make(make_adapter):
        said = []
        adaptation = Adaptation(Adapting(make_adapter), Turns(), said.append)
        made.append(adaptation)
        return adaptation, said

    yield make
    for adaptation in made:
        assert adaptation.close(DEADLINE_S), "the adaptation thread did not end"


def until(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.002)


def is_idle(adaptation):
    return lambda: adaptation.status.state is AdaptState.IDLE


def test_it_steps_until_stopped_and_goes_on_from_there(make_adaptation):
    model = Counter()
    adaptation, _ = make_adaptation(lambda: model)
    assert adaptation.start(CHOICE)
    until(lambda: model.value > 5)
    adaptation.stop()
    until(is_idle(adaptation))
    reached = model.value
    assert adaptation.status.last.step == reached and model.resets == 0
    adaptation.start(CHOICE, max_steps=1)
    until(is_idle(adaptation))
    assert model.value == reached + 1


def test_a_second_start_changes_nothing(make_adaptation):
    made = []
    gate = threading.Event()

    def make():
        made.append(Counter())
        assert gate.wait(DEADLINE_S)
        return made[-1]

    adaptation, _ = make_adaptation(make)
    assert adaptation.start(CHOICE)
    assert not adaptation.start(CHOICE)
    assert adaptation.status.state is AdaptState.LOADING
    gate.set()
    until(lambda: made and made[0].value > 0)
    assert not adaptation.start(CHOICE)
    assert len(made) == 1


def test_stopping_while_images_load_takes_no_step(make_adaptation):
    model, gate = Counter(), threading.Event()

    def make():
        assert gate.wait(DEADLINE_S)
        return model

    adaptation, said = make_adaptation(make)
    adaptation.start(CHOICE)
    adaptation.stop()
    gate.set()
    until(is_idle(adaptation))
    assert model.value == 0
    assert [s.state for s in said][-2:] == [AdaptState.STOPPING, AdaptState.IDLE]


def test_stopping_before_a_start_does_nothing(make_adaptation):
    adaptation, said = make_adaptation(Counter)
    adaptation.stop()
    assert adaptation.status.state is AdaptState.IDLE and not said
    assert not adaptation.reset()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (float("nan"), "diverged .loss nan at step 4"),
        (float("inf"), "diverged .loss inf at step 4"),
        (RuntimeError("out of memory"), "out of memory; the model is back"),
        (KeyError(), "KeyError"),
    ],
)
def test_a_broken_step_is_said_and_the_model_is_as_before(make_adaptation, how, reason):
    model = Counter(spoil=4, how=how)
    adaptation, said = make_adaptation(lambda: model)
    adaptation.start(CHOICE)
    until(is_idle(adaptation))
    assert model.value == 0 and model.resets == 1
    problem = said[-1].problem
    assert problem is not None

    assert re.search(reason, problem), problem


def test_a_run_whose_psnr_falls_is_put_back_and_the_mend_is_said():
    """Given finite losses of ever worse pictures, the run ends by itself with the model back."""

    class Worsening(Counter):
        def step(self):
            self.value += 1
            return Step(self.value, 0.1, 21.3 if self.value < 12 else 10.5)

    model = Worsening()
    adaptation = Adaptation(Adapting(lambda: model), Turns(), lambda _: None)
    adaptation.start(CHOICE, max_steps=500)
    until(is_idle(adaptation))
    problem = adaptation.status.problem
    assert problem is not None and "it diverged (PSNR fell from 21.3 to" in problem
    assert "the model is back" in problem and "lower the rates" in problem
    assert model.value == 0 and adaptation.status.steps == 0
    assert adaptation.close(DEADLINE_S)


class TestDivergence:
    NOISE = np.random.default_rng(0).normal(0.0, 1.0, 400)

    @pytest.mark.parametrize("spread_db", [0.0, 0.5, 2.0])
    def test_a_run_that_improves_or_stays_is_left_alone(self, spread_db):
        for rise_db in (0.0, 0.02):
            psnrs = list(20.0 + rise_db * np.arange(400) + spread_db * self.NOISE)
            assert not any(divergence_of(psnrs[:n]) for n in range(1, 401))

    @pytest.mark.parametrize("good_steps", [1, 2, 9, 100])
    @pytest.mark.parametrize("spread_db", [0.0, 0.5])
    def test_a_fall_is_found_soon_whenever_it_begins(self, good_steps, spread_db):
        levels = np.where(np.arange(400) < good_steps, 21.3, 10.5) + spread_db * self.NOISE
        found = [n for n in range(1, 401) if divergence_of(list(levels[:n]))]
        assert found and good_steps < found[0] <= good_steps + 2 * WINDOW_STEPS

    def test_a_slow_fall_is_found_and_a_dip_of_1_db_is_none(self):
        assert divergence_of(list(21.0 - 0.1 * np.arange(60)))
        assert divergence_of([21.0] * 20 + [20.0] * 60) is None

    def test_a_model_turned_flat_at_once_is_found_and_a_dip_that_mends_itself_is_not(self):
        """Given a bland scene, even a picture of one colour is only 3 dB worse."""
        assert divergence_of([18.2, 15.2, 15.3, 15.3, 15.3, 15.5, 15.6, 15.5, 15.6])
        mending = [18.2, 15.2, 17.3, 17.7, 18.3, 18.6, 18.7, 19.0, 19.3, 19.2, 19.4, 19.5]
        assert not any(divergence_of(mending[:n]) for n in range(1, len(mending) + 1))

    def test_a_loss_of_nothing_is_no_divergence_and_nan_is(self):
        assert divergence_of([float("inf")] * 20) is None
        assert "not a number" in str(divergence_of([20.0, float("nan")]))


def test_nobody_sees_the_broken_model(make_adaptation):
    """Given a step that spoils the model, the reset happens before anybody else's turn."""
    model = Counter(spoil=3, how=float("nan"))
    turns, seen = Turns(), []
    adaptation = Adaptation(Adapting(lambda: model), turns, lambda _: None)
    adaptation.start(CHOICE)
    while adaptation.status.state is not AdaptState.IDLE:
        with turns.turn():
            seen.append(model.value)
    assert adaptation.close(DEADLINE_S)
    assert 3 not in seen


def test_images_that_cannot_be_loaded_are_said_and_may_be_tried_again(make_adaptation):
    tries = []

    def make():
        tries.append(1)
        if len(tries) == 1:
            raise FileNotFoundError("continual/batch_0001: no such folder")
        return Counter()

    adaptation, _ = make_adaptation(make)
    adaptation.start(CHOICE)
    until(is_idle(adaptation))
    assert adaptation.status.problem == "continual/batch_0001: no such folder"
    adaptation.start(CHOICE, max_steps=2)
    until(is_idle(adaptation))
    assert adaptation.status.problem is None and adaptation.status.last.step == 2


def test_reset_during_a_run_starts_over(make_adaptation):
    model = Counter()
    adaptation, _ = make_adaptation(lambda: model)
    adaptation.start(CHOICE)
    until(lambda: model.value > 3)
    assert adaptation.reset()
    until(lambda: 0 < adaptation.status.steps <= model.value)
    assert model.resets == 1
    adaptation.stop()


def test_a_pause_holds_and_a_resume_goes_on(make_adaptation):
    model = Counter()
    adaptation, _ = make_adaptation(lambda: model)
    adaptation.start(CHOICE)
    until(lambda: model.value > 2)
    adaptation.pause()
    assert adaptation.status.state is AdaptState.PAUSED
    until(lambda: adaptation.status.last.step == model.value)
    held = model.value
    time.sleep(0.05)
    assert model.value in (held, held + 1), "at most the running step is finished"
    adaptation.resume()
    until(lambda: model.value > held + 3)
    adaptation.pause()
    adaptation.stop()
    until(is_idle(adaptation))


def test_a_limit_of_steps_is_kept_over_a_pause(make_adaptation):
    model = Counter()
    adaptation, _ = make_adaptation(lambda: model)
    adaptation.start(CHOICE, max_steps=40)
    adaptation.pause()
    adaptation.resume()
    until(is_idle(adaptation))
    assert model.value == 40
    assert [record.step for record in adaptation.records()] == list(range(1, 41))


def test_another_choice_makes_another_adapter_and_the_same_does_not():
    made = Adapting(Counter)
    adaptation = Adaptation(made, Turns(), lambda _: None)
    other = AdaptChoice("batch_0002", rays=64)
    for choice in (CHOICE, CHOICE, other):
        adaptation.start(choice, max_steps=2)
        until(is_idle(adaptation))
    assert made.choices == [CHOICE, other]
    assert adaptation.status.steps == 6, "what is in the model, over all adapters"


def test_a_divergence_undoes_only_its_own_adapter():
    """Given steps kept from a first batch, a second one that breaks takes back its own alone."""
    models = iter([Counter(), Counter(spoil=3, how=float("nan"))])
    adaptation = Adaptation(Adapting(lambda: next(models)), Turns(), lambda _: None)
    adaptation.start(CHOICE, max_steps=5)
    until(is_idle(adaptation))
    adaptation.start(AdaptChoice("batch_0002"))
    until(is_idle(adaptation))
    assert "diverged" in str(adaptation.status.problem)
    assert adaptation.status.steps == 5
    assert [record.step for record in adaptation.records()] == [1, 2, 3, 4, 5]


def test_an_exchanged_model_gets_an_adapter_of_its_own():
    made = Adapting(Counter)
    adaptation = Adaptation(made, Turns(), lambda _: None)
    adaptation.start(CHOICE, max_steps=3)
    until(is_idle(adaptation))
    adaptation.forget()
    assert adaptation.status.steps == 0 and adaptation.records() == ()
    adaptation.start(CHOICE, max_steps=1)
    until(is_idle(adaptation))
    assert made.choices == [CHOICE, CHOICE] and adaptation.status.steps == 1


def test_a_version_that_cannot_be_read_leaves_the_model_adapted():
    class Gone(Adapting):
        def put_back(self):
            raise FileNotFoundError("checkpoint gone")

    adaptation = Adaptation(Gone(Counter), Turns(), lambda _: None)
    adaptation.start(CHOICE, max_steps=3)
    until(is_idle(adaptation))
    with pytest.raises(FileNotFoundError):
        adaptation.reset()
    assert adaptation.status.steps == 3


def test_others_use_the_model_while_an_adapter_prepares_and_stop_ends_it():
    class Looking(Counter):
        def prepare(self, asked):
            while True:
                asked()

    model, turns = Looking(), Turns()
    adaptation = Adaptation(Adapting(lambda: model), turns, lambda _: None)
    adaptation.start(CHOICE)
    for _ in range(2):
        with turns.turn():
            assert adaptation.status.state is AdaptState.LOADING
    adaptation.stop()
    until(is_idle(adaptation))
    assert model.value == 0 and adaptation.status.problem is None


def test_the_status_line():
    """Step reports carry the time of all steps; the page says it a step."""
    status = AdaptStatus(AdaptState.RUNNING, Step(4, 0.02, 17.04, 2.0), None)
    assert describe_status(status) == (
        "**running** · step 4  \nloss 0.02, PSNR 17.0 dB, 0.50 s a step"
    )


def test_the_status_line_before_the_first_step():
    adaptation = Adaptation(Adapting(Counter), Turns(), lambda _: None)
    assert describe_status(adaptation.status) == "**idle**  \nno step taken yet"
