"""Owns how an adapter prepares beside the renders: short turns with the model, told progress."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Final

from nerfcore.viewer.sharing import Turns

SLICE_S: Final = 0.03
"""A moving camera waits for at most this long and a chunk of rays."""


class GivenUpError(Exception):
    """Raised through an adapter that prepares when the run is to end."""


class Preparation:
    """What an adapter is given to prepare with.

    Args:
        turns: the order of use of the model.
        is_stop_asked: True when the run is to end.
        on_looked: called with the images looked over, and of how many.
    """

    def __init__(
        self,
        turns: Turns,
        is_stop_asked: Callable[[], bool],
        on_looked: Callable[[int, int], None],
    ) -> None:
        self._turns = turns
        self._is_stop_asked = is_stop_asked
        self._on_looked = on_looked

    @contextlib.contextmanager
    def model(self) -> Iterator[Callable[[], bool]]:
        """Have the model for the block; yields what is to be called between chunks of rays.

        Raises:
            GivenUpError: the run is to end.
        """
        with self._turns.turn() as turn:

            def asked() -> bool:
                turn.give_way(SLICE_S)
                if self._is_stop_asked():
                    raise GivenUpError
                return False

            asked()
            yield asked

    def looked(self, done: int, total: int) -> None:
        """Tell how many images were looked over."""
        self._on_looked(done, total)
