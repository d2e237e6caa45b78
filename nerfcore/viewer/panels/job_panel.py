"""Owns the shared panel about the job: what is shown here, and the end."""

from collections.abc import Callable

import viser


class JobPanel:
    """The shared end button, and a few lines about the job.

    Args:
        gui: the server's, within the panel.
        lines: Markdown about what is shown.
        end: ends the viewer.
    """

    def __init__(self, gui: viser.GuiApi, lines: str, end: Callable[[], None]) -> None:
        gui.add_markdown(lines)
        self._end = gui.add_button("End viewer", icon=viser.Icon.POWER, color="red")
        self._end.on_click(lambda _: end())
