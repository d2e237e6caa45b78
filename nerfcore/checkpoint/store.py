"""Owns a job's `checkpoints/` folder: which steps are kept, and what "last" and "best" mean.

`index.json` holds {"last", "best", "steps", "best_psnr"}; a step's folder is `step<N>`. The last
`keep` steps and the best are kept; only the newest keeps its optimiser state.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from nerfcore import atomic
from nerfcore.checkpoint.files import MANIFEST, save_checkpoint
from nerfcore.errors import CheckpointError
from nerfcore.scene import SceneModel
from nerfcore.training.adam import Adam

INDEX = "index.json"
FOLDER = "checkpoints"


class CheckpointStore:
    """Saves, prunes and finds a job's checkpoints."""

    def __init__(self, folder: Path, keep: int = 3) -> None:
        """Open or begin the folder.

        Args:
            folder: a job's `checkpoints/`; made when missing.
            keep: newest steps to keep, at least 1.
        """
        self.folder = folder
        self.keep = max(1, keep)
        folder.mkdir(parents=True, exist_ok=True)
        atomic.remove_leftovers(folder)
        self.index = read_index(folder) or {
            "last": None,
            "best": None,
            "best_psnr": None,
            "steps": [],
        }

    def save(
        self,
        scene: SceneModel,
        step: int,
        psnr: float | None = None,
        extra: dict[str, Any] | None = None,
        optimisers: tuple[list[Adam], Adam] | None = None,
    ) -> Path:
        """Save a step (again, if it exists), make it the last, and prune.

        Args:
            psnr: held-out score in dB; the highest becomes "best".
            Others as in `save_checkpoint`.
        """
        name = f"step{step}"
        target = self.folder / name
        if target.exists():  # a run that goes on from this very step: the same state is there
            self._forget(name)
        save_checkpoint(scene, target, step, {"psnr": psnr, **(extra or {})}, optimisers)
        steps = [s for s in self.index["steps"] if s != name] + [name]
        best, best_psnr = self.index["best"], self.index["best_psnr"]
        if best is None or (psnr is not None and (best_psnr is None or psnr >= best_psnr)):
            best, best_psnr = name, psnr
        kept = [s for s in steps if s in steps[-self.keep :] or s == best]
        self.index = {"last": name, "best": best, "best_psnr": best_psnr, "steps": kept}
        atomic.write_text(self.folder / INDEX, json.dumps(self.index) + "\n")
        self._prune(steps, kept)
        return target

    def _forget(self, name: str) -> None:
        """Take a step out of the index before its folder goes, so the index never lies."""
        steps = [s for s in self.index["steps"] if s != name]
        last = steps[-1] if steps else None
        best_lost = self.index["best"] == name
        self.index = {
            "last": last,
            "best": last if best_lost else self.index["best"],
            "best_psnr": None if best_lost else self.index["best_psnr"],
            "steps": steps,
        }
        atomic.write_text(self.folder / INDEX, json.dumps(self.index) + "\n")
        shutil.rmtree(self.folder / name)

    def _prune(self, steps: list[str], kept: list[str]) -> None:
        for name in steps:
            if name not in kept:
                shutil.rmtree(self.folder / name, ignore_errors=True)
            elif name != self.index["last"]:
                for path in (self.folder / name).glob("optimizer_*.safetensors"):
                    path.unlink()


def announce(folder: Path, name: str) -> None:
    """Make a checkpoint folder that lies in `folder` already its newest one in the index."""
    index = read_index(folder) or {"best": None, "best_psnr": None, "steps": []}
    steps = [step for step in index["steps"] if step != name] + [name]
    index = {**index, "last": name, "best": index["best"] or name, "steps": steps}
    atomic.write_text(folder / INDEX, json.dumps(index) + "\n")


def read_index(folder: Path) -> dict[str, Any] | None:
    """The index of a `checkpoints/` folder, None where there is none.

    Raises:
        CheckpointError: it is unreadable.
    """
    path = folder / INDEX
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: unreadable ({error}); name a step folder instead"
        ) from error


def resolve_checkpoint(path: Path, prefix: str = "last") -> Path:
    """Find the checkpoint folder meant by a path and a prefix.

    Args:
        path: a job folder, its `checkpoints/` folder, or a checkpoint folder itself.
        prefix: "last", "best" or "step<N>"; ignored when the path is a checkpoint folder.

    Raises:
        CheckpointError: nothing there, or no such step (naming the steps there are).
    """
    if (path / MANIFEST).is_file():
        return path
    if not re.fullmatch(r"last|best|step\d+", prefix):
        raise CheckpointError(f'prefix "{prefix}": allowed are "last", "best" and "step<N>"')
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    index = read_index(folder)
    if index is None:
        raise CheckpointError(
            f"checkpoint_path {path}: holds no checkpoint; name a finished train job, or a folder "
            f"with {MANIFEST}"
        )
    name = index.get(prefix, prefix)
    if name is None or not (folder / name).is_dir():
        steps = ", ".join(index["steps"]) or "none"
        raise CheckpointError(f'prefix "{prefix}": not in {folder}; there are: {steps}')
    if not (folder / name / MANIFEST).is_file():
        raise CheckpointError(
            f'prefix "{prefix}": {folder / name / MANIFEST} is missing; use another checkpoint '
            "(prefix) or train again"
        )
    return folder / name
