//! The texts about shared queues; the rules of `sql.rs` hold here too. A claim locks the row of its queue in one statement and counts in
//! a later one: what a statement counts is as old as its beginning, however long it then waited for the lock.

/// Waiting, and to be found through `tasks_waiting`: a statement names the condition of the one index that it goes by, so that
/// the planner has no other.
macro_rules! in_line {
    () => {
        "t.worker IS NULL AND t.rank >= -9223372036854775808"
    };
}

/// Waiting, and to be found through `tasks_in_lanes`.
macro_rules! in_lane {
    () => {
        "t.worker IS NULL AND t.lane >= ''"
    };
}

/// What a node may take of what waits: due, of its activities, with nothing that it lacks. $2 now, $3 activities, $4 tags.
macro_rules! eligible {
    () => {
        " AND NOT t.dropped AND t.due_at <= $2 AND t.activity = ANY ($3::text[]) AND t.needs <@ $4::text[]"
    };
}

/// The names of the queues that have something waiting, and a null.
macro_rules! waiting_queues {
    () => {
        concat!(
            "WITH RECURSIVE q(name) AS ((SELECT t.queue FROM tasks t WHERE ",
            in_line!(),
            " ORDER BY t.queue LIMIT 1)
            UNION ALL
            SELECT (SELECT t.queue FROM tasks t WHERE ",
            in_line!(),
            " AND t.queue > q.name ORDER BY t.queue LIMIT 1)
            FROM q WHERE q.name IS NOT NULL)"
        )
    };
}

/// The tasks that items are about, locked: who ends one and who takes it meet here. $1 runs, $2 positions, $3 attempts.
pub(super) const FOUND: &str = "SELECT t.run, t.position, t.attempt,
           (SELECT n.incarnation FROM nodes n WHERE n.node = t.worker), t.dropped, t.details
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS k(run, position, attempt)
    JOIN tasks t ON t.run = k.run AND t.position = k.position AND t.attempt = k.attempt
    ORDER BY t.run, t.position, t.attempt FOR UPDATE OF t";

/// $1 runs, $2 positions.
pub(super) const WITHDRAW: &str = "UPDATE tasks t SET dropped = true FROM unnest($1::bigint[], $2::bigint[]) AS k(run, position)
    WHERE t.run = k.run AND t.position = k.position";

/// The same, in a later statement: somebody may have taken one in between.
pub(super) const REMOVE: &str = "DELETE FROM tasks t USING unnest($1::bigint[], $2::bigint[]) AS k(run, position)
    WHERE t.run = k.run AND t.position = k.position AND t.dropped AND t.worker IS NULL";

/// $1 runs. Who is about to take one is waited for, and then it is his.
pub(super) const UNQUEUE: &str =
    "DELETE FROM tasks t USING unnest($1::bigint[]) AS k(run) WHERE t.run = k.run AND t.worker IS NULL";

/// What somebody holds stays with him: the attempt is the same. $1 run, $2 position, $3 attempt, $4 queue, $5 lane, $6 rank, $7 due, $8 start by, $9 activity, $10 needs, $11 body.
pub(super) const PLACE: &str =
    "INSERT INTO tasks (run, position, attempt, queue, lane, rank, due_at, start_by, activity, needs, body)
    SELECT p.run, p.position, p.attempt, p.queue, p.lane, p.rank, p.due_at, p.start_by, p.activity, p.needs::text[], p.body
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[],
                $9::text[], $10::text[], $11::bytea[])
        AS p(run, position, attempt, queue, lane, rank, due_at, start_by, activity, needs, body)
    ON CONFLICT (run, position, attempt) DO UPDATE SET queue = excluded.queue, lane = excluded.lane, rank = excluded.rank,
        due_at = excluded.due_at, start_by = excluded.start_by, worker = NULL, dropped = false, activity = excluded.activity,
        needs = excluded.needs, body = excluded.body, details = NULL
        WHERE tasks.worker IS NULL";

/// $1 runs, $2 positions, $3 attempts.
pub(super) const END: &str =
    "DELETE FROM tasks t USING unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS k(run, position, attempt)
    WHERE t.run = k.run AND t.position = k.position AND t.attempt = k.attempt";

/// $1 runs, $2 positions, $3 attempts, $4 details.
pub(super) const BEAT: &str = "UPDATE tasks t SET details = k.details
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[]) AS k(run, position, attempt, details)
    WHERE t.run = k.run AND t.position = k.position AND t.attempt = k.attempt";

