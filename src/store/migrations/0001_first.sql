-- Schema 1. Times are microseconds since the Unix epoch, UTC. Codes of `status` are those of `rows.rs`.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO meta (key, value) VALUES ('next_run', 1);

-- One row per life of a node. `node` is the store's short name for it, by which `executions` names its owner.
CREATE TABLE nodes (
    node        INTEGER PRIMARY KEY,
    incarnation BLOB    NOT NULL UNIQUE,
    build       INTEGER NOT NULL,
    label       TEXT    NOT NULL,
    live        INTEGER NOT NULL,
    beat        INTEGER NOT NULL
);

-- One fence row per lane that commits; lane 0 is the only one while there is one writer per process.
CREATE TABLE node_lanes (
    node INTEGER NOT NULL,
    lane INTEGER NOT NULL,
    live INTEGER NOT NULL,
    PRIMARY KEY (node, lane)
) WITHOUT ROWID;

-- One row per run. A running step never touches it.
CREATE TABLE executions (
    run           INTEGER PRIMARY KEY,
    id            TEXT    NOT NULL,
    run_no        INTEGER NOT NULL,
    workflow      TEXT    NOT NULL,
    version       INTEGER NOT NULL,
    status        INTEGER NOT NULL,
    owner         INTEGER,
    epoch         INTEGER NOT NULL,
    claims        INTEGER NOT NULL,
    forced        INTEGER NOT NULL,
    wake_at       INTEGER,
    priority      INTEGER NOT NULL,
    queue         TEXT    NOT NULL,
    tags          TEXT    NOT NULL,
    created_at    INTEGER NOT NULL,
    ended_at      INTEGER,
    deadline      INTEGER,
    input_digest  BLOB    NOT NULL,
    inbox_seq     INTEGER NOT NULL,
    blocked_build INTEGER,
    reason        TEXT,
    format        INTEGER NOT NULL
);
CREATE UNIQUE INDEX executions_by_id ON executions (id, run_no);
-- Claims walk it one (forced, priority) after the other, so they read what they take and not all that is due.
CREATE INDEX executions_due ON executions (forced, priority DESC, wake_at)
    WHERE owner IS NULL AND status = 1 AND wake_at IS NOT NULL;
CREATE INDEX executions_owned ON executions (owner) WHERE owner IS NOT NULL;

-- The log. Rows are appended in the order of their commit: a random primary key costs a factor of four to five.
CREATE TABLE events (
    pos       INTEGER PRIMARY KEY,
    run       INTEGER NOT NULL,
    commit_no INTEGER NOT NULL,
    digest    BLOB    NOT NULL,
    body      BLOB    NOT NULL
);
CREATE UNIQUE INDEX events_by_run ON events (run, commit_no);

CREATE TABLE inbox (
    run     INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    message TEXT    NOT NULL,
    body    BLOB    NOT NULL,
    sent_at INTEGER NOT NULL,
    PRIMARY KEY (run, seq)
) WITHOUT ROWID;
CREATE UNIQUE INDEX inbox_by_message ON inbox (run, message);

CREATE TABLE heartbeats (
    run      INTEGER NOT NULL,
    position INTEGER NOT NULL,
    attempt  INTEGER NOT NULL,
    details  BLOB    NOT NULL,
    PRIMARY KEY (run, position)
) WITHOUT ROWID;
