"""The two ways to take a training step: joint, and first-order meta-learning (FOMAML).

FOMAML (Finn et al. 2017, first-order): for each expert and task, copy the expert, adapt the copy on
the support rays, and apply the query rays' gradient *at the copy* to the expert. The inner loop
adapts what test time adapts (table and MLPs) with the optimiser test time uses (Adam): `inner_lr`
is the table's rate, the MLPs' rates keep their ratio to it.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nerfcore.field.parameters import Parameters, zeros_like
from nerfcore.training.adam import Adam
from nerfcore.training.episodes import EpisodeSampler
from nerfcore.training.learner import FastWeights, Learner, Rates
from nerfcore.training.pixels import PixelSampler, RayBatch
from nerfcore.training.settings import TrainSettings


@dataclass(frozen=True)
class StepReport:
    """One outer step: mean squared error (NaN if rejected), rays traced, samples shaded."""

    mse: float
    rays: int
    samples: int


class Stepper(Protocol):
    """Takes outer steps of a training run."""

    def step(self, rates: Rates) -> StepReport:
        """Take one step with these outer rates."""
        ...


class JointStepper:
    """All experts on random rays of all images."""

    def __init__(self, learner: Learner, pixels: PixelSampler, settings: TrainSettings) -> None:
        self.learner = learner
        self.pixels = pixels
        self.rays = settings.batch_rays

    def step(self, rates: Rates) -> StepReport:
        mse, samples = self.learner.step(self.pixels.draw(self.rays), rates)
        return StepReport(mse, self.rays, samples)


class FomamlStepper:
    """First-order meta-learning over ground cells."""

    def __init__(self, learner: Learner, episodes: EpisodeSampler, settings: TrainSettings) -> None:
        self.learner = learner
        self.episodes = episodes
        self.settings = settings
        like = learner.scene.experts[0]
        self.fast: Parameters = zeros_like(like)
        self.inner_store = learner.new_store()
        self.inner_adam = Adam()
        self.inner_rates = settings.rates.scaled(settings.inner_lr / settings.rates.encoding)

    def step(self, rates: Rates) -> StepReport:
        s, learner = self.settings, self.learner
        errors, rays, samples = [], 0, 0
        for expert in self.episodes.experts:
            for _ in range(s.tasks):
                episode = self.episodes.draw(expert, s.support_rays, s.query_rays)
                rays += s.inner_steps * len(episode.support) + len(episode.query)
                samples += self._adapt(episode.expert, episode.support)
                at_copy = FastWeights(expert, self.fast, learner.store, with_background=True)
                mse, shaded = learner.gradient(episode.query, at_copy)
                errors.append(mse)
                samples += shaded
        learner.apply_or_reject(errors, rates)
        return StepReport(float(np.mean(errors)), rays, samples)

    def _adapt(self, expert: int, support: RayBatch) -> int:
        """Make `self.fast` the expert adapted to the support rays; return samples shaded."""
        for name, value in self.learner.scene.experts[expert].items():
            self.fast[name].copy_(value)
        self.inner_adam.reset()
        weights = FastWeights(expert, self.fast, self.inner_store)
        samples = 0
        for _ in range(self.settings.inner_steps):
            _, shaded = self.learner.gradient(support, weights)
            self.learner.descend(
                self.inner_adam, self.fast, self.inner_store, expert, self.inner_rates
            )
            self.inner_store.clear()
            samples += shaded
        return samples
