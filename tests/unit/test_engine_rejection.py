"""A loss or gradient that is not finite: the step is rejected, the last good state stays."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_scenes import rays_into, tiny_scene

from nerfcore.errors import NonFiniteError
from nerfcore.scene import SceneModel
from nerfcore.settings import BackendName
from nerfcore.training.episodes import Episode
from nerfcore.training.inner_loop import InnerLoop
from nerfcore.training.inner_rates import InnerRates
from nerfcore.training.learner import Learner, Rates
from nerfcore.training.pixels import RayBatch
from nerfcore.training.settings import TrainSettings
from nerfcore.training.steppers import FomamlStepper, ReptileStepper

INF, NAN = float("inf"), float("nan")
State = list[tuple[str, torch.Tensor]]


def batch_of(value: float, count: int = 128) -> RayBatch:
    """Rays that all want one grey value."""
    origins, directions = rays_into(count)
    truth = np.full((count, 3), 0.5, np.float32)
    truth[count // 2] = value
    return RayBatch(origins, directions, truth, np.zeros(count, np.int64))


def state_of(learner: Learner) -> State:
    """Copies of all that a step may change: values, moments, counts of steps, occupancy."""
    scene, found = learner.scene, []
    for k, parameters in enumerate([*scene.experts, scene.background]):
        found += [(f"{k} {name}", value.clone()) for name, value in parameters.items()]
    for k, adam in enumerate([*learner.adams, learner.background_adam]):
        found.append((f"{k} step", torch.tensor(adam.step)))
        for moments in (adam.first, adam.second):
            found += [(f"{k} moment {name}", value.clone()) for name, value in moments.items()]
    return found + [("cells", torch.from_numpy(array)) for array in scene.occupancy.state()]


def assert_same(found: State, expected: State) -> None:
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (name, value), (_, want) in zip(found, expected, strict=True):
        assert torch.equal(value, want), name


def trained(backend: BackendName = "numba") -> tuple[SceneModel, Learner]:
    """A scene after two good steps: there are moments to spoil."""
    scene = tiny_scene(1, 2, margin=1.5, backend=backend)
    learner = Learner(scene, np.random.default_rng(0))
    for _ in range(2):
        learner.step(batch_of(0.5), Rates())
    return scene, learner


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("value", [INF, -INF, NAN])
def test_one_bad_pixel_rejects_the_step_and_ten_steps_end_the_run(
    backend: BackendName, value: float
) -> None:
    """Infinite as well as NaN, on each kind of tracer; every byte of the state stays."""
    _, learner = trained(backend)
    before = state_of(learner)
    for _ in range(9):
        assert math.isnan(learner.step(batch_of(value), Rates())[0])
    assert_same(state_of(learner), before)
    with pytest.raises(NonFiniteError, match=r"not finite in 10 steps in a row; the last good"):
        learner.step(batch_of(value), Rates())
    assert_same(state_of(learner), before)


def test_a_good_step_in_between_begins_the_count_anew() -> None:
    """Nine, one good, nine: no end."""
    _, learner = trained()
    for value in [NAN] * 9 + [0.5] + [INF] * 9:
        learner.step(batch_of(value), Rates())
    assert learner.rejected_in_a_row == 9


def test_a_finite_loss_with_an_infinite_gradient_is_rejected() -> None:
    """The gathered gradient is looked at, not the loss alone; nothing of it is left over."""
    _, learner = trained()
    before = state_of(learner)
    mse, _ = learner.gradient(batch_of(0.5))
    learner.store.of(0)["sigma.1"][0, 0] = INF
    assert math.isfinite(mse) and not learner.apply_or_reject([mse], Rates())
    assert_same(state_of(learner), before)
    learner.step(batch_of(0.5), Rates())
    assert all(bool(torch.isfinite(value).all()) for _, value in state_of(learner))


class Episodes:
    """Gives both experts tasks whose support and query hold the values told."""

    experts = (0, 1)

    def __init__(self, values: Callable[[], tuple[float, float]]) -> None:
        self.values = values

    def draw(self, expert: int, support_rays: int, query_rays: int) -> Episode:
        support, query = self.values()
        return Episode(expert, batch_of(support), batch_of(query))

    def draw_batches(self, expert: int, count: int, rays: int) -> list[RayBatch]:
        return [batch_of(self.values()[0]) for _ in range(count)]


SETTINGS = TrainSettings(algo="fomaml", tasks=2, inner_steps=2, device="cpu")


@pytest.mark.parametrize("kind", [FomamlStepper, ReptileStepper])
@pytest.mark.parametrize("value", [INF, NAN])
def test_an_inner_step_that_is_not_finite_rejects_the_outer_step(kind: type, value: float) -> None:
    """Adaptation that stopped half-way teaches nothing, though the query's loss is finite."""
    _, learner = trained()
    before = state_of(learner)
    stepper = kind(learner, Episodes(lambda: (value, 0.5)), SETTINGS)
    for _ in range(9):
        assert math.isnan(stepper.step(Rates(), 1.0).mse)
    assert_same(state_of(learner), before)
    with pytest.raises(NonFiniteError, match="10 steps in a row"):
        stepper.step(Rates(), 1.0)


