"""Owns the versions of a view job's model: those there are, loading one, following, saving."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from configs import ViewJob
from configs.artifacts import CHECKPOINT_MANIFEST, JobFolder
from nerfcore.checkpoint import announce, resolve_checkpoint, save_checkpoint
from nerfcore.errors import CheckpointError
from nerfcore.shown_model import ShownModel
from runner.context import JobContext
from runner.ops.loading import Loaded, load_model

OWN: Final = "saved here"


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
            self._shown.exchange(model.scene, lambda: self._load(folder).scene, str(folder))
            self._model, self.current = model, name

        return show

    def save(self, path: Path, steps: int, batches: Sequence[str]) -> None:
        """Write the shown model to a new folder and tell so."""
        context, model = self._context, self._model
        extra = {
            "adapted_from": f"{_owner(model.checkpoint).name}:{model.checkpoint.name}",
            "adapted_steps": steps,
            "batch": batches[-1] if batches else None,
            "batches": list(batches),
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
        return f"{_owner(folder).name}: {folder.name}"


def _owner(checkpoint: Path) -> Path:
    """The folder of the job that a checkpoint belongs to, or else the one it lies in."""
    return (
        checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    )


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
