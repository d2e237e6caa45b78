"""Owns live adaptation: a thread that steps an adapter while the page shows the model.

Every step takes its turn with the renders. A step that raises, or whose loss is not finite, ends
the adaptation: the model is put back to what it was before the run's adapter was made within the
same turn, so no picture shows the broken state, and the reason goes to the page. So does a run that
diverges with finite losses, once its steps show it (`nerfcore.viewer.divergence`).
"""

import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from nerfcore.errors import NerfcoreError
from nerfcore.viewer.divergence import divergence_of
from nerfcore.viewer.protocols import AdaptChoice, AdapterLike, AdaptingLike, StepResultLike
from nerfcore.viewer.reasons import reason_of
from nerfcore.viewer.sharing import Turns

HELD_STEPS: Final = 4000
BACK: Final = "the model is back as it was before"
MEND: Final = "lower the rates (Adapt, Images and rates) and start again"

_log = logging.getLogger(__name__)


class AdaptationFailedError(NerfcoreError):
    """Adaptation diverged or raised; the shown model is the one from before it."""


class _StopAskedError(Exception):
    """Raised through an adapter that prepares when the run is to end."""


class AdaptState(StrEnum):
    """Where live adaptation stands."""

    IDLE = "idle"
    LOADING = "loading images"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"


NEXT_STATES: Final[dict[AdaptState, frozenset[AdaptState]]] = {
    AdaptState.IDLE: frozenset({AdaptState.LOADING}),
    AdaptState.LOADING: frozenset({AdaptState.RUNNING, AdaptState.STOPPING, AdaptState.IDLE}),
    AdaptState.RUNNING: frozenset({AdaptState.PAUSED, AdaptState.STOPPING, AdaptState.IDLE}),
    AdaptState.PAUSED: frozenset({AdaptState.RUNNING, AdaptState.STOPPING, AdaptState.IDLE}),
    AdaptState.STOPPING: frozenset({AdaptState.IDLE}),
}


@dataclass(frozen=True)
class AdaptStatus:
    """What the page says about adaptation.

    Attributes:
        state: where it stands.
        last: the newest step's report; None before the first and after a reset.
        problem: why the last run ended early, one line; None if it did not.
        steps: adaptation steps in the shown model.
    """

    state: AdaptState
    last: StepResultLike | None
    problem: str | None
    steps: int = 0


@dataclass(frozen=True)
class StepRecord:
    """One step for the plots: its number since the last reset, loss, PSNR in dB."""

    step: int
    loss: float
    psnr: float


