"""Owns the shared panel of live adaptation: images, rates, start to reset, loss and PSNR plots."""

import threading
import time
from collections.abc import Callable
from typing import Final

import numpy as np
import viser
from viser import uplot

from nerfcore.viewer.adaptation import Adaptation, AdaptState, AdaptStatus
from nerfcore.viewer.limits import one_of, within
from nerfcore.viewer.panels.audience import Audience
from nerfcore.viewer.protocols import AdaptChoice, AdaptingLike
from nerfcore.viewer.reasons import guarded

STATUS_EVERY_S: Final = 0.25
PLOT_EVERY_S: Final = 0.6
PLOT_POINTS: Final = 400
PLOT_HEIGHT_PX: Final = 105
NOTHING_PLOTTED: Final = (np.array([0.0, 1.0]), np.array([np.nan, np.nan]))
IDLE: Final = AdaptStatus(AdaptState.IDLE, None, None)
MOST_STEPS: Final = 1_000_000
FEWEST_RAYS: Final = 16
MOST_RAYS: Final = 262_144
MOST_REPLAY: Final = 0.9
MOST_RATE: Final = 1.0
TABLES_RATE: Final = "Rate, tables"
DENSITY_RATE: Final = "Rate, density"
COLOUR_RATE: Final = "Rate, colour"
NO_ADAPTATION: Final = "This viewer was given no images to adapt to."
NO_STEP: Final = "no step taken yet"
LAST: Final = 1e6  # place in the tab: what comes and goes lies below everything that is clicked


