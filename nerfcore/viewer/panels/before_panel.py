"""Owns one client's switch between the model now and before adaptation."""

from typing import Final

from nerfcore.viewer.client_view import ClientView
from nerfcore.viewer.look import Compare
from nerfcore.viewer.reasons import guarded

SHARES: Final = {"Now": 0.0, "Before": 1.0, "Half and half": 0.5}


class BeforePanel:
    """The switch.

    Args:
        view: acted on.
    """

    def __init__(self, view: ClientView) -> None:
        self._view = view
        switch = view.client.gui.add_button_group(
            "Show model", list(SHARES), hint="As loaded, as adapted, or left before and right now"
        )
        switch.on_click(
            lambda _: guarded(view.say, "Not shown", lambda: self._show(SHARES[switch.value]))
        )

    def _show(self, share: float) -> None:
        compare = Compare.BEFORE if share > 0.0 else Compare.OFF
        self._view.change_look(compare=compare, compare_share=share)
