-- Schema 4: shared queues. A task is one attempt of an activity; a row with a worker is a permit of its queue.

CREATE TABLE queues (
    name        TEXT    PRIMARY KEY,
    concurrency INTEGER,
    per_key     INTEGER,
    rate        INTEGER,
    period      INTEGER NOT NULL,
    fair        INTEGER NOT NULL,
    paused      INTEGER NOT NULL,
    cursor      TEXT    NOT NULL,
    tokens      INTEGER NOT NULL,
    filled_at   INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE tasks (
    run      INTEGER NOT NULL,
    position INTEGER NOT NULL,
    attempt  INTEGER NOT NULL,
    queue    TEXT    NOT NULL,
    lane     TEXT    NOT NULL,
    rank     INTEGER NOT NULL,
    due_at   INTEGER NOT NULL,
    start_by INTEGER,
    activity TEXT    NOT NULL,
    needs    TEXT    NOT NULL,
    worker   INTEGER,
    dropped  INTEGER NOT NULL DEFAULT 0,
    body     BLOB    NOT NULL,
    details  BLOB
);
CREATE UNIQUE INDEX tasks_by_run ON tasks (run, position, attempt);
CREATE INDEX tasks_waiting ON tasks (queue, rank, run, position, attempt) WHERE worker IS NULL;
CREATE INDEX tasks_in_lanes ON tasks (queue, lane, rank, run, position, attempt) WHERE worker IS NULL;
CREATE INDEX tasks_held ON tasks (queue, lane) WHERE worker IS NOT NULL;
CREATE INDEX tasks_of_workers ON tasks (worker) WHERE worker IS NOT NULL;
CREATE INDEX tasks_to_start ON tasks (start_by) WHERE worker IS NULL AND start_by IS NOT NULL;

-- Since when its permits may come back: its last beat, 0 when it has left well.
ALTER TABLE nodes ADD COLUMN beat_at INTEGER NOT NULL DEFAULT 0;
