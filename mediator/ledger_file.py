"""Owns the ledger's file: its lock, its birth, its checks, and how it is read and mended.

The ledger is `<log_root>/ledger.sqlite3` (SQLite, WAL, synchronous=FULL: a lasting transaction
survives a power cut, any other every kill; see `ledger_base`). It is born complete under another
name and renamed, so a file that is empty or has no schema is damage, never a beginning. One
mediator holds `<log_root>/ledger.lock` while it runs. Damage is reported with its mend and nothing
is recreated.
"""

import contextlib
import fcntl
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mediator.errors import LedgerCorruptError, LedgerError, LedgerLockedError
from mediator.ledger_schema import (
    APPLICATION_ID,
    FIFTH,
    FOURTH,
    INDEX,
    SCHEMA,
    SCHEMA_VERSION,
    SECOND,
    THIRD,
    UPGRADES,
)
from mediator.text import one_line

LEDGER_NAME = "ledger.sqlite3"
LOCK_NAME = "ledger.lock"
_BIRTH_SUFFIX = ".new"
SHOWN_DAMAGE_CHARS = 200


@contextlib.contextmanager
def hold_lock(log_root: Path) -> Iterator[None]:
    """Hold the log root's only lock; the kernel drops it when the process ends, however it ends.

    Raises:
        LedgerLockedError: another mediator holds it.
    """
    path = log_root / LOCK_NAME
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise LedgerLockedError(
                f"{path}: held by another mediator (pid {holder}); "
                "stop it first, or use another --log-root"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def open_for_writing(log_root: Path) -> sqlite3.Connection:
    """Open the ledger, creating it when the log root has none; the lock must be held.

    Raises:
        LedgerCorruptError: damaged, emptied, or its main file is gone while its journal is there.
        LedgerError: not writable, or of another version.
    """
    path = log_root / LEDGER_NAME
    try:
        if not path.exists():
            _refuse_orphaned_journal(path)
            _give_birth(path)
        _refuse_emptied(path)
        connection = sqlite3.connect(path, isolation_level=None, timeout=10)
    except (OSError, sqlite3.Error) as error:
        raise LedgerError(
            f"{path}: cannot be opened for writing ({error}); "
            "check the folder's permissions and free space"
        ) from None
    with _closing_on_error(connection), damage_named(path):
        try:
            version = _check_version(connection, path, oldest=1)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            _check_pages(connection, path)
            if version < SCHEMA_VERSION:
                _upgrade(connection, version)
            connection.execute(INDEX)
        except sqlite3.OperationalError as error:
            raise LedgerError(f"{path}: cannot be used ({error}); {mend_of(error, path)}") from None
    return connection


def open_for_reading(log_root: Path) -> sqlite3.Connection:
    """Open the ledger read-only, beside a mediator that may be writing it.

    Raises:
        LedgerError: there is none, it is damaged, or of another version.
    """
    path = log_root / LEDGER_NAME
    if not path.exists():
        raise LedgerError(f"{path}: no ledger here; start the mediator or name its --log-root")
    _refuse_emptied(path)
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10)
    with _closing_on_error(connection), damage_named(path):
        try:
            _check_version(connection, path)
        except sqlite3.OperationalError as error:
            connection.close()
            connection = _read_copy(path, error)
            _check_version(connection, path)
    return connection


def _read_copy(path: Path, error: sqlite3.OperationalError) -> sqlite3.Connection:
    """Read a ledger into memory whose folder cannot be written.

    Even to read it SQLite needs a file of its own beside it, unless a mediator has made one.

    Raises:
        LedgerError: a mediator may be writing it, or it cannot be read at all.
    """
    journal = path.with_name(path.name + "-wal")
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        with _not_locked(path.parent), tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / path.name
            shutil.copyfile(path, copy)
            if journal.exists():
                shutil.copyfile(journal, copy.with_name(journal.name))
            with contextlib.closing(sqlite3.connect(copy)) as source:
                source.backup(connection)
    except (OSError, sqlite3.OperationalError) as second:
        connection.close()
        raise LedgerError(
            f"{path}: cannot be read ({error}), nor a copy of it made ({second}); read it as a "
            "user who may write its folder"
        ) from None
    return connection


