"""Owns the ledger's connection: whole transactions or none, and errors that name the mend.

One connection, one thread. A transaction may be taken inside another one: it is then part of it,
so that a burst of messages costs one wait for the disk.

A transaction is lasting when it outlives a power cut, which costs a wait for the disk. One that is
not outlives every kill of this process, and becomes lasting with the next lasting one: enough for
what nobody was told of yet, and for what can be read again.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mediator.errors import LedgerWriteError
from mediator.events import Topics
from mediator.ledger_file import (
    LEDGER_NAME,
    damage_named,
    mend_of,
    open_for_reading,
    open_for_writing,
)


class LedgerBase:
    """The connection that every part of the ledger shares.

    Args:
        log_root: the folder it lies in; its lock must be held (`ledger_file.hold_lock`) to write.
        topics: where events and dead letters go.
        read_only: open it beside a running mediator, to look only.
    """

    def __init__(self, log_root: Path, topics: Topics, *, read_only: bool = False) -> None:
        self._path = log_root / LEDGER_NAME
        self._topics = topics
        self._depth = 0
        self._behind = False
        self._once_kept: list[Callable[[], None]] = []
        self._connection = open_for_reading(log_root) if read_only else open_for_writing(log_root)
        self._connection.row_factory = sqlite3.Row
        facts = self._rows("SELECT value FROM facts WHERE name='mediator'")
        self.mediator = str(facts[0]["value"])

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def make_lasting(self) -> None:
        """Have all that was committed so far outlive a power cut.

        Raises:
            LedgerWriteError: as for `transaction`.
        """
        if self._behind:
            with self.transaction():
                # the wait for the disk comes with a write
                self._connection.execute("INSERT OR REPLACE INTO facts VALUES ('lasting', '1')")

    @contextlib.contextmanager
    def transaction(self, *, lasting: bool = True) -> Iterator[None]:
        """Make everything inside one change, or none of it.

        Args:
            lasting: outlive a power cut, not only a kill; inside another transaction, that one's
                choice holds.

        Raises:
            LedgerWriteError: rolled back (disk full, read-only); it may be tried again.
            LedgerCorruptError: the file is damaged.
        """
        point = f"inner{self._depth}" if self._depth else None
        before = len(self._once_kept)
        with damage_named(self._path):
            try:
                if point is None:
                    level = "FULL" if lasting else "NORMAL"
                    self._connection.execute(f"PRAGMA synchronous={level}")
                self._connection.execute(f"SAVEPOINT {point}" if point else "BEGIN IMMEDIATE")
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1
                self._connection.execute(f"RELEASE {point}" if point else "COMMIT")
                if point is None:
                    self._behind = not lasting
                    self._say_what_is_kept()
            except sqlite3.OperationalError as error:
                self._roll_back(point)
                del self._once_kept[before:]
                raise LedgerWriteError(
                    f"{self._path}: cannot be written ({error}); {mend_of(error, self._path)}"
                ) from None
            except BaseException:
                self._roll_back(point)
                del self._once_kept[before:]
                raise

    def once_kept(self, say: Callable[[], None]) -> None:
        """Say something as soon as what was written is committed; never if it is rolled back."""
        self._once_kept.append(say)
        if not self._depth:
            self._say_what_is_kept()

    def _say_what_is_kept(self) -> None:
        said, self._once_kept = self._once_kept, []
        for say in said:
            say()

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with damage_named(self._path):
            try:
                return self._connection.execute(query, values).fetchall()
            except sqlite3.OperationalError as error:
                raise LedgerWriteError(f"{self._path}: cannot be read ({error})") from None

    def _roll_back(self, point: str | None) -> None:
        # a full disk may have ended the whole transaction already
        if not self._connection.in_transaction:
            return
        if point is None:
            self._connection.execute("ROLLBACK")
        else:
            self._connection.execute(f"ROLLBACK TO {point}")
            self._connection.execute(f"RELEASE {point}")
