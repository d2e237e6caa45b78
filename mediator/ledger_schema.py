"""Owns the ledger's tables, by the version of the ledger that brought them."""

APPLICATION_ID = 0x534B594C  # "SKYL"
SCHEMA_VERSION = 5

SCHEMA = """
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
SECOND = """
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
THIRD = """
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

# What version 4 added: what tells a message from another one at the same place of a topic that was
# made anew, the epoch of its job that a request means, and whether a job's message lies on the
# status topic too.
FOURTH = """
ALTER TABLE sources ADD COLUMN digest TEXT NOT NULL DEFAULT '';
ALTER TABLE controls ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN message_kept INTEGER NOT NULL DEFAULT 0;
"""

# What version 5 added: the message of a job until its claim has held, and the epoch in which the
# job was last queued anew on request.
FIFTH = """
ALTER TABLE jobs ADD COLUMN message BLOB;
ALTER TABLE jobs ADD COLUMN anew_epoch INTEGER NOT NULL DEFAULT 1;
"""

# Where the messages of a version 1 ledger's jobs lay; all others have that with the job.
PLACES = """
UPDATE jobs SET claimed=1;
UPDATE jobs SET source_cluster=s.cluster_id, source_topic=s.topic, source_partition=s.partition,
    source_offset=s.offset FROM sources s WHERE s.job_id=jobs.job_id
    AND s.outcome IN ('accepted', 'refused');
"""

# A request to cancel held for one epoch, and not every message that the status topic should hold
# was put there: those of the unfinished jobs are owed to it.
OWED = """
UPDATE jobs SET anew_epoch=epoch;
INSERT OR REPLACE INTO facts VALUES ('messages_owed', '"yes"');
"""

# By the version it leads to.
UPGRADES = {2: SECOND + PLACES, 3: THIRD, 4: FOURTH, 5: FIFTH + OWED}

# An index changes nothing that a ledger says, so it needs no version of its own.
INDEX = "CREATE INDEX IF NOT EXISTS jobs_in_order ON jobs (state, priority DESC, sequence)"
