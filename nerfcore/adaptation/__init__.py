"""Test-time adaptation: new photographs, where they disagree, and steps that follow them."""

from nerfcore.adaptation.adapter import Adapter, StepResult
from nerfcore.adaptation.settings import AdaptSettings

__all__ = ["AdaptSettings", "Adapter", "StepResult"]
