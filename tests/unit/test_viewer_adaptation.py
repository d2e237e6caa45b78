"""Live adaptation: start, stop, single steps; a broken run leaves the model as it was."""

import re
import threading
import time
from dataclasses import dataclass

import pytest

from nerfcore.viewer.adaptation import Adaptation, AdaptState, AdaptStatus
from nerfcore.viewer.controls import describe_status
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


@pytest.fixture
def make_adaptation():
    made = []

    def make(make_adapter):
        said = []
        adaptation = Adaptation(make_adapter, Turns(), said.append)
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
    assert adaptation.start()
    until(lambda: model.value > 5)
    adaptation.stop()
    until(is_idle(adaptation))
    reached = model.value
    assert adaptation.status.last.step == reached and model.resets == 0
    adaptation.start(max_steps=1)
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
    assert adaptation.start()
    assert not adaptation.start()
    assert adaptation.status.state is AdaptState.LOADING
    gate.set()
    until(lambda: made and made[0].value > 0)
    assert not adaptation.start()
    assert len(made) == 1


def test_stopping_while_images_load_takes_no_step(make_adaptation):
    model, gate = Counter(), threading.Event()

    def make():
        assert gate.wait(DEADLINE_S)
        return model

    adaptation, said = make_adaptation(make)
    adaptation.start()
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
    adaptation.start()
    until(is_idle(adaptation))
    assert model.value == 0 and model.resets == 1
    problem = said[-1].problem
    assert problem is not None

    assert re.search(reason, problem), problem
    assert "ended:" in describe_status(adaptation.status)


def test_nobody_sees_the_broken_model(make_adaptation):
    """Given a step that spoils the model, the reset happens before anybody else's turn."""
    model = Counter(spoil=3, how=float("nan"))
    turns, seen = Turns(), []
    adaptation = Adaptation(lambda: model, turns, lambda _: None)
    adaptation.start()
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
    adaptation.start()
    until(is_idle(adaptation))
    assert adaptation.status.problem == "continual/batch_0001: no such folder"
    adaptation.start(max_steps=2)
    until(is_idle(adaptation))
    assert adaptation.status.problem is None and adaptation.status.last.step == 2


def test_reset_during_a_run_starts_over(make_adaptation):
    model = Counter()
    adaptation, _ = make_adaptation(lambda: model)
    adaptation.start()
    until(lambda: model.value > 3)
    assert adaptation.reset()
    until(lambda: model.value > 0)
    assert model.resets == 1
    adaptation.stop()


def test_the_status_line():
    """Step reports carry the time of all steps; the page says it a step."""
    status = AdaptStatus(AdaptState.RUNNING, Step(4, 0.02, 17.04, 2.0), None)
    assert describe_status(status) == (
        "**running** · step 4, loss 0.02, PSNR 17.0 dB · 0.50 s a step"
    )


def test_the_status_line_before_the_first_step():
    adaptation = Adaptation(Counter, Turns(), lambda _: None)
    assert describe_status(adaptation.status) == "**idle**"
