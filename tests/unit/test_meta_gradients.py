"""Meta-learning against its definitions: finite differences, Reptile by hand, learned rates."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from engine_scenes import rays_into, tiny_scene

from nerfcore.encoding.grids import TorchGrid
from nerfcore.field.parameters import Parameters
from nerfcore.scene import SceneModel
from nerfcore.training.episodes import Episode
from nerfcore.training.inner_loop import InnerLoop
from nerfcore.training.inner_rates import InnerRates, rate_gradient
from nerfcore.training.learner import Learner, Rates
from nerfcore.training.pixels import RayBatch
from nerfcore.training.second_order import GroupRates, MamlStepper, TaskLoss, adapted
from nerfcore.training.settings import TrainSettings
from nerfcore.training.steppers import FomamlStepper, ReptileStepper

DOUBLE = torch.float64
STEP = 1e-6


def batch(count: int, seed: int) -> RayBatch:
    """Rays into the tiny scene with random colours."""
    origins, directions = rays_into(count, seed)
    colours = np.random.default_rng(seed).random((count, 3), dtype=np.float32)
    return RayBatch(origins, directions, colours, np.zeros(count, np.int64))


class Tasks:
    """Hands out the same episode again and again."""

    experts: tuple[int, ...] = (0,)

    def __init__(self, support: RayBatch, query: RayBatch) -> None:
        self.support, self.query = support, query

    def draw(self, expert: int, support_rays: int, query_rays: int) -> Episode:
        return Episode(expert, self.support, self.query)

    def draw_batches(self, expert: int, count: int, rays: int) -> list[RayBatch]:
        return [self.support] * count


class Field:
    """A tiny task in float64 with the plain PyTorch grid."""

    def __init__(self) -> None:
        self.scene: SceneModel = tiny_scene(table_scale=3e3)
        layout = self.scene.architecture.layout
        assert layout is not None
        self.level_rows = np.diff(layout.offsets).tolist()
        grid = TorchGrid(layout)
        half = np.full(24, 0.5, np.float32)
        self.support, self.query = (
            TaskLoss(self.scene, 0, batch(24, seed), half, grid, DOUBLE) for seed in (1, 2)
        )
        self.first = doubled(whole(self.scene))
        self.rates: GroupRates = {
            "table": torch.full((len(self.level_rows),), 2.0, dtype=DOUBLE),
            "sigma": torch.tensor(0.3, dtype=DOUBLE),
            "color": torch.tensor(0.2, dtype=DOUBLE),
            "bg": torch.tensor(0.1, dtype=DOUBLE),
        }

    def query_after(self, first: Parameters, rates: GroupRates, steps: int) -> torch.Tensor:
        """The query's loss after the inner loop."""
        with torch.enable_grad():
            leaves = {
                n: v if v.requires_grad else v.detach().requires_grad_() for n, v in first.items()
            }
            fast = adapted(leaves, self.support, rates, steps, self.level_rows)
            return self.query(fast)


def whole(scene: SceneModel) -> Parameters:
    """Copies of what one task adapts: expert 0 and the background."""
    return {n: v.clone() for n, v in (scene.experts[0] | scene.background).items()}


def doubled(parameters: Parameters) -> Parameters:
    """Copies in float64."""
    return {n: v.to(DOUBLE) for n, v in parameters.items()}


def slope(loss: Callable[[float], float]) -> float:
    """Central difference at 0."""
    return (loss(STEP) - loss(-STEP)) / (2 * STEP)


@pytest.mark.parametrize("steps", [1, 3])
def test_second_order_meta_gradient_is_the_slope_of_the_adapted_loss(steps: int) -> None:
    """Along random directions of every parameter, and for every group's rate."""
    field = Field()
    first = {n: v.clone().requires_grad_() for n, v in field.first.items()}
    rates = {n: v.clone().requires_grad_() for n, v in field.rates.items()}
    with torch.enable_grad():
        loss = field.query_after(first, rates, steps)
        found = torch.autograd.grad(loss, [*first.values(), *rates.values()])
    generator = torch.Generator().manual_seed(0)
    for i, name in enumerate(first):
        along = torch.randn(first[name].shape, generator=generator, dtype=DOUBLE)
        along *= (found[i] != 0) | (torch.rand(along.shape, generator=generator) < 0.1)

        def moved(t: float, name: str = name, along: torch.Tensor = along) -> float:
            shifted = field.first | {name: field.first[name] + t * along}
            return float(field.query_after(shifted, field.rates, steps).detach())

        assert float((found[i] * along).sum()) == pytest.approx(slope(moved), rel=1e-4, abs=1e-9)
    for i, name in enumerate(rates):

        def faster(t: float, name: str = name) -> float:
            return float(
                field.query_after(
                    field.first, field.rates | {name: field.rates[name] + t}, steps
                ).detach()
            )

        total = float(found[len(first) + i].sum())
        assert total == pytest.approx(slope(faster), rel=1e-4, abs=1e-9)


