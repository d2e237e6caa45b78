"""Owns the inner loop: a copy of one expert, adapted to a task as test time adapts the model.

The copy takes Adam steps; `inner_lr` is the table's rate, the MLPs' rates keep their ratio to it,
and what `adapt` leaves out stays. Learned inner rates multiply the steps by groups.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from nerfcore.field.parameters import Parameters, zeros_like
from nerfcore.training.adam import Adam
from nerfcore.training.inner_rates import InnerRates
from nerfcore.training.learner import FastWeights, Learner, Rates
from nerfcore.training.parts import rates_of_part
from nerfcore.training.pixels import RayBatch
from nerfcore.training.settings import TrainSettings


class InnerLoop:
    """Adapts copies of experts, one at a time.

    Attributes:
        fast: the adapted copy.
        factors: learned inner rates, or None.
        background: whether gradients to the background gather in the learner's store.
    """

    def __init__(
        self, learner: Learner, settings: TrainSettings, factors: InnerRates | None
    ) -> None:
        scene = learner.scene
        self.learner = learner
        self.factors = factors
        self.fast: Parameters = zeros_like(scene.experts[0])
        self.store = learner.new_store()
        self._adam = Adam()
        scaled = settings.rates.scaled(settings.inner_lr / settings.rates.encoding)
        self._rates = rates_of_part(scaled, settings.adapt)

    def adapt(
        self, expert: int, batches: Sequence[RayBatch], *, with_background: bool = False
    ) -> tuple[float, int]:
        """Make `fast` the expert adapted by one step a batch.

        Args:
            expert: which.
            batches: rays of each step.
            with_background: gather the background's gradients in the learner's store.

        Returns:
            The last step's mean squared error before it, and the samples shaded. The error is NaN
            where a step's error or gradient was not finite: `fast` is then as before that step.
        """
        learner = self.learner
        for name, value in learner.scene.experts[expert].items():
            self.fast[name].copy_(value)
        self._adam.reset()
        weights = FastWeights(expert, self.fast, self.store, with_background=with_background)
        samples, mse = 0, float("nan")
        for batch in batches:
            mse, shaded = learner.gradient(batch, weights)
            samples += shaded
            if not (math.isfinite(mse) and self.store.finite()):
                self.store.clear()
                return float("nan"), samples
            if with_background:
                for name, value in learner.store.background.items():
                    value.add_(self.store.background[name])
            self._descend(expert)
            self.store.clear()
        return mse, samples

    def moved(self, expert: int) -> Parameters:
        """How far the copy is from the expert, by name."""
        return {
            name: self.fast[name] - value
            for name, value in self.learner.scene.experts[expert].items()
        }

    def _descend(self, expert: int) -> None:
        before = self._table_before()
        rates = self._rates_of(expert)
        self.learner.descend(self._adam, self.fast, self.store, expert, rates)
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
