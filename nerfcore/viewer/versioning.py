"""Owns which version of the model is shown: loading one, following a training run, saving.

A version is read while renders go on and shown between two of them; the model is written while
nothing changes it.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nerfcore.viewer.adaptation import Adaptation
from nerfcore.viewer.protocols import VersionsLike
from nerfcore.viewer.reasons import reason_of
from nerfcore.viewer.saving import CheckpointSaver
from nerfcore.viewer.sharing import SharedScene

LOOK_EVERY_S: Final = 2.0

_log = logging.getLogger(__name__)


class Versioning:
    """Loads, follows and saves versions of the shown model.

    Args:
        versions: where they are.
        scene: what shows them.
        adaptation: told when the model was exchanged; None = there is none.
        folder: new versions are saved below it.
        on_exchange: called with the version's name after another one is shown, from any thread.
        on_problem: called with one line when following fails, from the following thread.
    """

    def __init__(
        self,
        versions: VersionsLike,
        scene: SharedScene,
        adaptation: Adaptation | None,
        folder: Path,
        on_exchange: Callable[[str], None],
        on_problem: Callable[[str], None],
    ) -> None:
        self._versions = versions
        self._scene = scene
        self._adaptation = adaptation
        self._on_exchange = on_exchange
        self._on_problem = on_problem
        self._saver = CheckpointSaver(folder, self._write, scene.turns, self._steps, self._judge)
        self._loading = threading.Lock()
        self._is_following = threading.Event()
        self._is_closed = threading.Event()
        self._seen: str | None = None
        self._follower: threading.Thread | None = None

    @property
    def current(self) -> str:
        """The version that was loaded last."""
        return self._versions.current

    def names(self) -> list[str]:
        """Return the versions there are now, the newest last."""
        return list(self._versions.names())

    def load(self, name: str) -> None:
        """Show a version; what was adapted and not saved is gone.

        Raises:
            NerfcoreError: it is gone, damaged, or of another scene; the shown model stays.
        """
        with self._loading:
            show = self._versions.read(name)
            with self._scene.turns.turn():
                show()
                self._scene.note_change()
                if self._adaptation is not None:
                    self._adaptation.forget()
        self._on_exchange(name)

    def save(self) -> Path:
        """Write the shown model as a new version and return its folder.

        Raises:
            AdaptationFailedError: it has diverged; it was put back and is not saved.
            OSError: it cannot be written; nothing is left behind.
        """
        return self._saver()

    def follow(self, is_wanted: bool) -> None:
        """Show every new version of the training run from now on, or no more."""
        if not is_wanted:
            self._is_following.clear()
            return
        self._is_following.set()
        if self._follower is None:
            self._seen = self._versions.current
            self._follower = threading.Thread(
                target=self._watch, name="follow-training", daemon=True
            )
            self._follower.start()

    def close(self, timeout_s: float) -> bool:
        """End the following; False when it does not end in time."""
        self._is_closed.set()
        if self._follower is None:
            return True
        self._follower.join(timeout_s)
        return not self._follower.is_alive()

    def _watch(self) -> None:
        problem: str | None = None
        while not self._is_closed.wait(LOOK_EVERY_S):
            if not self._is_following.is_set():
                continue
            try:
                newest = self._versions.newest()
                if newest is not None and newest != self._seen:
                    self.load(newest)
                    self._seen = newest
                problem = None
            except Exception as error:  # noqa: BLE001 - said in the page; the next look may do
                if problem != reason_of(error):
                    problem = reason_of(error)
                    _log.warning("following the training run: %s", problem)
                    self._on_problem(problem)

    def _write(self, path: Path) -> None:
        batches = () if self._adaptation is None else self._adaptation.batches
        self._versions.save(path, self._steps(), batches)

    def _judge(self) -> None:
        if self._adaptation is not None:
            self._adaptation.require_sound()

    def _steps(self) -> int:
        return 0 if self._adaptation is None else self._adaptation.status.steps