/// The queues that have something waiting, by name, and whether they have rules.
pub(super) const WAITING: &str = concat!(
    waiting_queues!(),
    " SELECT q.name, u.name IS NOT NULL, coalesce(u.paused, false) FROM q LEFT JOIN queues u ON u.name = q.name
    WHERE q.name IS NOT NULL ORDER BY 1"
);

/// $1 node, $2 lane. Answers the number of the transaction if the node may take anything.
pub(super) const FENCE: &str = "WITH fence AS MATERIALIZED (
        SELECT l.node FROM node_lanes l JOIN nodes n ON n.node = l.node
        WHERE l.node = $1 AND l.lane = $2 AND l.live AND n.state = 1 FOR KEY SHARE OF l)
    SELECT pg_current_xact_id()::text FROM fence";

/// $1 name. No row while somebody else is at work on the queue.
pub(super) const LINE: &str = "SELECT concurrency, per_key, rate, period, fair, paused, cursor, tokens, filled_at FROM queues
    WHERE name = $1 FOR UPDATE SKIP LOCKED";

/// $1 queue.
pub(super) const RUNNING: &str =
    "SELECT t.lane, count(*) FROM tasks t WHERE t.queue = $1 AND t.worker IS NOT NULL GROUP BY t.lane";

/// $1 queue, $2 to $4 as above, $5 limit, $6 the lowest rank to look at.
pub(super) const HEADS: &str = concat!(
    "SELECT t.run, t.position, t.attempt, t.lane, t.rank FROM tasks t WHERE t.queue = $1 AND t.rank >= $6 AND ",
    in_line!(),
    eligible!(),
    " ORDER BY t.rank, t.run, t.position, t.attempt LIMIT $5 FOR UPDATE SKIP LOCKED"
);

