"""Owns the choice of how a run takes its steps."""

from typing import assert_never

import numpy as np

from nerfcore.data.images import ImageStore
from nerfcore.data.partition import Partition
from nerfcore.data.records import Dataset
from nerfcore.errors import SettingsError
from nerfcore.training.episodes import EpisodeSampler, ground_cells
from nerfcore.training.inner_rates import InnerRates
from nerfcore.training.learner import Learner
from nerfcore.training.pixels import PixelSampler
from nerfcore.training.second_order import MamlStepper
from nerfcore.training.settings import TrainSettings
from nerfcore.training.steppers import FomamlStepper, JointStepper, ReptileStepper, Stepper


def make_stepper(
    learner: Learner,
    dataset: Dataset,
    partition: Partition,
    settings: TrainSettings,
    store: ImageStore,
    rng: np.random.Generator,
    factors: InnerRates | None,
) -> Stepper:
    """The stepper of `settings.algo`.

    Args:
        store: the training images.
        factors: learned inner rates, None for fixed ones.

    Raises:
        SettingsError: there is no episode, inner rates where none can be learned, or a device that
            the algorithm does not run on.
    """
    if settings.algo == "joint":
        return JointStepper(learner, PixelSampler(store, rng), settings)
    if settings.rates.encoding <= 0:
        raise SettingsError(
            f"encoding_lr {settings.rates.encoding}: the inner loop's rates are given relative to "
            f'it; use a positive one, or algo "joint"'
        )
    episodes = _episodes(dataset, partition, settings, store, rng)
    match settings.algo:
        case "fomaml":
            return FomamlStepper(learner, episodes, settings, factors)
        case "maml":
            return MamlStepper(learner, episodes, settings, factors)
        case "reptile":
            return ReptileStepper(learner, episodes, settings)
    assert_never(settings.algo)


def _episodes(
    dataset: Dataset,
    partition: Partition,
    settings: TrainSettings,
    store: ImageStore,
    rng: np.random.Generator,
) -> EpisodeSampler:
    if dataset.points is not None:
        ground = float(np.median(dataset.points.xyz[:, 0]))
    else:
        ground = float(partition.aabb[1, 0])
    return EpisodeSampler(store, ground_cells(store, partition, ground, settings.cell_dim), rng)
