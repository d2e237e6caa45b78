"""Owns where the viewer saves the shown model, and that nothing changes it meanwhile."""

from collections.abc import Callable
from pathlib import Path

from nerfcore.viewer.reasons import reason_of
from nerfcore.viewer.sharing import Turns


class CheckpointSaver:
    """Saves the shown model under the next free name below the job's checkpoints.

    Args:
        folder: the job's checkpoints folder.
        write: writes the model to the folder it is given.
        turns: the order of use of the model; nothing changes it while it is written.
        steps_taken: adaptation steps in the shown model.
        judge: raises where the shown model must not be saved.
    """

    def __init__(
        self,
        folder: Path,
        write: Callable[[Path], None],
        turns: Turns,
        steps_taken: Callable[[], int],
        judge: Callable[[], None],
    ) -> None:
        self._folder = folder
        self._write = write
        self._turns = turns
        self._steps_taken = steps_taken
        self._judge = judge

    def __call__(self) -> Path:
        """Save and return the checkpoint's folder.

        Raises:
            OSError: it cannot be written; the message names the folder and the mend.
            NerfcoreError: `judge` refuses it.
        """
        with self._turns.turn():
            self._judge()
            name = f"adapted{self._steps_taken()}"
            count = 1
            path = self._folder / name
            while path.exists():
                count += 1
                path = self._folder / f"{name}-{count}"
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._write(path)
            except OSError as error:
                why = error.strerror or reason_of(error)
                raise OSError(
                    f"{path}: {why}; nothing was written and the model is still shown; make room "
                    "in this folder, or make it writable, then save again"
                ) from error
        return path
