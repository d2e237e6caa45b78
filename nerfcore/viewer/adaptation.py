"""Owns live adaptation: a thread that steps an adapter while the page shows the model.

Every step takes its turn with the renders. A step that raises, or whose loss is not finite, ends
the adaptation: the model is put back to what it was before adaptation within the same turn, so no
picture shows the broken state, and the reason goes to the page.
"""

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from nerfcore.errors import NerfcoreError
from nerfcore.viewer.protocols import AdapterLike, StepResultLike
from nerfcore.viewer.reasons import reason_of
from nerfcore.viewer.sharing import Turns

_log = logging.getLogger(__name__)


class AdaptationFailedError(NerfcoreError):
    """Adaptation diverged or raised; the shown model is the one from before it."""


class AdaptState(StrEnum):
    """Where live adaptation stands."""

    IDLE = "idle"
    LOADING = "loading images"
    RUNNING = "running"
    STOPPING = "stopping"


NEXT_STATES: Final[dict[AdaptState, frozenset[AdaptState]]] = {
    AdaptState.IDLE: frozenset({AdaptState.LOADING}),
    AdaptState.LOADING: frozenset({AdaptState.RUNNING, AdaptState.STOPPING, AdaptState.IDLE}),
    AdaptState.RUNNING: frozenset({AdaptState.STOPPING, AdaptState.IDLE}),
    AdaptState.STOPPING: frozenset({AdaptState.IDLE}),
}


@dataclass(frozen=True)
class AdaptStatus:
    """What the page says about adaptation.

    Attributes:
        state: where it stands.
        last: the newest step's report; None before the first and after a reset.
        problem: why the last run ended early, one line; None if it did not.
    """

    state: AdaptState
    last: StepResultLike | None
    problem: str | None


class Adaptation:
    """Starts, stops and single-steps an adapter on a thread of its own.

    Args:
        make_adapter: builds the adapter; called once, on the thread, at the first start.
        turns: the order of use of the model.
        on_status: called after every step and every change of state, from any thread.
    """

    def __init__(
        self,
        make_adapter: Callable[[], AdapterLike],
        turns: Turns,
        on_status: Callable[[AdaptStatus], None],
    ) -> None:
        self._make_adapter = make_adapter
        self._turns = turns
        self._on_status = on_status
        self._lock = threading.Lock()
        self._adapter: AdapterLike | None = None
        self._status = AdaptStatus(AdaptState.IDLE, None, None)
        self._stop_asked = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def status(self) -> AdaptStatus:
        """The newest status."""
        with self._lock:
            return self._status

    def start(self, max_steps: int | None = None) -> bool:
        """Begin or go on adapting; False when it runs already.

        Args:
            max_steps: stop after so many steps; None = until `stop`.
        """
        with self._lock:
            if self._status.state is not AdaptState.IDLE:
                return False
            self._stop_asked.clear()
            self._status = AdaptStatus(AdaptState.LOADING, self._status.last, None)
            self._thread = threading.Thread(
                target=self._run, args=(max_steps,), name="live-adaptation", daemon=True
            )
            self._thread.start()
        self._tell()
        return True

    def stop(self) -> None:
        """Ask the thread to end after the running step; returns at once."""
        self._stop_asked.set()
        with self._lock:
            is_stopping = AdaptState.STOPPING in NEXT_STATES[self._status.state]
        if is_stopping:
            self._move(AdaptState.STOPPING)

    def reset(self) -> bool:
        """Put the model back to what it was before adaptation; False when nothing was adapted.

        A run in progress goes on from there.
        """
        with self._lock:
            adapter = self._adapter
        if adapter is None:
            return False
        with self._turns.turn():
            adapter.reset()
        with self._lock:
            self._status = AdaptStatus(self._status.state, None, None)
        self._tell()
        return True

    def close(self, timeout_s: float) -> bool:
        """Stop and wait for the thread; False when its step takes longer than that."""
        self.stop()
        with self._lock:
            thread = self._thread
        if thread is None:
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def _run(self, max_steps: int | None) -> None:
        problem = None
        try:
            self._adapt(max_steps)
        except Exception as error:  # noqa: BLE001 - the thread's end; the page says why
            _log.warning("live adaptation ended early: %s", error)
            problem = reason_of(error)
        with self._lock:
            last = self._status.last if problem is None else None
            self._status = AdaptStatus(AdaptState.IDLE, last, problem)
        self._tell()

    def _adapt(self, max_steps: int | None) -> None:
        if self._adapter is None:
            adapter = self._make_adapter()
            with self._lock:
                self._adapter = adapter
        self._move(AdaptState.RUNNING)
        taken = 0
        while not self._stop_asked.is_set() and (max_steps is None or taken < max_steps):
            result = self._step(self._adapter)
            taken += 1
            with self._lock:
                self._status = AdaptStatus(self._status.state, result, None)
            self._tell()

    def _step(self, adapter: AdapterLike) -> StepResultLike:
        with self._turns.turn():
            try:
                result = adapter.step()
                if math.isfinite(result.loss):
                    return result
                reason = f"it diverged (loss {result.loss} at step {result.step})"
            except Exception as error:
                adapter.reset()
                raise AdaptationFailedError(
                    f"{reason_of(error)}; the model is back as it was before"
                ) from error
            adapter.reset()
        raise AdaptationFailedError(f"{reason}; the model is back as it was before")

    def _move(self, state: AdaptState) -> None:
        with self._lock:
            if state not in NEXT_STATES[self._status.state]:
                return
            self._status = AdaptStatus(state, self._status.last, self._status.problem)
        self._tell()

    def _tell(self) -> None:
        self._on_status(self.status)