def test_second_order_differs_from_first_order() -> None:
    """Else the test above could not tell them apart."""
    field = Field()
    first = {n: v.clone().requires_grad_() for n, v in field.first.items()}
    with torch.enable_grad():
        fast = adapted(first, field.support, field.rates, 3, field.level_rows)
        loss = field.query(fast)
        names = ("sigma.0", "bg.0")
        through = torch.autograd.grad(loss, [first[n] for n in names], retain_graph=True)
        at_copy = torch.autograd.grad(loss, [fast[n] for n in names])
    for a, b in zip(through, at_copy, strict=True):
        assert not torch.allclose(a, b, rtol=1e-2)


def test_first_order_meta_gradient_is_the_querys_slope_at_the_copy() -> None:
    """FOMAML's gradient (float32 kernels) against differences of the float64 oracle."""
    scene = tiny_scene(table_scale=3e3)
    learner = Learner(scene, np.random.default_rng(0))
    learner.jitter = lambda count: np.full(count, 0.5, np.float32)  # type: ignore[method-assign]
    settings = TrainSettings(tasks=1, inner_steps=3, inner_lr=0.01)
    inner = InnerLoop(learner, settings, None)
    inner.adapt(0, [batch(24, 1)] * 3)
    learner.gradient(batch(24, 2), inner.at_copy(0, learner.store))
    layout = scene.architecture.layout
    assert layout is not None
    half = np.full(24, 0.5, np.float32)
    oracle = TaskLoss(scene, 0, batch(24, 2), half, TorchGrid(layout), DOUBLE)
    copy = doubled(inner.fast | inner.background)
    gradients = learner.store.of(0) | learner.store.background
    for name in ("sigma.0", "sigma.2", "color.0", "color.2", "bg.0", "bg.1"):
        along = torch.randn(copy[name].shape, generator=torch.Generator().manual_seed(0)).to(DOUBLE)
        expected = slope(lambda t, n=name, a=along: float(oracle(copy | {n: copy[n] + t * a})))
        found = float((gradients[name].double() * along).sum())
        assert found == pytest.approx(expected, rel=2e-3, abs=2e-6)


@pytest.mark.parametrize("learns_rates", [False, True])
def test_a_fomaml_step_applies_the_querys_gradient_at_the_copy(learns_rates: bool) -> None:
    """The whole stepper against torch.optim on the support and autograd on the query, in float64.

    Neither the support's gradient nor one at the expert itself would pass.
    """
    scene = tiny_scene(table_scale=3e3)
    layout = scene.architecture.layout
    assert layout is not None
    start = whole(scene)
    learner = Learner(scene, np.random.default_rng(0))
    learner.jitter = lambda count: np.full(count, 0.5, np.float32)  # type: ignore[method-assign]
    applied: list[Parameters] = []
    learner.apply = lambda rates: applied.append(gathered(learner))  # type: ignore[method-assign]
    brisk = Rates(background=0.05)  # else it moves too little to tell the copy from the start
    settings = TrainSettings(tasks=1, inner_steps=3, inner_lr=0.01, rates=brisk)
    factors = InnerRates(1, layout) if learns_rates else None
    tasks = Tasks(batch(48, 1), batch(48, 2))
    FomamlStepper(learner, tasks, settings, factors).step(Rates(), decay=1.0)  # type: ignore[arg-type]
    rates = settings.rates.scaled(settings.inner_lr / settings.rates.encoding).by_name()
    wanted = task_gradient(scene, 2, adam_oracle(start, rates))
    others = [task_gradient(scene, 2, start), task_gradient(scene, 1, adam_oracle(start, rates))]
    for name, gradient in wanted.items():
        size = float(gradient.norm())
        assert float((applied[0][name] - gradient).norm()) < 0.05 * size, name
        assert all(float((other[name] - gradient).norm()) > 0.1 * size for other in others), name


