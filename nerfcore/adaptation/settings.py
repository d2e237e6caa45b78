"""Owns how to adapt."""

from dataclasses import dataclass, field

from nerfcore.errors import SettingsError
from nerfcore.training.inner_rates import InnerRates
from nerfcore.training.learner import Rates
from nerfcore.training.parts import Part

MOST_REPLAY = 0.9


@dataclass(frozen=True)
class AdaptSettings:
    """How to adapt.

    Attributes:
        rays: rays of a step, new and old together.
        replay: share of them that comes from old images, 0 to 0.9.
        rates: Adam's learning rates, constant.
        part: what may change: everything, the hash tables, or the MLPs.
        exposure: bring each new image to the model's exposure first.
        local: only ground cells where the new images disagree may change.
        factors: learned inner rates, which multiply the rates by groups; None for none.
        seed: draws the rays.
    """

    rays: int = 4000
    replay: float = 0.0
    rates: Rates = field(default_factory=Rates)
    part: Part = "all"
    exposure: bool = False
    local: bool = False
    factors: InnerRates | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.replay <= MOST_REPLAY:
            raise SettingsError(f"replay {self.replay}: allowed are 0 to {MOST_REPLAY}")
        if self.rays < 1:
            raise SettingsError(f"support_rays {self.rays}: must be at least 1")
