"""Owns what the viewer may do with a view job's model: adapt it, load, follow and save versions."""

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from configs import ViewJob
from configs.artifacts import CHECKPOINT_MANIFEST, JobFolder
from nerfcore.adaptation import Adapter, StepResult
from nerfcore.checkpoint import announce, resolve_checkpoint, save_checkpoint
from nerfcore.data.images import ImageStore
from nerfcore.data.records import Dataset
from nerfcore.errors import CheckpointError, SettingsError
from nerfcore.shown_model import ShownModel
from nerfcore.training.learner import Rates
from nerfcore.viewer import AdaptChoice, PhotoGroup
from runner.context import JobContext
from runner.ops.loading import Loaded, load_model
from runner.ops.settings import adapt_settings

FIRST_FLIGHT: Final = "first flight"
OWN: Final = "saved here"


def photo_groups(dataset: Dataset) -> list[PhotoGroup]:
    """Return the dataset's photographs by flight, the model's own first."""
    groups = [PhotoGroup(FIRST_FLIGHT, dataset.train, False)]
    for name, batch in dataset.batches.items():
        groups += [PhotoGroup(name, batch.adapt, True)] if len(batch.adapt) else []
        if len(batch.heldout):
            groups.append(PhotoGroup(f"{name}, held out", batch.heldout, True))
    return groups


class _LiveAdapter(Adapter):
    """An adapter that says so where it would step without end and change nothing."""

    def step(self) -> StepResult:
        """Take one step.

        Raises:
            SettingsError: the new images disagree with the model nowhere, and local is true.
            NonFiniteError: see `Adapter.step`.
        """
        result = super().step()
        if self.changes_nothing:
            raise SettingsError(
                "local true: the new images disagree with the model nowhere; set local to false in "
                "the view job to adapt all of it"
            )
        return result


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

    def make(self, choice: AdaptChoice) -> Adapter:
        """Return an adapter of the shown model; reads the photographs it needs first.

        Raises:
            DataError: a photograph is gone or damaged, or there is no such batch.
        """
        batch = self._dataset.batch(choice.batch)
        settings = dataclasses.replace(
            adapt_settings(self._job),
            rays=choice.rays,
            replay=choice.replay,
            rates=Rates(choice.encoding_lr, choice.sigma_lr, choice.color_lr, self._job.bg_lr),
        )
        if self._new is None or self._new[0] != choice.batch:
            self._close_new()
            self._new = (choice.batch, ImageStore(batch.adapt, self._job.downscale))
        needs_old = settings.replay > 0 or settings.local
        return _LiveAdapter(
            self._shown.scene,
            self._new[1],
            settings,
            old=self._old_images() if needs_old else None,
            new_points=batch.points,
        )

    def put_back(self) -> None:
        """Undo all adaptation."""
        self._shown.put_back()

    def _old_images(self) -> ImageStore:
        if self._old is None:
            store = ImageStore(self._dataset.train, self._job.downscale)
            self._old = self._stack.enter_context(store)
        return self._old

    def _close_new(self) -> None:
        if self._new is not None:
            self._new[1].close()
            self._new = None


class LiveVersions:
    """Versions of a view job's model: its source's checkpoints, and those saved by the job itself.

    Args:
        context: the job.
        model: as loaded.
        shown: what shows it.
        source: the folder that `checkpoint_path` names: a job's, or a checkpoint's own.
    """

    def __init__(
        self, context: JobContext[ViewJob], model: Loaded, shown: ShownModel, source: Path
    ) -> None:
        self._context = context
        self._model = model
        self._shown = shown
        self._source = source
        self.current = self._name(model.checkpoint)

    def names(self) -> list[str]:
        """Return the versions there are now, the newest last."""
        return list(self._folders())

    def newest(self) -> str | None:
        """Return the newest checkpoint of the source job; None where the source is no job."""
        if not (self._source / "checkpoints").is_dir():
            return None
        return self._name(resolve_checkpoint(self._source, "last"))

    def read(self, name: str) -> Callable[[], None]:
        """Read a version and return what shows it.

        Raises:
            CheckpointError: gone, damaged, or of another scene.
        """
        folder = self._folders().get(name)
        if folder is None:
            raise CheckpointError(f"{name}: not there any more; choose another version")
        model = self._load(folder)

        def show() -> None:
            self._shown.exchange(model.scene, lambda: self._load(folder).scene)
            self._model, self.current = model, name

        return show

    def save(self, path: Path, steps: int) -> None:
        """Write the shown model to a new folder and tell so."""
        context, model = self._context, self._model
        extra = {
            "adapted_from": f"{context.job.checkpoint_path}:{model.checkpoint.name}",
            "adapted_steps": steps,
            "batch": context.job.batch,
        }
        save_checkpoint(self._shown.scene, path, model.step, extra)
        announce(path.parent, path.name)
        context.progress.event("checkpoint", path=path, step=model.step)

    def _load(self, folder: Path) -> Loaded:
        inputs = dataclasses.replace(self._context.inputs, checkpoint=folder)
        return load_model(self._context.job, inputs)

    def _folders(self) -> dict[str, Path]:
        places = [self._model.checkpoint, *_checkpoints_below(self._source)]
        places += _checkpoints_below(self._context.folder.root)
        unique = {self._name(folder): folder for folder in places if _is_complete(folder)}
        return dict(sorted(unique.items(), key=lambda item: _written_at(item[1])))

    def _name(self, folder: Path) -> str:
        if folder.parent == self._context.folder.checkpoints:
            return f"{OWN}: {folder.name}"
        owner = folder.parent.parent if folder.parent.name == "checkpoints" else folder.parent
        return f"{owner.name}: {folder.name}"


def _checkpoints_below(job_folder: Path) -> list[Path]:
    checkpoints = JobFolder(job_folder).checkpoints
    return [path for path in checkpoints.iterdir()] if checkpoints.is_dir() else []


def _is_complete(folder: Path) -> bool:
    return not folder.name.startswith(".") and (folder / CHECKPOINT_MANIFEST).is_file()


def _written_at(folder: Path) -> float:
    try:
        return (folder / CHECKPOINT_MANIFEST).stat().st_mtime
    except FileNotFoundError:  # pruned this moment
        return 0.0
