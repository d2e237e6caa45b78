"""Stand-in models and adapters for live adaptation, without an engine."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from nerfcore.viewer.adaptation import Adaptation, AdaptState
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

    def retune(self, choice) -> bool:
        return False

    def prepare(self, preparation):
        with preparation.model() as asked:
            assert not asked()

    def divergence(self) -> str | None:
        return None

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

    def make(self, choice, steps):
        self.choices.append(choice)
        self.last = self._make()
        return self.last

    def put_back(self):
        if self.last is not None:
            self.last.reset()


@contextmanager
def adaptations() -> Iterator:
    """Give what makes adaptations of an adapter; they are closed at the end."""
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
