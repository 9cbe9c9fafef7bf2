-- Schema 1. Times are microseconds since the Unix epoch, UTC. Codes of `status` are those of `rows.rs`.

CREATE TABLE meta (
    key   text   PRIMARY KEY,
    value bigint NOT NULL
) WITH (fillfactor = 50);
INSERT INTO meta (key, value) VALUES ('next_run', 1);

-- One row per life of a node. `node` is the store's short name for it, by which `executions` names its owner, and the
-- second half of the advisory lock that its sessions hold which commit or are for the affairs of nodes. `state`: 1 live,
-- 2 draining, 3 dead. `lingers` is when it was retired while acts of runs that it kept could not be stopped. `beat_at` is the
-- server's time of the last beat, by which the permits of a dead node come back, and a day behind which its row is deleted
-- once it owns nothing; far in the past when it has left well. A renewal changes `beat`, `beat_at` and `held` only: no index.
CREATE TABLE nodes (
    node        integer  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    incarnation uuid     NOT NULL UNIQUE,
    build       bigint   NOT NULL,
    label       text     NOT NULL,
    state       smallint NOT NULL,
    beat        bigint   NOT NULL,
    lease       bigint   NOT NULL,
    can         bigint   NOT NULL,
    held        bigint   NOT NULL,
    lingers     bigint,
    beat_at     bigint   NOT NULL
) WITH (fillfactor = 50);

-- One fence row per session that commits, with its backend: each locks its own only, so no multixact is ever made.
CREATE TABLE node_lanes (
    node          integer NOT NULL,
    lane          integer NOT NULL,
    live          boolean NOT NULL,
    pid           integer NOT NULL,
    backend_start text    NOT NULL,
    PRIMARY KEY (node, lane)
) WITH (fillfactor = 50);

-- One row per run. A running step never touches it. What changes often stands in front.
CREATE TABLE executions (
    run           bigint   NOT NULL,
    epoch         bigint   NOT NULL,
    inbox_seq     bigint   NOT NULL,
    wake_at       bigint,
    created_at    bigint   NOT NULL,
    ended_at      bigint,
    deadline      bigint,
    blocked_build bigint,
    version       bigint   NOT NULL,
    run_no        bigint   NOT NULL,
    owner         integer,
    priority      integer  NOT NULL,
    claims        integer  NOT NULL,
    format        integer  NOT NULL,
    status        smallint NOT NULL,
    forced        boolean  NOT NULL,
    input_digest  bytea    NOT NULL,
    id            text     NOT NULL COLLATE "C",
    workflow      text     NOT NULL COLLATE "C",
    queue         text     NOT NULL COLLATE "C",
    tags          text[]   NOT NULL,
    needs         text[]   NOT NULL,
    reason        text,
    PRIMARY KEY (run)
);
CREATE UNIQUE INDEX executions_by_id ON executions (id, run_no);
-- Claims walk it one (forced, priority) after the other, so they read what they take and not all that is due.
CREATE INDEX executions_due ON executions (forced, priority, wake_at, run)
    WHERE owner IS NULL AND status = 1 AND wake_at IS NOT NULL;
CREATE INDEX executions_owned ON executions (owner) WHERE owner IS NOT NULL;

-- Every priority that was ever used, so that a claim knows where to look without searching the index for it.
CREATE TABLE priorities (
    priority integer PRIMARY KEY
);
INSERT INTO priorities (priority) VALUES (0);

-- The log. One index only: whatever is read of it is read by run.
CREATE TABLE events (
    run       bigint NOT NULL,
    commit_no bigint NOT NULL,
    digest    bytea  NOT NULL,
    body      bytea  NOT NULL,
    PRIMARY KEY (run, commit_no)
);

CREATE TABLE inbox (
    run     bigint NOT NULL,
    seq     bigint NOT NULL,
    sent_at bigint NOT NULL,
    message text   NOT NULL COLLATE "C",
    body    bytea  NOT NULL,
    PRIMARY KEY (run, seq)
);
CREATE UNIQUE INDEX inbox_by_message ON inbox (run, message);

CREATE TABLE heartbeats (
    run      bigint NOT NULL,
    position bigint NOT NULL,
    attempt  bigint NOT NULL,
    details  bytea  NOT NULL,
    PRIMARY KEY (run, position)
);

-- Shared queues: their rules, and what a claim goes on from. A claim locks the row, then counts.
CREATE TABLE queues (
    name        text    PRIMARY KEY COLLATE "C",
    concurrency bigint,
    per_key     bigint,
    rate        bigint,
    period      bigint  NOT NULL,
    fair        boolean NOT NULL,
    paused      boolean NOT NULL,
    cursor      text    NOT NULL COLLATE "C",
    tokens      bigint  NOT NULL,
    filled_at   bigint  NOT NULL
) WITH (fillfactor = 50);

-- A task is one attempt of an activity; a row with a worker is a permit of its queue.
CREATE TABLE tasks (
    run      bigint  NOT NULL,
    position bigint  NOT NULL,
    attempt  bigint  NOT NULL,
    rank     bigint  NOT NULL,
    due_at   bigint  NOT NULL,
    start_by bigint,
    worker   integer,
    dropped  boolean NOT NULL DEFAULT false,
    queue    text    NOT NULL COLLATE "C",
    lane     text    NOT NULL COLLATE "C",
    activity text    NOT NULL COLLATE "C",
    needs    text[]  NOT NULL,
    body     bytea   NOT NULL,
    details  bytea,
    PRIMARY KEY (run, position, attempt)
);
CREATE INDEX tasks_waiting ON tasks (queue, rank, run, position, attempt) WHERE worker IS NULL;
CREATE INDEX tasks_in_lanes ON tasks (queue, lane, rank, run, position, attempt) WHERE worker IS NULL;
CREATE INDEX tasks_held ON tasks (queue, lane) WHERE worker IS NOT NULL;
CREATE INDEX tasks_of_workers ON tasks (worker) WHERE worker IS NOT NULL;
CREATE INDEX tasks_to_start ON tasks (start_by) WHERE worker IS NULL AND start_by IS NOT NULL;