def gathered(learner: Learner) -> Parameters:
    """The gradient of expert 0 and background that a learner will apply, the table's dense."""
    layout, splats = learner.scene.architecture.layout, learner.store.table(0)
    assert layout is not None and splats is not None
    table = torch.zeros_like(learner.scene.experts[0]["table"])
    points = torch.from_numpy(np.ascontiguousarray(splats.positions.T))
    TorchGrid(layout).add_table_gradient(points, torch.from_numpy(splats.d_features.T), table)
    small = learner.store.of(0) | learner.store.background
    return {n: v.clone() for n, v in small.items()} | {"table": table}


def task_gradient(scene: SceneModel, seed: int, at: Parameters) -> Parameters:
    """The gradient of a batch's loss at some parameters, by autograd in float64."""
    layout = scene.architecture.layout
    assert layout is not None
    half = np.full(48, 0.5, np.float32)
    leaves = {n: v.to(DOUBLE).requires_grad_() for n, v in at.items()}
    with torch.enable_grad():
        loss = TaskLoss(scene, 0, batch(48, seed), half, TorchGrid(layout), DOUBLE)(leaves)
        found = torch.autograd.grad(loss, list(leaves.values()))
    return {n: g.float() for n, g in zip(leaves, found, strict=True)}


def test_reptile_moves_a_share_of_the_way_to_the_mean_of_the_copies() -> None:
    """theta + step * mean(phi - theta), phi from Adam steps by torch.optim on the same batches."""
    scene = tiny_scene(table_scale=3e3)
    start = whole(scene)
    learner = Learner(scene, np.random.default_rng(0))
    learner.jitter = lambda count: np.full(count, 0.5, np.float32)  # type: ignore[method-assign]
    settings = TrainSettings(tasks=2, inner_steps=3, inner_lr=0.01, reptile_step=0.5)
    tasks = Tasks(batch(48, 1), batch(48, 2))
    ReptileStepper(learner, tasks, settings).step(Rates(), decay=0.5)  # type: ignore[arg-type]
    rates = settings.rates.scaled(settings.inner_lr / settings.rates.encoding).by_name()
    phi = adam_oracle(start, rates)
    for name, value in whole(scene).items():
        expected = 0.25 * (phi[name] - start[name])
        # Adam follows the sign of the faintest gradients, where float32 may err;
        # an entry whose gradient is exactly zero stays, where torch lets its momentum coast
        assert float((value - start[name] - expected).norm()) < 0.05 * float(expected.norm()), name


def test_the_background_goes_to_the_mean_of_all_experts_copies() -> None:
    """It is shared: with two experts on the same task it moves no further than with one."""
    moved = []
    for experts in ((0,), (0, 1)):
        scene = tiny_scene(1, 2, margin=1.5)
        before = {n: v.clone() for n, v in scene.background.items()}
        learner = Learner(scene, np.random.default_rng(0))
        learner.jitter = lambda count: np.full(count, 0.5, np.float32)  # type: ignore[method-assign]
        tasks = Tasks(batch(48, 1), batch(48, 2))
        tasks.experts = experts
        settings = TrainSettings(tasks=1, inner_steps=1, inner_lr=0.01, reptile_step=0.5)
        ReptileStepper(learner, tasks, settings).step(Rates(), 1.0)  # type: ignore[arg-type]
        moved.append({n: v - before[n] for n, v in scene.background.items()})
    for name, once in moved[0].items():
        assert once.any() and torch.allclose(moved[1][name], once, rtol=1e-3, atol=1e-7), name


def adam_oracle(start: Parameters, rates: dict[str, float]) -> Parameters:
    """Three steps of torch.optim.Adam on the task's rays, in float64."""
    scene = tiny_scene(table_scale=3e3)
    layout = scene.architecture.layout
    assert layout is not None
    half = np.full(48, 0.5, np.float32)
    leaves = {n: v.to(DOUBLE).requires_grad_() for n, v in start.items()}
    groups = [{"params": [v], "lr": rates[n.split(".")[0]]} for n, v in leaves.items()]
    optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)
    loss = TaskLoss(scene, 0, batch(48, 1), half, TorchGrid(layout), DOUBLE)
    for _ in range(3):
        optimiser.zero_grad()
        with torch.enable_grad():
            loss(leaves).backward()
        optimiser.step()
    return {n: v.detach().float() for n, v in leaves.items()}


