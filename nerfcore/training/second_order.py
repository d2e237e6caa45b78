"""Second-order meta-learning (MAML, Finn et al. 2017): the gradient through the inner loop.

The inner loop is plain gradient descent, theta_{t+1} = theta_t - a_g dL_support/d(theta_t), with a
rate a_g a group (each level of the table, the density MLP, the colour MLP, the background's MLP);
the outer gradient is dL_query(theta_n)/d(theta_0), through all steps. It is computed in tensor
operations with a graph over every sample, so it is many times slower than the first-order ways and
meant for small tasks.

A plain gradient has no natural scale, so a group's rate is set once, at the first task of the
expert whose support gives the group gradient: such that the first step moves the entries that have
gradient by the wanted rate (root mean square), as Adam's first step would. Until then the group
stays in inner loops: a support may place no sample in the expert. The background's is set by the
colour MLP's gradient: a first task may see next to nothing of it. Learned factors (`inner_rates`)
multiply the expert's rates.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nerfcore.background import background_rgb
from nerfcore.colour import linear_to_srgb
from nerfcore.encoding.directions import frequencies, spherical_harmonics
from nerfcore.encoding.function import hash_encode
from nerfcore.encoding.grids import HashGrid, NumbaGrid, TorchGrid
from nerfcore.errors import SettingsError
from nerfcore.field import reference
from nerfcore.field.parameters import Parameters
from nerfcore.sampling.entries import group_by_expert, local_positions
from nerfcore.sampling.tensor_march import TensorSamples
from nerfcore.scene import SceneModel
from nerfcore.tracing.contract import Rays
from nerfcore.tracing.placing import place_samples
from nerfcore.tracing.tensor_composite import composite
from nerfcore.training.episodes import EpisodeSampler
from nerfcore.training.gradients import GradientStore
from nerfcore.training.inner_rates import MLPS, InnerRates
from nerfcore.training.learner import Learner, Rates
from nerfcore.training.parts import rates_of_part
from nerfcore.training.pixels import RayBatch
from nerfcore.training.settings import TrainSettings
from nerfcore.training.steppers import StepReport, reported_error

MOST_SAMPLES = 1 << 21
GroupRates = dict[str, Tensor]
"""By group: "table" f[L], "sigma" f[], "color" f[], "bg" f[]."""


class TaskLoss:
    """The loss of a ray batch as a differentiable function of one expert and the background.

    Samples are placed once, where the occupancy says; only colours and densities depend on the
    parameters. All tensors take the parameters' floating type.
    """

    def __init__(
        self,
        scene: SceneModel,
        expert: int,
        batch: RayBatch,
        jitter: np.ndarray,
        grid: HashGrid | None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Place the samples.

        Args:
            scene: the other experts are taken from it.
            expert: whose parameters vary.
            batch: rays and their colours; jitter: f32[R].
            grid: computes the encoding; None for "vanilla".
            dtype: of all that is computed.

        Raises:
            SettingsError: more samples than a graph should hold.
        """
        self.scene, self.expert, self.grid, self.dtype = scene, expert, grid, dtype
        rays = Rays(batch.origins, batch.directions, jitter)
        traced = scene.traced()
        found = place_samples(traced, rays)
        if found.count > MOST_SAMPLES:
            raise SettingsError(
                f"support_rays: {len(batch)} rays have {found.count} samples, a second-order step "
                f'holds at most {MOST_SAMPLES}; use fewer rays or algo "fomaml"'
            )
        entries = group_by_expert(found, len(scene.experts), None)
        self.groups: list[tuple[int, Tensor, Tensor, Tensor]] = []
        for k in np.flatnonzero(np.diff(entries.starts)):
            span = slice(int(entries.starts[k]), int(entries.starts[k + 1]))
            ids = entries.sample_ids[span]
            points = local_positions(found, ids, rays.origins, rays.directions, *traced.box(int(k)))
            positions = torch.from_numpy(np.ascontiguousarray(points.T)).to(dtype)
            weights = torch.from_numpy(entries.weights[span].copy()).to(dtype)
            self.groups.append((int(k), torch.from_numpy(ids), weights, positions))
        self.samples = TensorSamples(
            torch.from_numpy(found.ray_starts), torch.from_numpy(found.ray_ids).long(),
            torch.from_numpy(found.ts).to(dtype), torch.from_numpy(found.dts).to(dtype),
            torch.from_numpy(found.owners), torch.from_numpy(found.owner_weights),
        )  # fmt: skip
        self.deltas = self.samples.dts * scene.scale_m
        directions = torch.from_numpy(batch.directions)
        self.harmonics = spherical_harmonics(directions).to(dtype)
        self.truth = torch.from_numpy(batch.rgbs).to(dtype)

    def __call__(self, parameters: Parameters) -> Tensor:
        """Mean squared error in sRGB, with a graph to whatever requires one.

        Args:
            parameters: the expert's, and the background's, by name.
        """
        sigmas = torch.zeros_like(self.deltas)
        rgbs = sigmas.new_zeros(len(sigmas), 3)
        for k, ids, weights, positions in self.groups:
            own = parameters if k == self.expert else self._other(k)
            if self.grid is None:
                features = frequencies(positions)
            else:
                features = hash_encode(self.grid, positions, own["table"])
            harmonics = self.harmonics[self.samples.ray_ids[ids]]
            found = reference.field(own, features, harmonics)
            sigmas = sigmas.index_add(0, ids, weights * found[0])
            rgbs = rgbs.index_add(0, ids, weights[:, None] * found[1])
        rgb, opacity, _ = composite(self.samples, sigmas, rgbs, self.deltas)
        behind = {name: parameters[name] for name in self.scene.background}
        shown = self._shown(rgb, opacity, behind)
        return (shown - self.truth).square().mean()

    def _shown(self, rgb: Tensor, opacity: Tensor, background: Parameters) -> Tensor:
        """Rays' colours in sRGB, the background behind them."""
        behind = background_rgb(background, self.scene.settings, self.harmonics)
        shown = rgb + (1.0 - opacity)[:, None] * behind
        if self.scene.settings.colour_space == "linear":
            shown = linear_to_srgb(shown.clamp_min(0.0))
        return shown

    def _other(self, expert: int) -> Parameters:
        return {name: value.to(self.dtype) for name, value in self.scene.experts[expert].items()}


