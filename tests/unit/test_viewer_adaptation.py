"""Live adaptation: start, stop, single steps; a broken run leaves the model as it was."""

import re
import threading
import time

import pytest
from live_adapters import CHOICE, DEADLINE_S, Adapting, Counter, Step, adaptations, is_idle, until

from nerfcore.viewer.adaptation import (
    Adaptation,
    AdaptState,
    AdaptStatus,
)
from nerfcore.viewer.panels.adapt_panel import describe_status
from nerfcore.viewer.protocols import AdaptChoice
from nerfcore.viewer.sharing import Turns


@pytest.fixture
def make_adaptation():
    with adaptations() as make:
        yield make


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


def test_a_model_exchanged_while_an_adapter_is_made_gets_another_one(make_adaptation):
    """Given a version loaded meanwhile, every step is of the model that is shown."""
    old, new = Counter(), Counter()
    shown, is_making, gate = [old], threading.Event(), threading.Event()

    def make():
        scene = shown[0]
        is_making.set()
        assert gate.wait(DEADLINE_S)
        return scene

    adaptation, _ = make_adaptation(make)
    adaptation.start(CHOICE, max_steps=5)
    assert is_making.wait(DEADLINE_S)
    with adaptation._turns.turn():
        shown[0] = new
        adaptation.forget()
    gate.set()
    until(is_idle(adaptation))
    assert (old.value, new.value, adaptation.status.steps) == (0, 5, 5)


def test_an_adapter_goes_on_with_other_rates_if_it_can(make_adaptation):
    class Tunable(Counter):
        def __init__(self):
            super().__init__()
            self.tuned = []

        def retune(self, choice):
            self.tuned.append(choice)
            return choice.batch == CHOICE.batch

    models = [Tunable(), Tunable()]
    waiting = iter(models)
    adaptation, _ = make_adaptation(lambda: next(waiting))
    faster, other = AdaptChoice(CHOICE.batch, rays=64), AdaptChoice("batch_0002", rays=64)
    for choice in (CHOICE, faster, faster, other):
        adaptation.start(choice, max_steps=2)
        until(is_idle(adaptation))
    assert [model.value for model in models] == [6, 2]
    assert models[0].tuned == [faster, other] and models[1].tuned == []
    assert adaptation.status.steps == 8
    assert adaptation.batches == ("batch_0001", "batch_0002")
    assert describe_status(adaptation.status).startswith("**idle** · step 8 ")


def test_a_run_without_an_end_is_stopped_when_everybody_has_left_and_others_are_not(
    make_adaptation,
):
    adaptation, _ = make_adaptation(Counter)
    adaptation.start(CHOICE, max_steps=2000)
    adaptation.stop_endless()
    until(is_idle(adaptation))
    assert adaptation.status.steps == 2000
    adaptation.start(CHOICE)
    adaptation.stop_endless()
    until(is_idle(adaptation))
    adaptation.stop_endless()


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
        def prepare(self, preparation):
            with preparation.model() as asked:
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


def test_preparation_leaves_the_model_to_others_and_tells_how_far_it_is(make_adaptation):
    """Given an adapter that computes on what it has seen, it holds no turn meanwhile."""
    gate = threading.Event()

    class Looking(Counter):
        def prepare(self, preparation):
            for done in range(1, 4):
                with preparation.model():
                    pass
                preparation.looked(done, 3)
            assert gate.wait(DEADLINE_S)

    model = Looking()
    adaptation, said = make_adaptation(lambda: model)
    adaptation.start(CHOICE, max_steps=2)
    until(lambda: adaptation.status.looked == (3, 3))
    with adaptation._turns.turn():
        assert adaptation.status.state is AdaptState.LOOKING and model.value == 0
    line = describe_status(adaptation.status)
    assert line.startswith("**looking over images**") and "3 of 3" in line
    gate.set()
    until(is_idle(adaptation))
    told = list(dict.fromkeys(status.looked for status in said))
    assert told == [None, (1, 3), (2, 3), (3, 3)] and model.value == 2
    assert adaptation.status.looked is None


def test_the_status_line():
    """Step reports carry an adapter's own steps and time; the page counts all in the model."""
    status = AdaptStatus(AdaptState.RUNNING, Step(4, 0.02, 17.04, 2.0), None, 12)
    assert describe_status(status) == (
        "**running** · step 12  \nloss 0.02, PSNR 17.0 dB, 0.50 s a step"
    )


def test_the_status_line_before_the_first_step():
    adaptation = Adaptation(Adapting(Counter), Turns(), lambda _: None)
    assert describe_status(adaptation.status) == "**idle**  \nno step taken yet"
