"""Owns messages whose decision must wait a moment, and the offsets that wait with them.

A topic with several partitions keeps no order between them, so a job may arrive before the job
whose checkpoint it names. Such a message is held and tried again. No offset at or beyond a held
one is stored in its partition, so a crash brings it back; what was decided beyond it is then
recognised by its source.
"""

from dataclasses import dataclass

from kafka_utils.consumer import Message

HOLD_S = 3.0
MOST_HELD = 1000


@dataclass
class _Partition:
    held: dict[int, tuple[Message, float]]
    furthest: Message | None = None


class Deferral:
    """Held messages by partition."""

    def __init__(self) -> None:
        self._partitions: dict[int, _Partition] = {}

    def __len__(self) -> int:
        return sum(len(partition.held) for partition in self._partitions.values())

    def hold(self, message: Message, now: float) -> None:
        """Hold a message; the time of its first hold counts."""
        self._of(message).held.setdefault(message.offset, (message, now))

    def held(self) -> list[tuple[Message, float]]:
        """Give the held messages, each with the time since when, the longest held first."""
        everything = [
            entry for partition in self._partitions.values() for entry in partition.held.values()
        ]
        return sorted(everything, key=lambda entry: entry[1])

    def decided(self, message: Message) -> Message | None:
        """Note that a message has its outcome.

        Returns:
            The message whose offset may be stored now, or None while an earlier one is held.
        """
        partition = self._of(message)
        partition.held.pop(message.offset, None)
        if partition.furthest is None or message.offset > partition.furthest.offset:
            partition.furthest = message
        return None if partition.held else partition.furthest

    def _of(self, message: Message) -> _Partition:
        return self._partitions.setdefault(message.partition, _Partition({}))