class AdaptPanel:
    """The shared controls of live adaptation.

    Args:
        gui: the server's, within the panel.
        adaptation, adapting: acted on; None = no adaptation.
        audience: told what goes wrong.
    """

    def __init__(
        self,
        gui: viser.GuiApi,
        adaptation: Adaptation | None,
        adapting: AdaptingLike | None,
        audience: Audience,
    ) -> None:
        self._adaptation = adaptation
        self._audience = audience
        self._lock = threading.Lock()
        self._shown_at = self._plotted_at = 0.0
        self._shown: AdaptStatus | None = None
        is_missing = adaptation is None or adapting is None
        self._line = gui.add_markdown(NO_ADAPTATION if is_missing else describe_status(IDLE))
        self._start = gui.add_button("Start adaptation", icon=viser.Icon.PLAYER_PLAY)
        self._pause = gui.add_button("Pause", icon=viser.Icon.PLAYER_PAUSE)
        self._step = gui.add_button("Single step", icon=viser.Icon.PLAYER_TRACK_NEXT)
        self._stop = gui.add_button("Stop adaptation", icon=viser.Icon.PLAYER_STOP)
        self._reset = gui.add_button("Reset adaptation", icon=viser.Icon.ARROW_BACK_UP)
        # In sight while rates are chosen, and there from the start: what is clicked must not move.
        self._psnr, self._loss = _plot(gui, "PSNR (dB)"), _plot(gui, "Loss")
        self._choices = None if adapting is None else _Choices(gui, adapting)
        self._problem = gui.add_markdown("", order=LAST)
        self._enable(AdaptState.IDLE, is_adapted=False)
        if adaptation is None or self._choices is None:
            return
        choices = self._choices
        self._on_click(
            self._start,
            "Adaptation not started",
            lambda: adaptation.start(choices.choice(), choices.steps()),
        )
        self._on_click(
            self._step, "Step not taken", lambda: adaptation.start(choices.choice(), max_steps=1)
        )
        self._on_click(self._pause, "Not paused", self._pause_or_resume)
        self._on_click(self._stop, "Adaptation not stopped", adaptation.stop)
        self._on_click(self._reset, "Adaptation not reset", adaptation.reset)

    def show(self, status: AdaptStatus) -> None:
        """Bring buttons, status line and plots up to date; plain steps a few times a second."""
        with self._lock:
            before, now = self._shown, time.monotonic()
            is_step = before is not None and before.state is status.state
            if is_step and status.last is not None and now - self._shown_at < STATUS_EVERY_S:
                return
            self._shown, self._shown_at = status, now
            self._line.content = describe_status(status)
            self._problem.content = "" if status.problem is None else f"Ended: {status.problem}"
            self._enable(status.state, status.steps > 0 or status.last is not None)
            if not is_step or now - self._plotted_at >= PLOT_EVERY_S:
                self._plotted_at = now
                self._draw_plots()
        if status.problem is not None and (before is None or before.problem != status.problem):
            self._audience.say("Adaptation ended", status.problem)

    def _pause_or_resume(self) -> None:
        if self._adaptation is None:
            return
        if self._adaptation.status.state is AdaptState.PAUSED:
            self._adaptation.resume()
        else:
            self._adaptation.pause()

    def _draw_plots(self) -> None:
        records = () if self._adaptation is None else self._adaptation.records()
        stride = max(1, -(-len(records) // PLOT_POINTS))
        chosen = records[::stride]
        steps = np.array([record.step for record in chosen], np.float64)
        for plot, name in ((self._loss, "loss"), (self._psnr, "psnr")):
            values = np.array([getattr(record, name) for record in chosen], np.float64)
            plot.data = (steps, values) if len(chosen) > 1 else NOTHING_PLOTTED

    def _enable(self, state: AdaptState, is_adapted: bool) -> None:
        is_missing, is_idle = self._adaptation is None, state is AdaptState.IDLE
        is_under_way = not is_idle and state is not AdaptState.STOPPING
        self._start.disabled = self._step.disabled = is_missing or not is_idle
        self._stop.disabled = is_missing or not is_under_way
        self._pause.disabled = is_missing or state not in (AdaptState.RUNNING, AdaptState.PAUSED)
        self._pause.label = "Resume" if state is AdaptState.PAUSED else "Pause"
        self._reset.disabled = is_missing or not is_adapted

    def _on_click(
        self, button: viser.GuiButtonHandle, title: str, action: Callable[[], object]
    ) -> None:
        button.on_click(lambda _: guarded(self._audience.say, title, action))


class _Choices:
    """What to adapt to, and how."""

    def __init__(self, gui: viser.GuiApi, adapting: AdaptingLike) -> None:
        first = adapting.choice
        self._batches = tuple(adapting.batches)
        with gui.add_folder("Images and rates", expand_by_default=False):
            self._batch = gui.add_dropdown("Images", self._batches, initial_value=first.batch)
            self._steps = gui.add_number(
                "Steps", 0, min=0, max=MOST_STEPS, step=16, hint="0 = until stopped"
            )
            self._rays = gui.add_number(
                "Rays a step", first.rays, min=FEWEST_RAYS, max=MOST_RAYS, step=256
            )
            self._replay = gui.add_slider(
                "Old images", 0.0, MOST_REPLAY, 0.05, first.replay, hint="share of the rays"
            )
            self._encoding = _rate(gui, TABLES_RATE, first.encoding_lr)
            self._sigma = _rate(gui, DENSITY_RATE, first.sigma_lr)
            self._color = _rate(gui, COLOUR_RATE, first.color_lr)

    def choice(self) -> AdaptChoice:
        return AdaptChoice(
            batch=one_of("Images", self._batch.value, self._batches),
            rays=int(within("Rays a step", self._rays.value, FEWEST_RAYS, MOST_RAYS)),
            replay=within("Old images", self._replay.value, 0.0, MOST_REPLAY),
            encoding_lr=within(TABLES_RATE, self._encoding.value, 0.0, MOST_RATE),
            sigma_lr=within(DENSITY_RATE, self._sigma.value, 0.0, MOST_RATE),
            color_lr=within(COLOUR_RATE, self._color.value, 0.0, MOST_RATE),
        )

    def steps(self) -> int | None:
        return int(within("Steps", self._steps.value, 0, MOST_STEPS)) or None


def describe_status(status: AdaptStatus) -> str:
    """Return the status of live adaptation in two lines, Markdown: the buttons below stay."""
    state, last = f"**{status.state.value}**", status.last
    if status.looked is not None:
        done, total = status.looked
        what = "rendered beside the model" if done < total else "comparing them by ground cell"
        return f"{state}  \n{done} of {total}, {what}"
    if last is None:
        return f"{state}  \n{NO_STEP}"
    pace = f"{last.seconds / max(1, last.step):.2f} s a step"
    return f"{state} · step {status.steps}  \nloss {last.loss:.4g}, PSNR {last.psnr:.1f} dB, {pace}"


def _rate(gui: viser.GuiApi, label: str, value: float) -> viser.GuiInputHandle[float]:
    return gui.add_number(label, float(value), min=0.0, max=MOST_RATE, step=1e-4)


def _plot(gui: viser.GuiApi, name: str) -> viser.GuiUplotHandle:
    series = (uplot.Series(label="step"), uplot.Series(label=name, stroke="#4c9bff", width=2))
    return gui.add_uplot(
        NOTHING_PLOTTED, series, title=name, scales={"x": uplot.Scale(time=False)},
        height=PLOT_HEIGHT_PX, legend=uplot.Legend(show=False),
    )  # fmt: skip
