"""Owns what shared panels need to know of the people who look at the page."""

from typing import Protocol


class Audience(Protocol):
    """Everybody who looks at the page."""

    def say(self, title: str, body: str, colour: str = "red") -> None:
        """Show a message to every client."""
        ...
