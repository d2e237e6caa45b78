"""Second-order meta-learning where a support or a query places no sample in the expert."""

from typing import Any

import numpy as np
import pytest
import torch
from engine_scenes import tiny_scene

from nerfcore.encoding.grids import TorchGrid
from nerfcore.field.parameters import Parameters
from nerfcore.scene import SceneModel
from nerfcore.training.episodes import Episode
from nerfcore.training.inner_rates import InnerRates
from nerfcore.training.learner import Learner, Rates
from nerfcore.training.pixels import RayBatch
from nerfcore.training.second_order import MamlStepper, TaskLoss, adapted, gradients_of
from nerfcore.training.settings import TrainSettings

RAYS = 32


def straight_down(low: float, high: float) -> RayBatch:
    """Vertical rays with axis 2 between two bounds: the scene's boxes lie between -1 and 1."""
    rng = np.random.default_rng(0)
    along = (rng.uniform(-0.9, 0.9, RAYS), rng.uniform(low, high, RAYS))
    origins = np.stack([np.full(RAYS, -2.0), *along], axis=1).astype(np.float32)
    directions = np.tile(np.array([1, 0, 0], np.float32), (RAYS, 1))
    colours = rng.random((RAYS, 3), dtype=np.float32)
    return RayBatch(origins, directions, colours, np.zeros(RAYS, np.int64))


HITS, OTHER_EXPERT, NOTHING = straight_down(-0.9, -0.5), (0.5, 0.9), (3.0, 4.0)


class Tasks:
    """Hands out given episodes of expert 0, one after the other."""

    experts = (0,)

    def __init__(self, *episodes: tuple[RayBatch, RayBatch]) -> None:
        self._left = [Episode(0, *episode) for episode in episodes]

    def draw(self, expert: int, support_rays: int, query_rays: int) -> Episode:
        return self._left.pop(0)


def two_experts(**model: Any) -> SceneModel:
    """Two experts beside each other on axis 2."""
    return tiny_scene(1, 2, table_scale=3e3, **model)


def expert_0(scene: SceneModel) -> Parameters:
    return {name: value.clone() for name, value in scene.experts[0].items()}


def maml(scene: SceneModel, *episodes: tuple[RayBatch, RayBatch]) -> MamlStepper:
    settings = TrainSettings(tasks=1, inner_steps=2, inner_lr=0.01)
    factors = InnerRates(2, scene.architecture.layout)
    learner = Learner(scene, np.random.default_rng(0))
    return MamlStepper(learner, Tasks(*episodes), settings, factors)  # type: ignore[arg-type]


@pytest.mark.parametrize("where", [OTHER_EXPERT, NOTHING])
def test_a_support_that_misses_the_expert_leaves_a_step_on_the_query(
    where: tuple[float, float],
) -> None:
    """The expert still learns from the query, and the inner rates, which moved nothing, do not."""
    scene = two_experts()
    before = expert_0(scene)
    stepper = maml(scene, (straight_down(*where), HITS))
    assert np.isfinite(stepper.step(Rates(), 1.0).mse)
    assert all((scene.experts[0][name] != value).any() for name, value in before.items())
    assert stepper.factors is not None and not stepper.factors.logs.any()


def test_a_query_that_misses_the_expert_moves_it_by_nothing() -> None:
    """Neither does a fixed background, on which a loss does not depend either."""
    scene = two_experts(use_background=False)
    before = expert_0(scene)
    nothing = straight_down(*NOTHING)
    stepper = maml(scene, (HITS, nothing), (nothing, nothing))
    for _ in range(2):
        assert np.isfinite(stepper.step(Rates(), 1.0).mse)
    assert all(torch.equal(scene.experts[0][name], value) for name, value in before.items())


def test_the_first_support_that_reaches_the_expert_sets_its_rates() -> None:
    """A miss before it leaves no rate of zero behind: the second step learns as a first would."""
    moved = []
    for misses in (0, 1):
        scene = two_experts()
        layout = scene.architecture.layout
        assert layout is not None
        episodes = [(straight_down(*NOTHING), straight_down(*NOTHING))] * misses
        stepper = maml(scene, *episodes, (HITS, HITS))
        stepper.learner.jitter = lambda count: np.full(count, 0.5, np.float32)  # type: ignore[method-assign]
        still = Rates(0.0, 0.0, 0.0, 0.0)  # the model stays, so both hits start alike
        for _ in range(misses + 1):
            stepper.step(still, 1.0)
        assert stepper.factors is not None
        moved.append(stepper.factors.logs[0].copy())
    assert moved[0].all() and moved[1] == pytest.approx(moved[0], abs=1e-6)


def test_steps_keep_what_their_task_does_not_depend_on() -> None:
    scene = two_experts()
    layout = scene.architecture.layout
    assert layout is not None
    half = np.full(RAYS, 0.5, np.float32)
    loss = TaskLoss(scene, 0, straight_down(*OTHER_EXPERT), half, TorchGrid(layout))
    now = scene.experts[0] | scene.background
    first = {name: value.clone().requires_grad_() for name, value in now.items()}
    rates = {name: torch.tensor(0.1) for name in ("sigma", "color", "bg")}
    rates["table"] = torch.full((layout.levels,), 0.1)
    with torch.enable_grad():
        fast = adapted(first, loss, rates, 2, np.diff(layout.offsets).tolist())
        assert gradients_of(loss(first), first).keys() == scene.background.keys()
    assert all(fast[name] is first[name] for name in scene.experts[0])
    assert all((fast[name] != first[name]).any() for name in scene.background)
