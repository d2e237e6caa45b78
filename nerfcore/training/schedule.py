"""What changes over a run: learning rates and ray sampling, by progress from 0 to 1."""

from dataclasses import replace

from nerfcore.settings import SamplingSettings

COARSE_SHARE = 0.8
COARSEST_STEP = 4.0
TRAINING_MIN_TRANSMITTANCE = 1e-2


def decay(progress: float, factor: float) -> float:
    """Exponential schedule: 1 at the start, 1 / factor at the end."""
    return float(factor ** -min(1.0, max(0.0, progress)))


def training_sampling(final: SamplingSettings, progress: float) -> SamplingSettings:
    """Sampling of a training step: long steps while the scene is still fog, then the final ones.

    Args:
        final: the model's own sampling.
        progress: of the run, 0 to 1.
    """
    coarse = COARSEST_STEP + (1.0 - COARSEST_STEP) * min(1.0, progress / COARSE_SHARE)
    floor = max(final.min_transmittance, TRAINING_MIN_TRANSMITTANCE)
    return replace(
        final,
        step_m=final.step_m * coarse,
        step_growth=final.step_growth * coarse,
        min_transmittance=floor,
    )
