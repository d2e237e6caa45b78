"""Owns the inner loop: a copy of one expert, adapted to a task as test time adapts the model.

The copy and one of the background take Adam steps; `inner_lr` is the table's rate, the other rates
keep their ratio to it, and what `adapt` leaves out stays. Learned inner rates multiply the expert's
steps by groups.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from nerfcore.field.parameters import Parameters, zeros_like
from nerfcore.training.adam import Adam, Update, update_all
from nerfcore.training.gradients import GradientStore
from nerfcore.training.inner_rates import InnerRates
from nerfcore.training.learner import FastWeights, Learner, Rates
from nerfcore.training.parts import rates_of_part
from nerfcore.training.pixels import RayBatch
from nerfcore.training.settings import TrainSettings


class InnerLoop:
    """Adapts copies of experts, one at a time.

    Attributes:
        fast: the adapted copy; background: the background's, adapted with it.
        factors: learned inner rates, or None.
        store: the gradient of both, between steps.
    """

    def __init__(
        self, learner: Learner, settings: TrainSettings, factors: InnerRates | None
    ) -> None:
        scene = learner.scene
        self.learner = learner
        self.factors = factors
        self.fast: Parameters = zeros_like(scene.experts[0])
        self.background: Parameters = zeros_like(scene.background)
        self.store = learner.new_store()
        self._adam, self._background_adam = Adam(), Adam()
        scaled = settings.rates.scaled(settings.inner_lr / settings.rates.encoding)
        self._rates = rates_of_part(scaled, settings.adapt)

    def adapt(self, expert: int, batches: Sequence[RayBatch]) -> tuple[float, int]:
        """Make `fast` and `background` the expert and background adapted by one step a batch.

        Args:
            expert: which.
            batches: rays of each step.

        Returns:
            The last step's mean squared error before it, and the samples shaded. The error is NaN
            where a step's error or gradient was not finite: the copies are then as before it.
        """
        self._start_at(expert)
        weights, samples, mse = self.at_copy(expert, self.store), 0, float("nan")
        for batch in batches:
            mse, shaded = self.learner.gradient(batch, weights)
            samples += shaded
            if not (math.isfinite(mse) and self.store.finite()):
                self.store.clear()
                return float("nan"), samples
            self._descend(expert)
            self.store.clear()
        return mse, samples

    def at_copy(self, expert: int, store: GradientStore) -> FastWeights:
        """Make a gradient be taken at the copies, and go to a store."""
        return FastWeights(expert, self.fast, store, self.background)

    def moved(self, expert: int) -> Parameters:
        """How far the copies are from the expert and the background, by name."""
        scene = self.learner.scene
        copies = self.fast | self.background
        now = scene.experts[expert] | scene.background
        return {name: copies[name] - value for name, value in now.items()}

    def _start_at(self, expert: int) -> None:
        scene = self.learner.scene
        for copies, now in (
            (self.fast, scene.experts[expert]),
            (self.background, scene.background),
        ):
            for name, value in now.items():
                copies[name].copy_(value)
        self._adam.reset()
        self._background_adam.reset()

    def _descend(self, expert: int) -> None:
        before, store = self._table_before(), self.store
        rates = self._rates_of(expert).by_name()
        own = Update(self._adam, self.fast, store.of(expert), rates, store.table(expert))
        behind = Update(self._background_adam, self.background, store.background, rates)
        update_all([own, behind], self.learner.descent)
        if before is not None and self.factors is not None:
            self.factors.scale_table(expert, before, self.fast["table"])

    def _table_before(self) -> Tensor | None:
        if self.factors is None or "table" not in self.fast:
            return None
        return self.fast["table"].clone()

    def _rates_of(self, expert: int) -> Rates:
        if self.factors is None:
            return self._rates
        own, r = self.factors.mlp_factors(expert), self._rates
        return Rates(r.encoding, r.sigma * own["sigma"], r.color * own["color"], r.background)
