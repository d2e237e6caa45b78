"""Owns the shared panel of the model's versions: loading, following a training run, saving."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import viser

from nerfcore.viewer.panels.audience import Audience
from nerfcore.viewer.reasons import guarded
from nerfcore.viewer.versioning import Versioning

NO_VERSIONS: Final = "This viewer was given no versions."


class VersionPanel:
    """The shared controls of versions.

    Args:
        gui: the server's, within the panel.
        versioning: acted on; None = none.
        audience: told what goes wrong.
        is_following: follow the training run from the start.
    """

    def __init__(
        self,
        gui: viser.GuiApi,
        versioning: Versioning | None,
        audience: Audience,
        *,
        is_following: bool,
    ) -> None:
        self._versioning = versioning
        self._audience = audience
        is_missing = versioning is None
        names = [] if versioning is None else versioning.names()
        self._shown = gui.add_markdown(
            NO_VERSIONS if versioning is None else f"Shown: **{versioning.current}**"
        )
        self._name = gui.add_dropdown("Version", names or ["none"], disabled=is_missing)
        if versioning is not None and versioning.current in names:
            self._name.value = versioning.current
        self._load = gui.add_button("Load version", icon=viser.Icon.REFRESH, disabled=is_missing)
        self._follow = gui.add_checkbox(
            "Follow training", is_following, disabled=is_missing, hint="Show each new checkpoint"
        )
        self._save = gui.add_button(
            "Save checkpoint", icon=viser.Icon.DEVICE_FLOPPY, disabled=is_missing
        )
        if versioning is None:
            return
        self._on_click(self._load, "Version not loaded", self._load_now)
        self._on_click(self._save, "Checkpoint not saved", self._save_now)
        self._follow.on_update(lambda _: versioning.follow(bool(self._follow.value)))
        versioning.follow(is_following)

    def show(self, name: str) -> None:
        """Say which version is shown, and choose it."""
        self._shown.content = f"Shown: **{name}**"
        self._renew()
        if name in self._name.options:
            self._name.value = name

    def _on_click(
        self, button: viser.GuiButtonHandle, title: str, action: Callable[[], object]
    ) -> None:
        button.on_click(lambda _: guarded(self._audience.say, title, lambda: _once(button, action)))

    def _renew(self) -> None:
        if self._versioning is None:
            return
        names, chosen = self._versioning.names(), self._name.value
        if names and tuple(names) != tuple(self._name.options):
            self._name.options = names
            self._name.value = chosen if chosen in names else names[-1]

    def _load_now(self) -> None:
        if self._versioning is not None:
            try:
                self._versioning.load(self._name.value)
            finally:
                self._renew()

    def _save_now(self) -> None:
        if self._versioning is None:
            return
        path: Path = self._versioning.save()
        self._renew()
        self._audience.say("Checkpoint saved", f"{path.parent.name}/{path.name}", "green")


def _once(button: viser.GuiButtonHandle, action: Callable[[], object]) -> None:
    """Keep a button off while its action runs."""
    button.disabled = True
    try:
        action()
    finally:
        button.disabled = False
