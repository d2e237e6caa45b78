"""Owns live adaptation of a view job's model to the batches of its dataset."""

import dataclasses
from collections import OrderedDict
from contextlib import ExitStack
from typing import Final

from configs import ViewJob
from nerfcore.adaptation import Adapter, StepResult
from nerfcore.adaptation.looks import Look, look
from nerfcore.adaptation.rays import Reached
from nerfcore.adaptation.survey import MOST_OLD_LOOKS, Survey
from nerfcore.data.images import ImageStore
from nerfcore.data.records import Dataset
from nerfcore.errors import SettingsError
from nerfcore.scene import SceneModel
from nerfcore.shown_model import ShownModel
from nerfcore.training.learner import Rates
from nerfcore.viewer import AdaptChoice, PhotoGroup, PreparationLike
from runner.ops.settings import adapt_settings

FIRST_FLIGHT: Final = "first flight"
HELD_SURVEYS: Final = 2
"""Of some ten megabytes each: enough to go back and forth between two versions or batches."""


def photo_groups(dataset: Dataset) -> list[PhotoGroup]:
    """Return the dataset's photographs by flight, the model's own first."""
    groups = [PhotoGroup(FIRST_FLIGHT, dataset.train, False)]
    for name, batch in dataset.batches.items():
        groups += [PhotoGroup(name, batch.adapt, True)] if len(batch.adapt) else []
        if len(batch.heldout):
            groups.append(PhotoGroup(f"{name}, held out", batch.heldout, True))
    return groups


SurveyKey = tuple[str, str]
"""Version as loaded, and batch."""


class Surveys:
    """Surveys of versions as they were loaded, the last few."""

    def __init__(self) -> None:
        self._held: OrderedDict[SurveyKey, tuple[Survey, Reached | None]] = OrderedDict()

    def give(self, adapter: Adapter, key: SurveyKey) -> None:
        """Spare an adapter a survey that is held."""
        if key in self._held and adapter.survey is None:
            adapter.survey, adapter.reached = self._held[key]

    def take(self, adapter: Adapter, key: SurveyKey) -> None:
        """Hold what an adapter has found."""
        if adapter.survey is not None:
            self._held[key] = adapter.survey, adapter.reached
            self._held.move_to_end(key)
            while len(self._held) > HELD_SURVEYS:
                self._held.popitem(last=False)


class LiveAdapter:
    """An adapter as the viewer uses it; see `nerfcore.viewer.protocols.AdapterLike`.

    Args:
        adapter: of the shown model.
        batch: name of its images.
        bg_lr: rate of the background, which the page does not change.
        images: how many a survey looks over.
        has_old: whether it was given old images.
        surveys: held for later adapters; key: None = not to be held, the model is adapted already.
    """

    def __init__(
        self,
        adapter: Adapter,
        batch: str,
        bg_lr: float,
        images: int,
        has_old: bool,
        surveys: Surveys,
        key: SurveyKey | None,
    ) -> None:
        self._adapter = adapter
        self._batch = batch
        self._bg_lr = bg_lr
        self._images = images
        self._has_old = has_old
        self._surveys, self._key = surveys, key

    def retune(self, choice: AdaptChoice) -> bool:
        """Go on with other rates and rays; False for other images, or where old ones lack."""
        if choice.batch != self._batch or (choice.replay > 0 and not self._has_old):
            return False
        self._adapter.retune(choice.rays, choice.replay, _rates(choice, self._bg_lr))
        return True

    def prepare(self, preparation: PreparationLike) -> None:
        """Look the images over where the settings need it and it was not done before."""
        done = 0

        def look_at(scene: SceneModel, store: ImageStore, image: int) -> Look:
            nonlocal done
            with preparation.model() as asked:
                seen = look(scene, store, image, asked)
            done += 1
            preparation.looked(done, self._images)
            return seen

        if self._key is not None:
            self._surveys.give(self._adapter, self._key)
        self._adapter.prepare(look_at)
        if self._key is not None:
            self._surveys.take(self._adapter, self._key)

    def step(self) -> StepResult:
        """Take one step.

        Raises:
            SettingsError: the new images disagree with the model nowhere, and local is true.
            NonFiniteError: see `Adapter.step`.
        """
        result = self._adapter.step()
        if self._adapter.changes_nothing:
            raise SettingsError(
                "local true: the new images disagree with the model nowhere; set local to false in "
                "the view job to adapt all of it"
            )
        return result

    def divergence(self) -> str | None:
        """Say how the steps so far have diverged."""
        return self._adapter.divergence()

    def reset(self) -> None:
        """Put the model back to what it was when the adapter was made."""
        self._adapter.reset()


class LiveAdapting:
    """Adapts the shown model to batches of the dataset.

    Args:
        job: gives the rates and the first choice.
        dataset: has the batches, at least one.
        shown: adapted in place.
        stack: closes the photographs at the end.
    """

    def __init__(self, job: ViewJob, dataset: Dataset, shown: ShownModel, stack: ExitStack) -> None:
        self._job = job
        self._dataset = dataset
        self._shown = shown
        self._stack = stack
        self._new: tuple[str, ImageStore] | None = None
        self._old: ImageStore | None = None
        self._surveys = Surveys()
        stack.callback(self._close_new)

    @property
    def batches(self) -> list[str]:
        """Names of the batches."""
        return list(self._dataset.batches)

    @property
    def choice(self) -> AdaptChoice:
        """What the job says."""
        job = self._job
        return AdaptChoice(
            job.batch or self.batches[0],
            job.support_rays,
            job.replay,
            job.encoding_lr,
            job.sigma_lr,
            job.color_lr,
        )

    def make(self, choice: AdaptChoice, steps: int) -> LiveAdapter:
        """Return an adapter of the shown model; reads the photographs it needs first.

        Raises:
            DataError: a photograph is gone or damaged, or there is no such batch.
        """
        settings = dataclasses.replace(
            adapt_settings(self._job),
            rays=choice.rays,
            replay=choice.replay,
            rates=_rates(choice, self._job.bg_lr),
        )
        points = self._dataset.batch(choice.batch).points
        new = self._new_images(choice.batch)
        needs_old = settings.replay > 0 or settings.local
        old = self._old_images() if needs_old else None
        version, scene = self._shown.current
        return LiveAdapter(
            Adapter(scene, new, settings, old=old, new_points=points),
            choice.batch,
            self._job.bg_lr,
            len(new) + (0 if old is None else min(len(old), MOST_OLD_LOOKS)),
            old is not None,
            self._surveys,
            None if steps else (version, choice.batch),
        )

    def put_back(self) -> None:
        """Undo all adaptation."""
        self._shown.put_back()

    def _new_images(self, batch: str) -> ImageStore:
        if self._new is None or self._new[0] != batch:
            store = ImageStore(self._dataset.batch(batch).adapt, self._job.downscale)
            self._close_new()  # only now: until then the adapter that there is may go on
            self._new = batch, store
        return self._new[1]

    def _old_images(self) -> ImageStore:
        if self._old is None:
            store = ImageStore(self._dataset.train, self._job.downscale)
            self._old = self._stack.enter_context(store)
        return self._old

    def _close_new(self) -> None:
        if self._new is not None:
            self._new[1].close()
            self._new = None


def _rates(choice: AdaptChoice, bg_lr: float) -> Rates:
    return Rates(choice.encoding_lr, choice.sigma_lr, choice.color_lr, bg_lr)