def test_learned_rates_follow_the_querys_slope_along_what_moved() -> None:
    """dL/d(log m) by groups, against the product of dense gradients and displacements."""
    scene = tiny_scene(table_scale=3e3)
    layout = scene.architecture.layout
    assert layout is not None
    learner = Learner(scene, np.random.default_rng(0))
    factors = InnerRates(1, layout)
    inner = InnerLoop(learner, TrainSettings(inner_steps=2, inner_lr=0.01), factors)
    inner.adapt(0, [batch(48, 1)] * 2)
    learner.gradient(batch(48, 2), inner.at_copy(0, inner.store))
    splats, gradient, moved = inner.store.table(0), inner.store.of(0), inner.moved(0)
    assert splats is not None
    found = rate_gradient(factors, moved, gradient, splats)
    dense = torch.zeros_like(inner.fast["table"])
    points = torch.from_numpy(np.ascontiguousarray(splats.positions.T))
    TorchGrid(layout).add_table_gradient(points, torch.from_numpy(splats.d_features.T), dense)
    other = rate_gradient(factors, moved, {**gradient, "table": dense}, None)
    assert found == pytest.approx(other, rel=1e-3, abs=1e-7)
    assert np.abs(found).min() > 0


def test_a_factor_scales_its_levels_step_alone() -> None:
    scene = tiny_scene(table_scale=3e3)
    layout = scene.architecture.layout
    learner = Learner(scene, np.random.default_rng(0))
    learner.jitter = lambda count: np.full(count, 0.5, np.float32)  # type: ignore[method-assign]
    moved = []
    for logs in (0.0, np.log(0.5)):
        factors = InnerRates(1, layout)
        factors.logs[0, 1] = logs
        inner = InnerLoop(learner, TrainSettings(inner_lr=0.01), factors)
        inner.adapt(0, [batch(48, 1)])
        moved.append(inner.moved(0))
    assert layout is not None
    second = slice(int(layout.offsets[1]), int(layout.offsets[2]))
    whole, half = moved[0]["table"], moved[1]["table"]
    assert torch.allclose(half[second], 0.5 * whole[second], atol=1e-6)
    assert torch.equal(half[: second.start], whole[: second.start])
    assert torch.equal(moved[0]["sigma.0"], moved[1]["sigma.0"])


@pytest.mark.parametrize("kind", ["fomaml", "learned", "maml", "reptile"])
def test_meta_steps_lower_the_adapted_loss(kind: str) -> None:
    scene = tiny_scene(table_scale=100.0)
    learner = Learner(scene, np.random.default_rng(0))
    settings = TrainSettings(tasks=1, inner_steps=2, inner_lr=0.01)
    tasks = Tasks(batch(48, 1), batch(48, 1))
    layout = scene.architecture.layout
    stepper = {
        "fomaml": lambda: FomamlStepper(learner, tasks, settings),  # type: ignore[arg-type]
        "learned": lambda: FomamlStepper(learner, tasks, settings, InnerRates(1, layout)),  # type: ignore[arg-type]
        "maml": lambda: MamlStepper(learner, tasks, settings, InnerRates(1, layout)),  # type: ignore[arg-type]
        "reptile": lambda: ReptileStepper(learner, tasks, settings),  # type: ignore[arg-type]
    }[kind]()
    reports = [stepper.step(Rates(), 1.0) for _ in range(12)]
    assert reports[-1].mse < reports[0].mse
    expected = 2 * 48 if kind == "reptile" else 3 * 48
    assert reports[0].rays == expected
    assert (stepper.factors is not None) == (kind in ("learned", "maml"))


def test_what_the_inner_loop_may_not_change_stays() -> None:
    scene = tiny_scene(table_scale=3e3)
    learner = Learner(scene, np.random.default_rng(0))
    before = whole(scene)
    for part, stays in (("features", "sigma.0"), ("mlps", "table")):
        inner = InnerLoop(learner, TrainSettings(adapt=part, inner_lr=0.01), None)  # type: ignore[arg-type]
        inner.adapt(0, [batch(48, 1)] * 2)
        moved = inner.moved(0)
        assert not moved[stays].any()
        assert moved["table" if stays == "sigma.0" else "sigma.0"].any()
        assert moved["bg.0"].any() == (part == "mlps")
        assert all(torch.equal(now, before[n]) for n, now in whole(scene).items())
