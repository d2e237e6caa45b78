"""Owns one client's switch between the model now and before adaptation."""

from typing import Final

from nerfcore.viewer.client_view import ClientView
from nerfcore.viewer.limits import one_of
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
        self._switch = switch
        switch.on_click(
            lambda _: guarded(view.say, "Not shown", lambda: view.change_look(self._wanted))
        )

    def _wanted(self) -> dict[str, object]:
        share = SHARES[one_of("Show model", self._switch.value, SHARES)]
        return {
            "compare": Compare.BEFORE if share > 0.0 else Compare.OFF,
            "compare_share": share,
        }