def descended(
    parameters: Parameters,
    gradients: Mapping[str, Tensor],
    rates: GroupRates,
    level_rows: Sequence[int],
) -> Parameters:
    """One step of gradient descent, out of place; what has no gradient stays.

    Args:
        rates: rate of each group.
        level_rows: rows of each level of the table.
    """
    out = dict(parameters)
    for name, gradient in gradients.items():
        rate = rates[name.split(".")[0]]
        if name == "table":
            counts = torch.tensor(level_rows, device=rate.device)
            rate = rate.repeat_interleave(counts)[:, None]
        out[name] = parameters[name] - rate * gradient
    return out


def gradients_of(
    loss: Tensor, parameters: Mapping[str, Tensor], *, create_graph: bool = False
) -> dict[str, Tensor]:
    """Gradients of a loss by name, without those of what it does not depend on.

    Args:
        loss: f[].
        parameters: leaves or results of a graph.
        create_graph: whether the gradients can be differentiated themselves.
    """
    if not parameters or not loss.requires_grad:
        return {}
    found = torch.autograd.grad(
        loss, list(parameters.values()), create_graph=create_graph, allow_unused=True
    )
    pairs = zip(parameters, found, strict=True)
    return {name: gradient for name, gradient in pairs if gradient is not None}


def adapted(
    parameters: Parameters,
    loss: TaskLoss,
    rates: GroupRates,
    steps: int,
    level_rows: Sequence[int],
) -> Parameters:
    """Parameters after `steps` steps on a task, with a graph to the first ones and the rates.

    What the task does not depend on stays.
    """
    names = [name for name in parameters if bool((rates[name.split(".")[0]] != 0).any())]
    fast = parameters
    for _ in range(steps):
        found = gradients_of(loss(fast), {name: fast[name] for name in names}, create_graph=True)
        fast = descended(fast, found, rates, level_rows)
    return fast


