"""Owns live adaptation: a thread that steps an adapter while the page shows the model.

Every step takes its turn with the renders. A step that raises, or whose loss is not finite, ends
the adaptation: the model is put back to what it was before the run's adapter was made within the
same turn, so no picture shows the broken state, and the reason goes to the page. So does a run that
diverges with finite losses: the adapter is asked every few steps, when a run ends, and before the
model is saved.
"""

import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from nerfcore.errors import NerfcoreError
from nerfcore.viewer.preparation import GivenUpError, Preparation
from nerfcore.viewer.protocols import AdaptChoice, AdapterLike, AdaptingLike, StepResultLike
from nerfcore.viewer.reasons import reason_of
from nerfcore.viewer.sharing import Turns

HELD_STEPS: Final = 4000
JUDGED_EVERY_STEPS: Final = 8
BACK: Final = "the model is back as it was before"
MEND: Final = "lower the rates (Adapt, Images and rates) and start again"

_log = logging.getLogger(__name__)


class AdaptationFailedError(NerfcoreError):
    """Adaptation diverged or raised; the shown model is the one from before it."""


class AdaptState(StrEnum):
    """Where live adaptation stands."""

    IDLE = "idle"
    LOADING = "loading images"
    LOOKING = "looking over images"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"


_ENDS: Final = frozenset({AdaptState.STOPPING, AdaptState.IDLE})
NEXT_STATES: Final[dict[AdaptState, frozenset[AdaptState]]] = {
    AdaptState.IDLE: frozenset({AdaptState.LOADING}),
    AdaptState.LOADING: _ENDS | {AdaptState.LOOKING, AdaptState.RUNNING},
    AdaptState.LOOKING: _ENDS | {AdaptState.RUNNING},
    AdaptState.RUNNING: _ENDS | {AdaptState.PAUSED, AdaptState.LOOKING},
    AdaptState.PAUSED: _ENDS | {AdaptState.RUNNING},
    AdaptState.STOPPING: frozenset({AdaptState.IDLE}),
}


