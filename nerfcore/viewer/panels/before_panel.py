"""Owns one client's switch between the model now and before adaptation."""

from typing import Final

from nerfcore.viewer.client_view import ClientView
from nerfcore.viewer.limits import one_of
from nerfcore.viewer.look import Compare
from nerfcore.viewer.panels.photo_panel import PhotoPanel
from nerfcore.viewer.reasons import guarded

SHARES: Final = {"Now": 0.0, "Before": 1.0, "Half and half": 0.5}


class BeforePanel:
    """The switch.

    Args:
        view: acted on.
        photos: whose choice of what to compare with is the same one.
    """

    def __init__(self, view: ClientView, photos: PhotoPanel) -> None:
        self._photos = photos
        switch = view.client.gui.add_button_group(
            "Show model", list(SHARES), hint="As loaded, as adapted, or left before and right now"
        )
        self._switch = switch
        switch.on_click(lambda _: guarded(view.say, "Not shown", self._show_model))

    def _show_model(self) -> None:
        share = SHARES[one_of("Show model", self._switch.value, SHARES)]
        self._photos.compare_with(Compare.BEFORE if share > 0.0 else Compare.OFF, share)