@contextlib.contextmanager
def _not_locked(log_root: Path) -> Iterator[None]:
    """Keep a mediator from starting here meanwhile.

    Raises:
        LedgerLockedError: one is running.
        OSError: the lock file cannot be read.
    """
    try:
        descriptor = os.open(log_root / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LedgerLockedError(
                f"{log_root / LEDGER_NAME}: a mediator writes it, and it cannot be read beside "
                "that without writing its folder; read it as a user who may"
            ) from None
        yield
    finally:
        os.close(descriptor)


def mend_of(error: sqlite3.OperationalError, path: Path) -> str:
    """Give what helps against SQLite's refusal to read or write."""
    what = getattr(error, "sqlite_errorname", "")
    if what.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"another program keeps it locked; end that one (`fuser {path}` names it)"
    if what.startswith("SQLITE_FULL"):
        return "free space on its disk"
    if what.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")):
        return f"make {path.parent} and what is in it writable for this user"
    return "free space on its disk or mend its permissions"


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn SQLite's report of a damaged file into one line with the mend."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        # damage is reported as this very class; its subclasses mean other things
        if type(error) is not sqlite3.DatabaseError:
            raise
        raise corrupt(path, str(error)) from None


def corrupt(path: Path, what: str, *, salvage: bool = True) -> LedgerCorruptError:
    """Give the error for a damaged ledger, with the mend.

    Args:
        path: the ledger.
        what: what is wrong with it.
        salvage: something may be read out of it.
    """
    # `.recover` needs a part of SQLite that Debian builds without
    marks = f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={_version_of(path)};"
    command = (
        f"(sqlite3 {path} .dump | grep -v -e ^COMMIT -e ^ROLLBACK; echo 'COMMIT; {marks}') | "
        f"sqlite3 {path.with_name('mended.sqlite3')}"
    )
    mend = f"`{command}`, then put that in its place and remove {path}-*; or " if salvage else ""
    return LedgerCorruptError(
        f"{path}: the ledger is damaged ({one_line(what, SHOWN_DAMAGE_CHARS)}); it is left as it "
        f"is. Mend: {mend}put a copy of the whole file back; or move {path}* aside to begin with "
        "an empty ledger (jobs not yet run are then lost)"
    )


def _version_of(path: Path) -> int:
    """Give the ledger version in a damaged file's header; this one's where it says none."""
    try:
        with path.open("rb") as file:
            header = file.read(64)
    except OSError:
        return SCHEMA_VERSION
    version = int.from_bytes(header[60:64], "big")
    return version if 0 < version <= SCHEMA_VERSION else SCHEMA_VERSION


def _refuse_orphaned_journal(path: Path) -> None:
    journal = path.with_name(path.name + "-wal")
    if journal.exists() and journal.stat().st_size > 0:
        raise corrupt(path, f"the file is gone but {journal.name} is there", salvage=False)


def _refuse_emptied(path: Path) -> None:
    if path.stat().st_size == 0:
        raise corrupt(path, "the file is empty", salvage=False)


def _give_birth(path: Path) -> None:
    infant = path.with_name(path.name + _BIRTH_SUFFIX)
    infant.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(infant, isolation_level=None)) as connection:
        connection.executescript(
            f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={SCHEMA_VERSION};"
            f"BEGIN;{SCHEMA}{SECOND}{THIRD}{FOURTH}{FIFTH}COMMIT;"
        )
    infant.chmod(0o640)
    with infant.open("rb") as handle:
        os.fsync(handle.fileno())
    infant.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _check_pages(connection: sqlite3.Connection, path: Path) -> None:
    findings = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
    if findings != ["ok"]:
        raise corrupt(path, "; ".join(findings))


def _upgrade(connection: sqlite3.Connection, version: int) -> None:
    steps = "".join(UPGRADES[target] for target in range(version + 1, SCHEMA_VERSION + 1))
    connection.executescript(f"BEGIN IMMEDIATE;{steps}PRAGMA user_version={SCHEMA_VERSION};COMMIT;")


def _check_version(connection: sqlite3.Connection, path: Path, oldest: int = SCHEMA_VERSION) -> int:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID:
        raise corrupt(path, "it is an SQLite file, but not a ledger")
    if not oldest <= version <= SCHEMA_VERSION:
        mend = (
            "start this mediator on it once, which brings it up to date"
            if 0 < version < SCHEMA_VERSION
            else "use the mediator that wrote it, or another --log-root"
        )
        raise LedgerError(
            f"{path}: ledger version {version}, this mediator reads {SCHEMA_VERSION}; {mend}"
        )
    return version


@contextlib.contextmanager
def _closing_on_error(connection: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise
