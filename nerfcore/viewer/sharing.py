"""Owns the order in which renders and adaptation steps use one model.

A model is used by one thread at a time, in the order of asking (a plain lock would let the thread
that releases it take it again at once and starve the others). A long render gives way between
chunks of rays once it has used `SLICE_S`, so that a moving client or an adaptation step waits for a
slice and not for a whole picture.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from nerfcore.geometry.camera import Camera, Rendered
from nerfcore.viewer.options import AS_IT_IS, RenderOptions
from nerfcore.viewer.protocols import SceneLike

SLICE_S: Final = 0.1


class Turns:
    """A first-come, first-served lock."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._next_ticket = 0
        self._serving = 0

    @contextlib.contextmanager
    def turn(self) -> Iterator["Turn"]:
        """Wait in line, hold the model for the block, then let the next one in."""
        self._enter()
        try:
            yield Turn(self)
        finally:
            self._leave()

    def has_waiting(self) -> bool:
        """Say whether somebody stands in line behind the holder."""
        with self._condition:
            return self._next_ticket - self._serving > 1

    def _enter(self) -> None:
        with self._condition:
            ticket = self._next_ticket
            self._next_ticket += 1
            self._condition.wait_for(lambda: self._serving == ticket)

    def _leave(self) -> None:
        with self._condition:
            self._serving += 1
            self._condition.notify_all()


class Turn:
    """One holder's time with the model.

    Attributes:
        waited_s: time spent giving way since the turn began, s.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._since = time.monotonic()
        self.waited_s = 0.0

    def give_way(self, slice_s: float = SLICE_S) -> None:
        """Go to the end of the line if somebody waits and this slice (s) is used up."""
        now = time.monotonic()
        if now - self._since < slice_s or not self._turns.has_waiting():
            return
        self._turns._leave()
        self._turns._enter()
        self._since = time.monotonic()
        self.waited_s += self._since - now


@dataclass(frozen=True)
class TimedRender:
    """A picture and the time its render held the model, s.

    Attributes:
        rendered: the picture.
        busy_s: without the time given away to others.
        other: the same view of the model before adaptation, where that is compared.
    """

    rendered: Rendered
    busy_s: float
    other: Rendered | None = None


class SharedScene:
    """A scene whose renders take turns with each other and with what changes the model.

    Attributes:
        frame: how world coordinates relate to metres and to the Earth.
        experts: which expert owns what.
        turns: the order of use.
    """

    def __init__(self, scene: SceneLike, turns: Turns) -> None:
        self.frame = scene.frame
        self.experts = scene.experts
        self.turns = turns
        self._scene = scene
        self._generation = 0

    @property
    def generation(self) -> int:
        """How often the model has changed."""
        return self._generation

    def note_change(self) -> None:
        """Take note that the model is another now."""
        self._generation += 1

    def render(
        self,
        camera: Camera,
        cancelled: Callable[[], bool],
        options: RenderOptions = AS_IT_IS,
    ) -> TimedRender | None:
        """Render a picture when it is this caller's turn; None when cancelled."""
        with self.turns.turn() as turn:

            def stop_now() -> bool:
                turn.give_way()
                return cancelled()

            if cancelled():
                return None
            started = time.monotonic()
            rendered = self._scene.render(camera, options=options, cancelled=stop_now)
            busy_s = time.monotonic() - started - turn.waited_s
        return None if rendered is None else TimedRender(rendered, busy_s)
