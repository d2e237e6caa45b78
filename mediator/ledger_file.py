"""Owns the ledger's file: its lock, its birth, its checks and its schema.

The ledger is `<log_root>/ledger.sqlite3` (SQLite, WAL, synchronous=FULL: a lasting transaction
survives a power cut, any other every kill; see `ledger_base`). It is born complete under another
name and renamed, so a file that is empty or has no schema is damage, never a beginning. One
mediator holds `<log_root>/ledger.lock` while it runs. Damage is reported with its mend and nothing
is recreated.
"""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from mediator.errors import LedgerCorruptError, LedgerError, LedgerLockedError

LEDGER_NAME = "ledger.sqlite3"
LOCK_NAME = "ledger.lock"
APPLICATION_ID = 0x534B594C  # "SKYL"
SCHEMA_VERSION = 3
_BIRTH_SUFFIX = ".new"

_SCHEMA = """
CREATE TABLE jobs (
    job_id TEXT PRIMARY KEY,
    op TEXT NOT NULL,
    spec TEXT NOT NULL,
    spec_sha256 TEXT NOT NULL,
    state TEXT NOT NULL,
    priority INTEGER NOT NULL,
    sequence INTEGER NOT NULL UNIQUE,
    attempt INTEGER NOT NULL DEFAULT 0,
    waits_for TEXT,
    slot TEXT,
    run_token TEXT,
    boot_id TEXT,
    pid INTEGER,
    start_ticks INTEGER,
    received_at TEXT NOT NULL,
    started_at TEXT,
    ended_at TEXT,
    reason TEXT,
    exit_code INTEGER,
    event_seq INTEGER NOT NULL DEFAULT 0,
    progress_offset INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX jobs_by_state ON jobs (state, op, priority DESC, sequence);
CREATE TABLE sources (
    cluster_id TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    job_id TEXT,
    outcome TEXT NOT NULL,
    PRIMARY KEY (cluster_id, topic, partition, offset)
) STRICT, WITHOUT ROWID;
CREATE TABLE outbox (
    entry_id INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT,
    seq INTEGER,
    topic TEXT NOT NULL,
    key TEXT,
    headers TEXT NOT NULL,
    payload BLOB NOT NULL,
    sent_at TEXT
) STRICT;
CREATE INDEX outbox_unsent ON outbox (entry_id) WHERE sent_at IS NULL;
"""

# What version 2 added; a ledger of version 1 gets it when it is opened for writing.
_SECOND = """
ALTER TABLE jobs ADD COLUMN epoch INTEGER NOT NULL DEFAULT 1;
ALTER TABLE jobs ADD COLUMN claimed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN not_before REAL NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN cancel_reason TEXT;
ALTER TABLE jobs ADD COLUMN source_cluster TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN source_topic TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN source_partition INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN source_offset INTEGER NOT NULL DEFAULT 0;
CREATE INDEX jobs_waiting_for ON jobs (waits_for) WHERE waits_for IS NOT NULL;
CREATE TABLE history (
    entry INTEGER PRIMARY KEY,
    job_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    time TEXT NOT NULL,
    reason TEXT
) STRICT;
CREATE INDEX history_of_job ON history (job_id, entry);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
INSERT INTO facts VALUES ('mediator', lower(hex(randomblob(6))));
CREATE TABLE reached (
    cluster_id TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    PRIMARY KEY (cluster_id, topic, partition)
) STRICT, WITHOUT ROWID;
CREATE TABLE watches (
    job_id TEXT PRIMARY KEY,
    op TEXT NOT NULL,
    spec TEXT NOT NULL,
    spec_sha256 TEXT NOT NULL,
    priority INTEGER NOT NULL,
    waits_for TEXT,
    source_cluster TEXT NOT NULL,
    source_topic TEXT NOT NULL,
    source_partition INTEGER NOT NULL,
    source_offset INTEGER NOT NULL
) STRICT;
CREATE TABLE controls (
    source TEXT PRIMARY KEY,
    op TEXT NOT NULL,
    job_id TEXT NOT NULL,
    received_at TEXT NOT NULL,
    open INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE INDEX controls_of_job ON controls (job_id) WHERE open;
CREATE TABLE peers (mediator TEXT PRIMARY KEY, seen_at REAL NOT NULL) STRICT;
"""

# What version 3 added: events that wait until their job's claim is read back, the message of a job
# that is left to the mediator which has what it builds on, how often a job was broken off unasked,
# and the processes of each slot's last run.
_THIRD = """
ALTER TABLE outbox ADD COLUMN held INTEGER NOT NULL DEFAULT 0;
DROP INDEX outbox_unsent;
CREATE INDEX outbox_unsent ON outbox (entry_id) WHERE sent_at IS NULL AND held=0;
CREATE INDEX outbox_held ON outbox (job_id) WHERE held=1;
ALTER TABLE watches ADD COLUMN message BLOB;
ALTER TABLE jobs ADD COLUMN interruptions INTEGER NOT NULL DEFAULT 0;
CREATE TABLE slot_processes (
    slot TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    pid INTEGER NOT NULL,
    start_ticks INTEGER NOT NULL,
    PRIMARY KEY (slot, boot_id, pid, start_ticks)
) STRICT, WITHOUT ROWID;
"""

# An index changes nothing that a ledger says, so it needs no version of its own.
_INDEX = "CREATE INDEX IF NOT EXISTS jobs_in_order ON jobs (state, priority DESC, sequence)"


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
            connection.execute(_INDEX)
        except sqlite3.OperationalError as error:
            raise LedgerError(
                f"{path}: cannot be used ({error}); check permissions, free space and that no "
                "other program has it open"
            ) from None
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
        _check_version(connection, path)
    return connection


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


def corrupt(path: Path, what: str) -> LedgerCorruptError:
    """Give the error for a damaged ledger, with the mend."""
    return LedgerCorruptError(
        f"{path}: the ledger is damaged ({what}); it is left as it is. Mend: "
        f"`sqlite3 {path} .recover | sqlite3 mended.sqlite3` and put that in its place, or move "
        f"{path}* aside to begin with an empty ledger (jobs not yet run are then lost)"
    )


def _refuse_orphaned_journal(path: Path) -> None:
    journal = path.with_name(path.name + "-wal")
    if journal.exists() and journal.stat().st_size > 0:
        raise corrupt(path, f"the file is gone but {journal.name} is there")


def _refuse_emptied(path: Path) -> None:
    if path.stat().st_size == 0:
        raise corrupt(path, "the file is empty")


def _give_birth(path: Path) -> None:
    infant = path.with_name(path.name + _BIRTH_SUFFIX)
    infant.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(infant, isolation_level=None)) as connection:
        connection.executescript(
            f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={SCHEMA_VERSION};"
            f"BEGIN;{_SCHEMA}{_SECOND}{_THIRD}COMMIT;"
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
    second = f"{_SECOND}UPDATE jobs SET claimed=1;" if version == 1 else ""
    connection.executescript(
        f"BEGIN IMMEDIATE;{second}{_THIRD}PRAGMA user_version={SCHEMA_VERSION};COMMIT;"
    )


def _check_version(connection: sqlite3.Connection, path: Path, oldest: int = SCHEMA_VERSION) -> int:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID:
        raise corrupt(path, "it is an SQLite file, but not a ledger")
    if not oldest <= version <= SCHEMA_VERSION:
        raise LedgerError(
            f"{path}: ledger version {version}, this mediator reads {SCHEMA_VERSION}; "
            "use the mediator that wrote it, or another --log-root"
        )
    return version


@contextlib.contextmanager
def _closing_on_error(connection: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise
