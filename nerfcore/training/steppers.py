"""The first-order ways to take a training step: joint, FOMAML and Reptile.

FOMAML (Finn et al. 2017, first-order): for each expert and task, adapt a copy of the expert on the
support rays, and apply the query rays' gradient *at the copy* to the expert.
Reptile (Nichol et al. 2018): adapt copies, one step on each of `inner_iter` batches of a task, and
move the expert by a share of the way to the copies' mean: theta += step * mean(phi - theta).
Tasks are ground cells. The inner loop adapts what test time adapts, as test time does: an expert
and the background behind it, which belongs to the tasks of all experts.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nerfcore.encoding.splats import Splats
from nerfcore.field.parameters import zeros_like
from nerfcore.training.episodes import Episode, EpisodeSampler
from nerfcore.training.inner_loop import InnerLoop
from nerfcore.training.inner_rates import InnerRates, rate_gradient
from nerfcore.training.learner import Learner, Rates
from nerfcore.training.pixels import PixelSampler
from nerfcore.training.settings import TrainSettings


@dataclass(frozen=True)
class StepReport:
    """One outer step: mean squared error (NaN if rejected), rays traced, samples shaded."""

    mse: float
    rays: int
    samples: int


def reported_error(errors: list[float], *, applied: bool) -> float:
    """The mean of the tasks' errors; NaN where the step was rejected."""
    return float(np.mean(errors)) if applied else float("nan")


class Stepper(Protocol):
    """Takes outer steps of a training run.

    Attributes:
        factors: learned inner rates, None where there are none.
    """

    factors: InnerRates | None

    def step(self, rates: Rates, decay: float) -> StepReport:
        """Take one step with these outer rates; `decay` falls from 1 over the run as they do."""
        ...


class JointStepper:
    """All experts on random rays of all images."""

    factors: InnerRates | None = None

    def __init__(self, learner: Learner, pixels: PixelSampler, settings: TrainSettings) -> None:
        self.learner = learner
        self.pixels = pixels
        self.rays = settings.batch_rays

    def step(self, rates: Rates, decay: float) -> StepReport:
        mse, samples = self.learner.step(self.pixels.draw(self.rays), rates)
        return StepReport(mse, self.rays, samples)


class FomamlStepper:
    """First-order meta-learning over ground cells."""

    def __init__(
        self,
        learner: Learner,
        episodes: EpisodeSampler,
        settings: TrainSettings,
        factors: InnerRates | None = None,
    ) -> None:
        self.learner = learner
        self.episodes = episodes
        self.settings = settings
        self.factors = factors
        self.inner = InnerLoop(learner, settings, factors)
        self._learned: list[tuple[int, NDArray[np.float64]]] = []

    def step(self, rates: Rates, decay: float) -> StepReport:
        s, learner = self.settings, self.learner
        errors, rays, samples = [], 0, 0
        self._learned.clear()
        for expert in self.episodes.experts:
            for _ in range(s.tasks):
                episode = self.episodes.draw(expert, s.support_rays, s.query_rays)
                rays += s.inner_steps * len(episode.support) + len(episode.query)
                error, shaded = self.inner.adapt(expert, [episode.support] * s.inner_steps)
                samples += shaded
                if np.isfinite(error):
                    error, shaded = self._query(episode)
                    samples += shaded
                errors.append(error)
        applied = learner.apply_or_reject(errors, rates)
        if self.factors is not None and applied:
            self.factors.learn_all(self._learned)
        return StepReport(reported_error(errors, applied=applied), rays, samples)

    def _query(self, episode: Episode) -> tuple[float, int]:
        """Add the query's gradient at the adapted copy to the learner's store."""
        inner, expert, store = self.inner, episode.expert, self.learner.store
        if self.factors is None:
            return self.learner.gradient(episode.query, inner.at_copy(expert, store))
        mse, shaded = self.learner.gradient(episode.query, inner.at_copy(expert, inner.store))
        if np.isfinite(mse):
            splats = inner.store.table(expert)
            found = rate_gradient(self.factors, inner.moved(expert), inner.store.of(expert), splats)
            self._learned.append((expert, found))
            self._hand_over(expert, splats)
        inner.store.clear()
        return mse, shaded

    def _hand_over(self, expert: int, splats: Splats | None) -> None:
        """Add what the inner store gathered to the learner's store."""
        source, sink = self.inner.store, self.learner.store.sink()
        for name, value in source.of(expert).items():
            sink.experts[expert][name].add_(value)
        for name, value in source.background.items():
            self.learner.store.background[name].add_(value)
        if splats is not None:
            sink.splats.setdefault(expert, []).append(splats)
        self.learner.store.touched.add(expert)


class ReptileStepper:
    """Reptile over ground cells."""

    factors: InnerRates | None = None

    def __init__(self, learner: Learner, episodes: EpisodeSampler, settings: TrainSettings) -> None:
        self.learner = learner
        self.episodes = episodes
        self.settings = settings
        self.inner = InnerLoop(learner, settings, None)
        self._sums = {k: zeros_like(learner.scene.experts[k]) for k in episodes.experts}
        self._behind = zeros_like(learner.scene.background)

    def step(self, rates: Rates, decay: float) -> StepReport:
        s, errors, rays, samples = self.settings, [], 0, 0
        gathered = [*self._sums.values(), self._behind]
        for value in (value for one in gathered for value in one.values()):
            value.zero_()
        for expert in self.episodes.experts:
            sums = self._sums[expert] | self._behind
            for _ in range(s.tasks):
                batches = self.episodes.draw_batches(expert, s.inner_steps, s.support_rays)
                mse, shaded = self.inner.adapt(expert, batches)
                for name, value in self.inner.moved(expert).items():
                    sums[name].add_(value)
                errors.append(mse)
                rays += sum(len(batch) for batch in batches)
                samples += shaded
        ends = [float(value.sum()) for one in gathered for value in one.values()]
        # no gradient was left in the store: what is applied or rejected is the way to the copies
        applied = self.learner.apply_or_reject([*errors, *ends], rates)
        if applied:
            self._move(s.reptile_step * decay / s.tasks)
        return StepReport(reported_error(errors, applied=applied), rays, samples)

    def _move(self, share: float) -> None:
        """Go a share of the way; the background's is the mean over the tasks of all experts."""
        scene = self.learner.scene
        moves = [(scene.experts[k], sums, share) for k, sums in self._sums.items()]
        moves.append((scene.background, self._behind, share / len(self._sums)))
        for parameters, sums, part in moves:
            for name, value in parameters.items():
                value.add_(sums[name], alpha=part)