@dataclass(frozen=True)
class AdaptStatus:
    """What the page says about adaptation.

    Attributes:
        state: where it stands.
        last: the newest step's report; None before the first and after a reset.
        problem: why the last run ended early, one line; None if it did not.
        steps: adaptation steps in the shown model, since it was loaded.
        looked: images looked over before the first step, and of how many; None else.
    """

    state: AdaptState
    last: StepResultLike | None
    problem: str | None
    steps: int = 0
    looked: tuple[int, int] | None = None


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
        self._made_from: tuple[int, tuple[str, ...]] = (0, ())
        self._batches: tuple[str, ...] = ()
        self._generation = 0
        self._is_endless = False
        self._status = AdaptStatus(AdaptState.IDLE, None, None)
        self._records: deque[StepRecord] = deque(maxlen=HELD_STEPS)
        self._is_stop_asked = False
        self._thread: threading.Thread | None = None

    @property
    def status(self) -> AdaptStatus:
        """The newest status."""
        with self._changed:
            return self._status

    @property
    def batches(self) -> tuple[str, ...]:
        """Names of the images that the shown model was adapted to, in order."""
        with self._changed:
            return self._batches

    def records(self) -> tuple[StepRecord, ...]:
        """Return the last steps since the last reset, the newest last."""
        with self._changed:
            return tuple(self._records)

    def start(self, choice: AdaptChoice, max_steps: int | None = None) -> bool:
        """Begin or go on adapting; False when it runs already.

        Args:
            choice: images and rates; an adapter goes on with other rates, if it can.
            max_steps: stop after so many steps; None = until `stop`.
        """
        with self._changed:
            if self._status.state is not AdaptState.IDLE:
                return False
            self._is_stop_asked, self._is_endless = False, max_steps is None
            self._status = replace(self._status, state=AdaptState.LOADING, problem=None)
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

    def stop_endless(self) -> None:
        """Stop a run that nobody set an end for, because nobody is there to stop it."""
        with self._changed:
            is_endless = self._is_endless and self._status.state is not AdaptState.IDLE
        if is_endless:
            self.stop()

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
        """Take note that the shown model was exchanged: adapters of the old one are dropped.

        So is one that is being made meanwhile, on the run's thread.
        """
        with self._changed:
            self._generation += 1
            self._adapter, self._batches = None, ()
            self._records.clear()
            self._status = AdaptStatus(self._status.state, None, None)
        self._tell()

    def require_sound(self) -> None:
        """Refuse to save what adaptation made diverge, and put it back; has the model.

        Raises:
            AdaptationFailedError: it had diverged.
        """
        with self._changed:
            adapter = self._adapter
        if adapter is None:
            return
        try:
            self._judge(adapter)
        except AdaptationFailedError as error:
            self.stop()  # a run under way must not go on from there unasked
            with self._changed:
                self._status = replace(self._status, problem=reason_of(error))
            self._tell()
            raise AdaptationFailedError(f"nothing was saved, {reason_of(error)}") from error

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
            now = self._status
            problem = now.problem if problem is None else problem
            last = now.last if problem is None else None
            self._status = AdaptStatus(AdaptState.IDLE, last, problem, now.steps)
        self._tell()

    def _adapt(self, choice: AdaptChoice, max_steps: int | None) -> None:
        taken, prepared = 0, None
        while not self._is_stop_asked and (max_steps is None or taken < max_steps):
            adapter = self._ready_adapter(choice)
            if adapter is not prepared and not self._prepare(adapter):
                break
            prepared = adapter
            for state in (AdaptState.LOADING, AdaptState.LOOKING):
                self._move(AdaptState.RUNNING, only_from=state)
            if not self._wait_while_paused():
                break
            taken += self._step(adapter, choice)
        self._judge_at_the_end()

    def _ready_adapter(self, choice: AdaptChoice) -> AdapterLike:
        """The run's adapter, with the run's rates; a new one after the model was exchanged."""
        while True:
            with self._changed:
                adapter, generation = self._adapter, self._generation
                made_from = self._status.steps, self._batches
                is_tuned = choice == self._choice
            if adapter is None or not (is_tuned or adapter.retune(choice)):
                adapter = self._adapting.make(choice, made_from[0])
            with self._changed:
                if generation != self._generation:
                    continue
                if adapter is not self._adapter:
                    self._adapter, self._made_from = adapter, made_from
                self._choice = choice
                return adapter

    def _prepare(self, adapter: AdapterLike) -> bool:
        """Let an adapter look at the model while renders go on; False when the run is to end."""
        try:
            adapter.prepare(Preparation(self._turns, lambda: self._is_stop_asked, self._look))
        except GivenUpError:
            return False
        with self._changed:
            self._status = replace(self._status, looked=None)
        return True

    def _look(self, done: int, total: int) -> None:
        """Tell how far an adapter's preparation is."""
        with self._changed:
            self._status = replace(self._status, looked=(done, total))
        for state in (AdaptState.LOADING, AdaptState.RUNNING):
            self._move(AdaptState.LOOKING, only_from=state)
        self._tell()

    def _wait_while_paused(self) -> bool:
        """Wait for the end of a pause; False when the run is to end."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_stop_asked or self._status.state is not AdaptState.PAUSED
            )
            return not self._is_stop_asked

    def _step(self, adapter: AdapterLike, choice: AdaptChoice) -> int:
        """Take one step; 0 when the model was exchanged since the adapter was made, else 1."""
        with self._turns.turn():
            with self._changed:
                if adapter is not self._adapter:
                    return 0
            try:
                result = adapter.step()
                if not math.isfinite(result.loss):
                    raise AdaptationFailedError(
                        f"it diverged (loss {result.loss} at step {result.step}); {MEND}"
                    )
            except Exception as error:
                back = self._give_up(adapter)
                raise AdaptationFailedError(f"{reason_of(error)}; {back}") from error
            self._note(result, choice)
            if result.step % JUDGED_EVERY_STEPS == 0:
                self._judge(adapter)
        self._tell()
        return 1

    def _note(self, result: StepResultLike, choice: AdaptChoice) -> None:
        with self._changed:
            steps = self._status.steps + 1
            self._status = replace(self._status, last=result, problem=None, steps=steps)
            self._records.append(StepRecord(steps, result.loss, result.psnr))
            if self._batches[-1:] != (choice.batch,):
                self._batches = (*self._batches, choice.batch)

    def _judge_at_the_end(self) -> None:
        """Judge what a run leaves, unless the model was exchanged meanwhile."""
        with self._turns.turn():
            with self._changed:
                adapter = self._adapter
            if adapter is not None:
                self._judge(adapter)

    def _judge(self, adapter: AdapterLike) -> None:
        """Put the model back if its adaptation diverged; has the model to itself.

        Raises:
            AdaptationFailedError: it did.
        """
        reason = adapter.divergence()
        if reason is not None:
            back = self._give_up(adapter)
            raise AdaptationFailedError(f"it diverged ({reason}); {back}; {MEND}")

    def _give_up(self, adapter: AdapterLike) -> str:
        """Put the model back; say to where, for steps of earlier runs are undone too."""
        adapter.reset()
        with self._changed:
            self._generation += 1
            self._adapter, undone = None, self._status.steps - self._made_from[0]
            steps, self._batches = self._made_from
            self._status = AdaptStatus(self._status.state, None, None, steps)
            while self._records and self._records[-1].step > steps:
                self._records.pop()
        return f"{BACK} its {undone} steps" if undone > 1 else BACK

    def _move(self, state: AdaptState, only_from: AdaptState | None = None) -> None:
        with self._changed:
            now = self._status
            is_wanted = only_from is None or now.state is only_from
            if not is_wanted or state not in NEXT_STATES[now.state]:
                return
            self._status = replace(now, state=state)
            self._changed.notify_all()
        self._tell()

    def _tell(self) -> None:
        self._on_status(self.status)