def test_a_query_that_is_not_finite_rejects_all_tasks_of_the_step() -> None:
    """Three good tasks and one bad: none of them is applied; a good step then is."""
    _, learner = trained()
    before = state_of(learner)
    values = iter([(0.5, 0.5)] * 3 + [(0.5, INF)] + [(0.5, 0.5)] * 4)
    stepper = FomamlStepper(learner, Episodes(lambda: next(values)), SETTINGS)  # type: ignore[arg-type]
    assert math.isnan(stepper.step(Rates(), 1.0).mse)
    assert_same(state_of(learner), before)
    assert stepper.step(Rates(), 1.0).mse > 0 and learner.rejected_in_a_row == 0
    after = dict(state_of(learner))
    assert not torch.equal(after["0 sigma.0"], dict(before)["0 sigma.0"])


def test_the_copy_stays_as_it_was_before_the_bad_inner_step() -> None:
    """One good batch, then a bad one: the copy has taken the first step, the expert none."""
    scene, learner = trained()
    before = state_of(learner)
    inner = InnerLoop(learner, replace(SETTINGS, inner_steps=1), None)
    learner.rng = np.random.default_rng(1)
    good, _ = inner.adapt(0, [batch_of(0.5)])
    once = {name: value.clone() for name, value in inner.fast.items()}
    learner.rng = np.random.default_rng(1)
    bad, _ = inner.adapt(0, [batch_of(0.5), batch_of(NAN)])
    assert math.isfinite(good) and math.isnan(bad)
    assert all(torch.equal(inner.fast[name], value) for name, value in once.items())
    assert not torch.equal(once["table"], scene.experts[0]["table"])
    assert_same(state_of(learner), before)
    assert not inner.store.touched and not learner.store.touched


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("name", ["table", "sigma.0", "color.0"])
@pytest.mark.parametrize("value", [INF, NAN])
def test_a_broken_weight_rejects_the_step_and_closes_no_cell(
    backend: BackendName, name: str, value: float
) -> None:
    scene, learner = trained(backend)
    scene.experts[0][name].fill_(value)
    before = [("cells", torch.from_numpy(a.copy())) for a in scene.occupancy.state()]
    for _ in range(9):
        assert math.isnan(learner.step(batch_of(0.5), Rates())[0])
    after = [("cells", torch.from_numpy(a)) for a in scene.occupancy.state()]
    assert_same(after, before)


def test_a_rejected_outer_step_teaches_no_inner_rates() -> None:
    scene, learner = trained()
    factors = InnerRates(2, scene.architecture.layout)
    values = iter([(0.5, 0.5)] * 3 + [(0.5, INF)] + [(0.5, 0.5)] * 4)
    stepper = FomamlStepper(learner, Episodes(lambda: next(values)), SETTINGS, factors)
    assert math.isnan(stepper.step(Rates(), 1.0).mse)
    assert (factors.logs == 0.0).all()
    assert math.isfinite(stepper.step(Rates(), 1.0).mse)
    assert (factors.logs != 0.0).any()


def test_reptile_moves_no_expert_when_another_is_broken() -> None:
    _, learner = trained()
    before = state_of(learner)
    values = iter([0.5] * 4 + [INF] * 4)  # expert 0 is well, expert 1 is not
    stepper = ReptileStepper(learner, Episodes(lambda: (next(values), 0.5)), SETTINGS)
    assert math.isnan(stepper.step(Rates(), 1.0).mse)
    assert_same(state_of(learner), before)