class Adaptation:
    """Starts, pauses, stops and single-steps an adapter on a thread of its own.

    Args:
        adapting: makes adapters (on the thread, at a start with a new choice) and undoes them.
        turns: the order of use of the model.
        on_status: called after every step and every change of state, from any thread.
    """

    def __init__(
        self,
        adapting: AdaptingLike,
        turns: Turns,
        on_status: Callable[[AdaptStatus], None],
    ) -> None:
        self._adapting = adapting
        self._turns = turns
        self._on_status = on_status
        self._changed = threading.Condition()
        self._adapter: AdapterLike | None = None
        self._choice: AdaptChoice | None = None
        self._steps_before = 0
        self._status = AdaptStatus(AdaptState.IDLE, None, None)
        self._records: deque[StepRecord] = deque(maxlen=HELD_STEPS)
        self._is_stop_asked = False
        self._thread: threading.Thread | None = None

    @property
    def status(self) -> AdaptStatus:
        """The newest status."""
        with self._changed:
            return self._status

    def records(self) -> tuple[StepRecord, ...]:
        """Return the last steps since the last reset, the newest last."""
        with self._changed:
            return tuple(self._records)

    def start(self, choice: AdaptChoice, max_steps: int | None = None) -> bool:
        """Begin or go on adapting; False when it runs already.

        Args:
            choice: images and rates; another one than before makes a new adapter.
            max_steps: stop after so many steps; None = until `stop`.
        """
        with self._changed:
            if self._status.state is not AdaptState.IDLE:
                return False
            self._is_stop_asked = False
            if choice != self._choice:
                self._adapter, self._choice = None, choice
            now = self._status
            self._status = AdaptStatus(AdaptState.LOADING, now.last, None, now.steps)
            self._thread = threading.Thread(
                target=self._run, args=(choice, max_steps), name="live-adaptation", daemon=True
            )
            self._thread.start()
        self._tell()
        return True

    def pause(self) -> None:
        """Hold after the running step, until `resume` or `stop`."""
        self._move(AdaptState.PAUSED)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._move(AdaptState.RUNNING, only_from=AdaptState.PAUSED)

    def stop(self) -> None:
        """Ask the thread to end after the running step; returns at once."""
        with self._changed:
            self._is_stop_asked = True
            self._changed.notify_all()
        self._move(AdaptState.STOPPING)

    def reset(self) -> bool:
        """Put the model back to what it was before adaptation; False when nothing was adapted.

        A run in progress goes on from there.

        Raises:
            NerfcoreError: the loaded version cannot be read any more; the model stays as it is.
        """
        with self._changed:
            if self._status.steps == 0 and self._status.last is None:
                return False
        with self._turns.turn():
            self._adapting.put_back()
            self.forget()
        return True

    def forget(self) -> None:
        """Take note that the shown model was exchanged: adapters of the old one are dropped."""
        with self._changed:
            self._adapter = None
            self._records.clear()
            self._status = AdaptStatus(self._status.state, None, None)
        self._tell()

    def close(self, timeout_s: float) -> bool:
        """Stop and wait for the thread; False when its step takes longer than that."""
        self.stop()
        with self._changed:
            thread = self._thread
        if thread is None:
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def _run(self, choice: AdaptChoice, max_steps: int | None) -> None:
        problem = None
        try:
            self._adapt(choice, max_steps)
        except Exception as error:  # noqa: BLE001 - the thread's end; the page says why
            _log.warning("live adaptation ended early: %s", error)
            problem = reason_of(error)
        with self._changed:
            last = self._status.last if problem is None else None
            self._status = AdaptStatus(AdaptState.IDLE, last, problem, self._status.steps)
        self._tell()

    def _adapt(self, choice: AdaptChoice, max_steps: int | None) -> None:
        taken, prepared = 0, None
        while not self._is_stop_asked and (max_steps is None or taken < max_steps):
            adapter = self._ready_adapter(choice)
            if adapter is not prepared and not self._prepare(adapter):
                return
            prepared = adapter
            self._move(AdaptState.RUNNING, only_from=AdaptState.LOADING)
            if not self._wait_while_paused():
                return
            result = self._step(adapter)
            if result is None:
                continue
            taken += 1
            self._note(result)
            self._tell()

    def _ready_adapter(self, choice: AdaptChoice) -> AdapterLike:
        """The run's adapter; a new one after the model was exchanged."""
        with self._changed:
            adapter = self._adapter
        if adapter is None:
            adapter = self._adapting.make(choice)
            with self._changed:
                self._adapter, self._steps_before = adapter, self._status.steps
        return adapter

    def _prepare(self, adapter: AdapterLike) -> bool:
        """Let an adapter look at the model while renders go on; False when the run is to end."""
        with self._turns.turn() as turn:

            def asked() -> bool:
                turn.give_way()
                if self._is_stop_asked:
                    raise _StopAskedError
                return False

            try:
                adapter.prepare(asked)
            except _StopAskedError:
                return False
        return True

    def _wait_while_paused(self) -> bool:
        """Wait for the end of a pause; False when the run is to end."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_stop_asked or self._status.state is not AdaptState.PAUSED
            )
            return not self._is_stop_asked

    def _note(self, result: StepResultLike) -> None:
        with self._changed:
            steps = self._status.steps + 1
            self._status = AdaptStatus(self._status.state, result, None, steps)
            self._records.append(StepRecord(steps, result.loss, result.psnr))

    def _step(self, adapter: AdapterLike) -> StepResultLike | None:
        """Take one step; None when the model was exchanged since the adapter was made."""
        with self._turns.turn():
            with self._changed:
                if adapter is not self._adapter:
                    return None
            try:
                result = adapter.step()
                reason = self._divergence_at(result)
                if reason is None:
                    return result
            except Exception as error:
                self._give_up(adapter)
                raise AdaptationFailedError(f"{reason_of(error)}; {BACK}") from error
            self._give_up(adapter)
        raise AdaptationFailedError(f"it diverged ({reason}); {BACK}; {MEND}")

    def _divergence_at(self, result: StepResultLike) -> str | None:
        """Say how a step shows that its adapter's steps diverge; None where it does not."""
        if not math.isfinite(result.loss):
            return f"loss {result.loss} at step {result.step}"
        with self._changed:
            since = self._steps_before
            psnrs = [record.psnr for record in self._records if record.step > since]
        return divergence_of([*psnrs, result.psnr])

    def _give_up(self, adapter: AdapterLike) -> None:
        adapter.reset()
        with self._changed:
            self._adapter, steps = None, self._steps_before
            self._status = AdaptStatus(self._status.state, None, None, steps)
            while self._records and self._records[-1].step > steps:
                self._records.pop()

    def _move(self, state: AdaptState, only_from: AdaptState | None = None) -> None:
        with self._changed:
            now = self._status
            is_wanted = only_from is None or now.state is only_from
            if not is_wanted or state not in NEXT_STATES[now.state]:
                return
            self._status = AdaptStatus(state, now.last, now.problem, now.steps)
            self._changed.notify_all()
        self._tell()

    def _tell(self) -> None:
        self._on_status(self.status)
