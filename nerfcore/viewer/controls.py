"""Owns the page's controls: what each button does, and that its failure is said in the page.

What to show and the screenshot button belong to one client; adaptation, checkpoint and end are
shared by all. Actions run on the page's worker threads.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import viser

from nerfcore.viewer.adaptation import Adaptation, AdaptState, AdaptStatus
from nerfcore.viewer.client_view import ClientView
from nerfcore.viewer.colours import Show, legend_html
from nerfcore.viewer.reasons import reason_of

STATUS_EVERY_S: Final = 0.25
NO_ADAPTATION: Final = "This viewer was given no images to adapt to."


class Audience(Protocol):
    """Everybody who looks at the page."""

    def say(self, title: str, body: str, colour: str = "red") -> None:
        """Show a message to every client."""
        ...


def guarded(say: Callable[[str, str], None], title: str, action: Callable[[], None]) -> None:
    """Run a control's action; whatever it raises becomes a message in the page."""
    try:
        action()
    except Exception as error:  # noqa: BLE001 - a failed control must not end the viewer
        say(title, reason_of(error))


class ViewControls:
    """One client's controls: what is shown, the depth legend, the screenshot button."""

    def __init__(self, client: viser.ClientHandle, folder: Path, depth_max_m: float) -> None:
        self._folder = folder
        self._view: ClientView | None = None
        with client.gui.add_folder("View", order=0):
            self._show = client.gui.add_dropdown("Show", [show.value for show in Show])
            self._legend = client.gui.add_html(legend_html(depth_max_m), visible=False)
            self._picture = client.gui.add_markdown("*rendering*")
            screenshot = client.gui.add_button(
                "Screenshot", icon=viser.Icon.CAMERA, hint="Write a PNG into the job's folder"
            )
        self._show.on_update(lambda _: self._change_show())
        screenshot.on_click(lambda _: self._take_screenshot())

    def attach(self, view: ClientView) -> None:
        """Set the view these controls act on."""
        self._view = view

    def describe_picture(self, line: str) -> None:
        """Say what the picture on the page is."""
        self._picture.content = line

    def _change_show(self) -> None:
        if (view := self._view) is None:
            return

        def act() -> None:
            show = Show(self._show.value)
            self._legend.visible = show is Show.DEPTH
            view.show(show)

        guarded(view.say, "Show", act)

    def _take_screenshot(self) -> None:
        if (view := self._view) is None:
            return

        def act() -> None:
            path = view.save_screenshot(self._folder)
            view.say("Screenshot saved", f"{path.parent.name}/{path.name}", "green")

        guarded(view.say, "Screenshot not saved", act)


class AdaptationControls:
    """The shared controls of live adaptation and its status line."""

    def __init__(
        self,
        server: viser.ViserServer,
        adaptation: Adaptation | None,
        audience: Audience,
    ) -> None:
        self._adaptation = adaptation
        self._audience = audience
        self._lock = threading.Lock()
        self._shown_at = 0.0
        self._shown: AdaptStatus | None = None
        gui = server.gui
        with gui.add_folder("Live adaptation", order=1):
            self._line = gui.add_markdown(NO_ADAPTATION if adaptation is None else "Not started.")
            self._start = gui.add_button("Start adaptation", icon=viser.Icon.PLAYER_PLAY)
            self._step = gui.add_button("Single step", icon=viser.Icon.PLAYER_TRACK_NEXT)
            self._stop = gui.add_button("Stop adaptation", icon=viser.Icon.PLAYER_STOP)
            self._reset = gui.add_button("Reset adaptation", icon=viser.Icon.ARROW_BACK_UP)
        self._enable(AdaptState.IDLE, is_adapted=False)
        if adaptation is None:
            return
        self._on_click(self._start, "Adaptation not started", lambda: adaptation.start())
        self._on_click(self._step, "Step not taken", lambda: adaptation.start(max_steps=1))
        self._on_click(self._stop, "Adaptation not stopped", adaptation.stop)
        self._on_click(self._reset, "Adaptation not reset", adaptation.reset)

    def show(self, status: AdaptStatus) -> None:
        """Bring buttons and status line up to date; plain steps at most a few times a second."""
        with self._lock:
            before, now = self._shown, time.monotonic()
            is_step = before is not None and before.state is status.state
            if is_step and status.last is not None and now - self._shown_at < STATUS_EVERY_S:
                return
            self._shown, self._shown_at = status, now
            self._line.content = describe_status(status)
            self._enable(status.state, status.last is not None)
        if status.problem is not None and (before is None or before.problem != status.problem):
            self._audience.say("Adaptation ended", status.problem)

    def _enable(self, state: AdaptState, is_adapted: bool) -> None:
        is_missing, is_idle = self._adaptation is None, state is AdaptState.IDLE
        self._start.disabled = self._step.disabled = is_missing or not is_idle
        self._stop.disabled = is_missing or state not in (AdaptState.LOADING, AdaptState.RUNNING)
        self._reset.disabled = is_missing or not is_adapted

    def _on_click(
        self, button: viser.GuiButtonHandle, title: str, action: Callable[[], object]
    ) -> None:
        def act() -> None:
            action()

        button.on_click(lambda _: guarded(self._audience.say, title, act))


class JobControls:
    """The shared buttons that save a checkpoint and end the viewer."""

    def __init__(
        self,
        server: viser.ViserServer,
        audience: Audience,
        end: Callable[[], None],
        save: Callable[[], Path] | None,
    ) -> None:
        gui = server.gui
        with gui.add_folder("Job", order=2):
            self._save = gui.add_button(
                "Save checkpoint", icon=viser.Icon.DEVICE_FLOPPY, disabled=save is None
            )
            self._end = gui.add_button("End viewer", icon=viser.Icon.POWER, color="red")
        self._end.on_click(lambda _: end())
        if save is not None:
            self._save.on_click(
                lambda _: guarded(
                    audience.say, "Checkpoint not saved", lambda: self._save_now(audience, save)
                )
            )

    def _save_now(self, audience: Audience, save: Callable[[], Path]) -> None:
        self._save.disabled = True
        try:
            path = save()
        finally:
            self._save.disabled = False
        audience.say("Checkpoint saved", f"{path.parent.name}/{path.name}", "green")


def describe_status(status: AdaptStatus) -> str:
    """Return the status line of live adaptation."""
    parts = [f"**{status.state.value}**"]
    if status.last is not None:
        last = status.last
        parts.append(f"step {last.step}, loss {last.loss:.4g}, PSNR {last.psnr:.1f} dB")
        parts.append(f"{last.seconds / max(1, last.step):.2f} s a step")
    if status.problem is not None:
        parts.append(f"ended: {status.problem}")
    return " · ".join(parts)
