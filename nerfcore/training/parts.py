"""Owns which part of a model adaptation may change, in inner loops as at test time."""

from dataclasses import replace
from typing import Literal, assert_never

from nerfcore.training.learner import Rates

Part = Literal["all", "features", "mlps"]


def rates_of_part(rates: Rates, part: Part) -> Rates:
    """Rates that are zero for what may not change: all, the hash tables, or the MLPs."""
    match part:
        case "all":
            return rates
        case "features":
            return Rates(encoding=rates.encoding, sigma=0.0, color=0.0, background=0.0)
        case "mlps":
            return replace(rates, encoding=0.0)
    assert_never(part)