class MamlStepper:
    """Second-order meta-learning over ground cells."""

    def __init__(
        self,
        learner: Learner,
        episodes: EpisodeSampler,
        settings: TrainSettings,
        factors: InnerRates | None = None,
    ) -> None:
        scene = learner.scene
        if scene.device.type != "cpu":
            raise SettingsError('algo "maml": runs on the CPU only; use device "cpu" or "fomaml"')
        self.learner, self.episodes, self.settings = learner, episodes, settings
        self.factors = factors
        layout = scene.architecture.layout
        self.level_rows = np.diff(layout.offsets).tolist() if layout else []
        self.grid: HashGrid | None = None
        if layout is not None:
            torch_grid = settings.backend == "torch"
            self.grid = TorchGrid(layout) if torch_grid else NumbaGrid(layout)
        learner.store = GradientStore(scene.experts, scene.background, splats=False)
        scaled = settings.rates.scaled(settings.inner_lr / settings.rates.encoding)
        self._wanted = rates_of_part(scaled, settings.adapt).by_name()
        self._learned: list[tuple[int, NDArray[np.float64]]] = []
        self._scales: dict[int, dict[str, float]] = {}

    def step(self, rates: Rates, decay: float) -> StepReport:
        s, learner = self.settings, self.learner
        errors, rays, samples = [], 0, 0
        self._learned.clear()
        for expert in self.episodes.experts:
            for _ in range(s.tasks):
                episode = self.episodes.draw(expert, s.support_rays, s.query_rays)
                support, query = (
                    self._loss(expert, episode.support),
                    self._loss(expert, episode.query),
                )
                errors.append(self._learn(expert, support, query))
                rays += s.inner_steps * len(episode.support) + len(episode.query)
                samples += s.inner_steps * len(support.deltas) + len(query.deltas)
        applied = learner.apply_or_reject(errors, rates)
        if self.factors is not None and applied:
            self.factors.learn_all(self._learned)
        return StepReport(reported_error(errors, applied=applied), rays, samples)

    def _loss(self, expert: int, batch: RayBatch) -> TaskLoss:
        learner = self.learner
        return TaskLoss(learner.scene, expert, batch, learner.jitter(len(batch)), self.grid)

    def _learn(self, expert: int, support: TaskLoss, query: TaskLoss) -> float:
        """Add one task's meta-gradient to the learner's store; return the query's error."""
        scene, store = self.learner.scene, self.learner.store
        now = scene.experts[expert] | scene.background
        first = {n: v.detach().requires_grad_() for n, v in now.items()}
        self._calibrate(expert, support, first)
        logs = self._logs(expert)
        with torch.enable_grad():
            fast = adapted(
                first, support, self._rates(expert, logs), self.settings.inner_steps,
                self.level_rows,
            )  # fmt: skip
            error = query(fast)
            found = gradients_of(error, {**first, "logs": logs})
        mse = float(error.detach())
        if not np.isfinite(mse):
            return mse
        buffers = store.of(expert) | store.background
        for name in first.keys() & found.keys():
            buffers[name].add_(found[name])
        if scene.experts[expert].keys() & found.keys():
            store.touched.add(expert)
        if self.factors is not None and "logs" in found:
            self._learned.append((expert, found["logs"].double().numpy()))
        return mse

    def _logs(self, expert: int) -> Tensor:
        """Logarithms of the learned factors, f[L + 2]; zeros where none are learned."""
        count = len(self.level_rows) + len(MLPS)
        logs = np.zeros(count) if self.factors is None else self.factors.logs[expert]
        return torch.tensor(logs, dtype=torch.float32, requires_grad=True)

    def _rates(self, expert: int, logs: Tensor) -> GroupRates:
        levels, own = len(self.level_rows), self._scales[expert]
        factors = logs.exp()
        mlps = {name: factors[levels + i] * own.get(name, 0.0) for i, name in enumerate(MLPS)}
        behind = factors.new_tensor(own.get("bg", 0.0))
        return {"table": factors[:levels] * own.get("table", 0.0), **mlps, "bg": behind}

    def _calibrate(self, expert: int, support: TaskLoss, first: Parameters) -> None:
        """Set what is not set yet: rates with which a first step moves entries by the wanted ones.

        A group without gradient stays unset, for a later task to set.
        """
        scales = self._scales.setdefault(expert, {})
        own = {n: v for n, v in first.items() if not n.startswith("bg.")}
        if scales.keys() >= {name.split(".")[0] for name in own}:
            return
        with torch.enable_grad():
            found = gradients_of(support(first), own)
        squares: dict[str, list[Tensor]] = {}
        for name, gradient in found.items():
            moving = gradient[gradient != 0].double()
            squares.setdefault(name.split(".")[0], []).append(moving.square())
        sizes = {group: float(torch.cat(own).mean().sqrt()) for group, own in squares.items()}
        for group in {*sizes, "bg"} - scales.keys():
            size = sizes.get("color" if group == "bg" else group, 0.0)
            if 0.0 < size < np.inf:
                scales[group] = self._wanted[group] / size