/// As `HEADS`, of each of up to $6 lanes behind $7, round and round, that are not among $8.
pub(super) const HEADS_OF_LANES: &str = concat!(
    "WITH RECURSIVE behind(lane, nth) AS (
        (SELECT t.lane, 1 FROM tasks t WHERE t.queue = $1 AND ",
    in_lane!(),
    " AND t.lane > $7 ORDER BY t.lane LIMIT 1)
        UNION ALL
        SELECT (SELECT t.lane FROM tasks t WHERE t.queue = $1 AND ",
    in_lane!(),
    " AND t.lane > b.lane ORDER BY t.lane LIMIT 1), b.nth + 1
        FROM behind b WHERE b.lane IS NOT NULL AND b.nth < 2000),
    before(lane, nth) AS (
        (SELECT t.lane, 1 FROM tasks t WHERE t.queue = $1 AND ",
    in_lane!(),
    " AND t.lane <= $7 ORDER BY t.lane LIMIT 1)
        UNION ALL
        SELECT (SELECT t.lane FROM tasks t WHERE t.queue = $1 AND ",
    in_lane!(),
    " AND t.lane > b.lane AND t.lane <= $7
                ORDER BY t.lane LIMIT 1), b.nth + 1
        FROM before b WHERE b.lane IS NOT NULL AND b.nth < 2000),
    lanes AS (
        SELECT lane, 1 AS turn, nth FROM behind WHERE lane IS NOT NULL
        UNION ALL SELECT lane, 2, nth FROM before WHERE lane IS NOT NULL),
    chosen AS MATERIALIZED (
        SELECT l.lane, l.turn, l.nth FROM lanes l CROSS JOIN LATERAL (
            SELECT 1 FROM tasks t WHERE t.queue = $1 AND t.lane = l.lane AND ",
    in_lane!(),
    eligible!(),
    " LIMIT 1) there WHERE l.lane <> ALL ($8::text[]) ORDER BY l.turn, l.nth LIMIT $6)
    SELECT h.run, h.position, h.attempt, h.lane, h.rank FROM chosen c CROSS JOIN LATERAL (
        SELECT t.run, t.position, t.attempt, t.lane, t.rank FROM tasks t WHERE t.queue = $1 AND t.lane = c.lane AND ",
    in_lane!(),
    eligible!(),
    " ORDER BY t.rank, t.run, t.position, t.attempt LIMIT $5 FOR UPDATE SKIP LOCKED) h
    ORDER BY c.turn, c.nth, h.rank, h.run, h.position, h.attempt"
);

/// $1 runs, $2 positions, $3 attempts, $4 node. By key: the condition of no other index is named.
pub(super) const TAKE: &str = "UPDATE tasks t SET worker = $4
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS k(run, position, attempt)
    WHERE t.run = k.run AND t.position = k.position AND t.attempt = k.attempt AND t.worker IS NULL AND NOT t.dropped
    RETURNING t.run, t.position, t.attempt, t.queue, t.activity, t.body";

/// $1 name, $2 cursor, $3 tokens, $4 filled at.
pub(super) const MOVE_ON: &str = "UPDATE queues SET cursor = $2, tokens = $3, filled_at = $4 WHERE name = $1";

/// $1 name, $2 concurrency, $3 per key, $4 rate, $5 period, $6 fair. A new rate begins with a full bucket.
pub(super) const DECLARE: &str =
    "INSERT INTO queues AS q (name, concurrency, per_key, rate, period, fair, paused, cursor, tokens, filled_at)
    VALUES ($1, $2, $3, $4, $5, $6, false, '', coalesce($4, 0), 0)
    ON CONFLICT (name) DO UPDATE SET
        tokens = CASE WHEN q.rate IS NOT DISTINCT FROM excluded.rate AND q.period = excluded.period THEN q.tokens ELSE excluded.tokens END,
        filled_at = CASE WHEN q.rate IS NOT DISTINCT FROM excluded.rate AND q.period = excluded.period THEN q.filled_at ELSE 0 END,
        concurrency = excluded.concurrency, per_key = excluded.per_key, rate = excluded.rate, period = excluded.period,
        fair = excluded.fair";

/// $1 name, $2 whether.
pub(super) const PAUSE: &str =
    "INSERT INTO queues (name, period, fair, paused, cursor, tokens, filled_at) VALUES ($1, 0, false, $2, '', 0, 0)
    ON CONFLICT (name) DO UPDATE SET paused = excluded.paused";

/// $1 run.
pub(super) const OF_RUN: &str = "SELECT t.run, t.position, t.attempt, t.queue, n.incarnation, t.dropped
    FROM tasks t LEFT JOIN nodes n ON n.node = t.worker WHERE t.run = $1 ORDER BY t.position, t.attempt";

/// $1 incarnation.
pub(super) const HELD: &str = "SELECT t.run, t.position, t.attempt, t.queue, n.incarnation, t.dropped
    FROM nodes n JOIN tasks t ON t.worker = n.node AND t.worker IS NOT NULL WHERE n.incarnation = $1
    ORDER BY t.run, t.position, t.attempt";

/// $1 now, $2 limit. The permits of a dead node come back when its lease has run out since its last beat, by the server's clock:
/// until then its process may be at work, cut off from here.
pub(super) const STALE: &str = "SELECT * FROM (
        (SELECT t.run, t.position, t.attempt, NULL::uuid AS by FROM tasks t
         WHERE t.worker IS NULL AND t.start_by IS NOT NULL AND t.start_by <= $1 LIMIT $2)
        UNION ALL
        (SELECT t.run, t.position, t.attempt, n.incarnation FROM nodes n JOIN tasks t ON t.worker = n.node AND t.worker IS NOT NULL
         WHERE n.state = 3 AND n.beat_at + n.lease <= (extract(epoch FROM clock_timestamp()) * 1000000)::bigint LIMIT $2)) s
    ORDER BY run, position, attempt LIMIT $2";

pub(super) const RULED: &str = "SELECT name FROM queues ORDER BY name";

pub(super) const QUEUES: &str = concat!(
    waiting_queues!(),
    " SELECT a.name, u.concurrency, u.per_key, u.rate, coalesce(u.period, 0), coalesce(u.fair, false), coalesce(u.paused, false),
           (SELECT count(*) FROM tasks t WHERE t.queue = a.name AND ",
    in_line!(),
    "),
           (SELECT count(*) FROM tasks t WHERE t.queue = a.name AND t.worker IS NOT NULL),
           (SELECT min(t.due_at) FROM tasks t WHERE t.queue = a.name AND ",
    in_line!(),
    ")
    FROM (SELECT name FROM queues UNION SELECT name FROM q WHERE name IS NOT NULL
          UNION SELECT t.queue FROM tasks t WHERE t.worker IS NOT NULL) a
    LEFT JOIN queues u ON u.name = a.name ORDER BY a.name"
);

/// For snapshots.
pub(super) const ALL_TASKS: &str =
    "SELECT e.id, e.run_no, t.position, t.attempt, t.queue, t.lane, t.rank, t.due_at, t.start_by, t.activity, t.needs,
           n.incarnation, t.dropped, t.body, t.details
    FROM tasks t JOIN executions e ON e.run = t.run LEFT JOIN nodes n ON n.node = t.worker";
pub(super) const ALL_QUEUES: &str =
    "SELECT name, concurrency, per_key, rate, period, fair, paused, cursor, tokens, filled_at FROM queues";
