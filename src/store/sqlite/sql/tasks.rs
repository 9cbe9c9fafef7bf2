//! The texts about shared queues. Ready tasks are walked in the order of their index; lanes are found by jumping from one to
//! the next, so that nothing of a lane that has no room is read.

/// The tasks that items are about. $1 keys.
pub(in crate::store::sqlite) const FOUND: &str = "SELECT t.run, t.position, t.attempt, n.incarnation, t.dropped, t.details
    FROM json_each($1) k JOIN tasks t ON t.run = k.value ->> 0 AND t.position = k.value ->> 1 AND t.attempt = k.value ->> 2
    LEFT JOIN nodes n ON n.node = t.worker;";

/// What somebody holds is not placed again: the attempt is the same. $1 blob, $2 runs and positions withdrawn, $3 placed, $4 ended, $5 beats.
pub(in crate::store::sqlite) const WRITE: &str = "UPDATE tasks SET dropped = 1 FROM json_each($2) k
    WHERE run = k.value ->> 0 AND position = k.value ->> 1;
    DELETE FROM tasks WHERE dropped AND worker IS NULL
      AND (run, position) IN (SELECT value ->> 0, value ->> 1 FROM json_each($2));
    INSERT INTO tasks (run, position, attempt, queue, lane, rank, due_at, start_by, activity, needs, body)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8,
           value ->> 9, substr($1, value ->> 10, value ->> 11) FROM json_each($3) WHERE true
    ON CONFLICT DO UPDATE SET queue = excluded.queue, lane = excluded.lane, rank = excluded.rank, due_at = excluded.due_at,
        start_by = excluded.start_by, dropped = 0, activity = excluded.activity, needs = excluded.needs, body = excluded.body,
        details = NULL WHERE worker IS NULL;
    DELETE FROM tasks WHERE (run, position, attempt) IN (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each($4));
    UPDATE tasks SET details = substr($1, k.value ->> 3, k.value ->> 4) FROM json_each($5) k
    WHERE run = k.value ->> 0 AND position = k.value ->> 1 AND attempt = k.value ->> 2;";

/// $1 runs.
pub(in crate::store::sqlite) const UNQUEUE: &str =
    "DELETE FROM tasks WHERE worker IS NULL AND run IN (SELECT value FROM json_each($1));";

/// The queues that have something waiting, by name.
pub(in crate::store::sqlite) const WAITING: &str = "WITH RECURSIVE q(queue) AS (
        SELECT min(queue) FROM tasks WHERE worker IS NULL
        UNION ALL SELECT (SELECT min(t.queue) FROM tasks t WHERE t.worker IS NULL AND t.queue > q.queue) FROM q WHERE q.queue IS NOT NULL)
    SELECT queue FROM q WHERE queue IS NOT NULL;";

/// $1 incarnation.
pub(in crate::store::sqlite) const MAY_TAKE: &str = "SELECT node FROM nodes WHERE incarnation = $1 AND live AND state = 1;";

/// $1 name.
pub(in crate::store::sqlite) const LINE: &str =
    "SELECT concurrency, per_key, rate, period, fair, paused, cursor, tokens, filled_at FROM queues WHERE name = $1;";

/// $1 queue.
pub(in crate::store::sqlite) const RUNNING: &str =
    "SELECT lane, count(*) FROM tasks WHERE queue = $1 AND worker IS NOT NULL GROUP BY lane;";

/// $1 queue, $2 now, $3 activities, $4 tags, $5 limit.
pub(in crate::store::sqlite) const HEADS: &str = "SELECT t.run, t.position, t.attempt, t.lane, t.rank FROM tasks t
    WHERE t.queue = $1 AND t.worker IS NULL AND t.due_at <= $2 AND t.activity IN (SELECT value FROM json_each($3))
      AND NOT EXISTS (SELECT 1 FROM json_each(t.needs) g WHERE g.value NOT IN (SELECT value FROM json_each($4)))
    ORDER BY t.rank, t.run, t.position, t.attempt LIMIT (SELECT $5);";

/// As `HEADS`, of each of up to $6 lanes behind $7, round and round, that are not among $8.
pub(in crate::store::sqlite) const HEADS_OF_LANES: &str = "WITH RECURSIVE
    behind(lane, nth) AS (
        SELECT (SELECT min(t.lane) FROM tasks t WHERE t.worker IS NULL AND t.queue = $1 AND t.lane > $7), 1
        UNION ALL
        SELECT (SELECT min(t.lane) FROM tasks t WHERE t.worker IS NULL AND t.queue = $1 AND t.lane > b.lane), b.nth + 1
        FROM behind b WHERE b.lane IS NOT NULL AND b.nth < 2000),
    before(lane, nth) AS (
        SELECT (SELECT min(t.lane) FROM tasks t WHERE t.worker IS NULL AND t.queue = $1 AND t.lane <= $7), 1
        UNION ALL
        SELECT (SELECT min(t.lane) FROM tasks t WHERE t.worker IS NULL AND t.queue = $1 AND t.lane > b.lane AND t.lane <= $7), b.nth + 1
        FROM before b WHERE b.lane IS NOT NULL AND b.nth < 2000),
    lanes(lane, turn, nth) AS (
        SELECT lane, 1, nth FROM behind WHERE lane IS NOT NULL
        UNION ALL SELECT lane, 2, nth FROM before WHERE lane IS NOT NULL),
    chosen(lane, turn, nth) AS (
        SELECT l.lane, l.turn, l.nth FROM lanes l WHERE l.lane NOT IN (SELECT value FROM json_each($8))
          AND EXISTS (SELECT 1 FROM tasks t WHERE t.worker IS NULL AND t.queue = $1 AND t.lane = l.lane AND t.due_at <= $2
                        AND t.activity IN (SELECT value FROM json_each($3))
                        AND NOT EXISTS (SELECT 1 FROM json_each(t.needs) g WHERE g.value NOT IN (SELECT value FROM json_each($4))))
        ORDER BY l.turn, l.nth LIMIT (SELECT $6))
    SELECT h.run, h.position, h.attempt, h.lane, h.rank FROM chosen c JOIN tasks h ON h.rowid IN (
        SELECT t.rowid FROM tasks t
        WHERE t.worker IS NULL AND t.queue = $1 AND t.lane = c.lane AND t.due_at <= $2
          AND t.activity IN (SELECT value FROM json_each($3))
          AND NOT EXISTS (SELECT 1 FROM json_each(t.needs) g WHERE g.value NOT IN (SELECT value FROM json_each($4)))
        ORDER BY t.rank, t.run, t.position, t.attempt LIMIT (SELECT $5))
    ORDER BY c.turn, c.nth, h.rank, h.run, h.position, h.attempt;";

/// $1 keys, $2 node.
pub(in crate::store::sqlite) const TAKE: &str = "UPDATE tasks SET worker = $2 FROM json_each($1) k
    WHERE run = k.value ->> 0 AND position = k.value ->> 1 AND attempt = k.value ->> 2 AND worker IS NULL
    RETURNING run, position, attempt, queue, activity, body;";

/// $1 name, $2 cursor, $3 tokens, $4 filled at.
pub(in crate::store::sqlite) const MOVE_ON: &str = "UPDATE queues SET cursor = $2, tokens = $3, filled_at = $4 WHERE name = $1;";

/// $1 name, $2 concurrency, $3 per key, $4 rate, $5 period, $6 fair. A new rate begins with a full bucket.
pub(in crate::store::sqlite) const DECLARE: &str =
    "INSERT INTO queues (name, concurrency, per_key, rate, period, fair, paused, cursor, tokens, filled_at)
    VALUES ($1, $2, $3, $4, $5, $6, 0, '', coalesce($4, 0), 0)
    ON CONFLICT (name) DO UPDATE SET
        tokens = CASE WHEN rate IS excluded.rate AND period = excluded.period THEN tokens ELSE excluded.tokens END,
        filled_at = CASE WHEN rate IS excluded.rate AND period = excluded.period THEN filled_at ELSE 0 END,
        concurrency = excluded.concurrency, per_key = excluded.per_key, rate = excluded.rate, period = excluded.period,
        fair = excluded.fair;";

/// $1 name, $2 whether.
pub(in crate::store::sqlite) const PAUSE: &str =
    "INSERT INTO queues (name, period, fair, paused, cursor, tokens, filled_at) VALUES ($1, 0, 0, $2, '', 0, 0)
    ON CONFLICT (name) DO UPDATE SET paused = excluded.paused;";

/// $1 run.
pub(in crate::store::sqlite) const OF_RUN: &str = "SELECT t.run, t.position, t.attempt, t.queue, n.incarnation, t.dropped
    FROM tasks t LEFT JOIN nodes n ON n.node = t.worker WHERE t.run = $1 ORDER BY t.position, t.attempt;";

/// $1 incarnation.
pub(in crate::store::sqlite) const HELD: &str = "SELECT t.run, t.position, t.attempt, t.queue, n.incarnation, t.dropped
    FROM nodes n JOIN tasks t ON t.worker = n.node AND t.worker IS NOT NULL WHERE n.incarnation = $1
    ORDER BY t.run, t.position, t.attempt;";

/// $1 now, $2 limit.
pub(in crate::store::sqlite) const STALE: &str = "SELECT * FROM (
        SELECT t.run, t.position, t.attempt, NULL FROM tasks t INDEXED BY tasks_to_start
        WHERE t.worker IS NULL AND t.start_by IS NOT NULL AND t.start_by <= $1 LIMIT (SELECT $2))
    UNION ALL SELECT * FROM (
        SELECT t.run, t.position, t.attempt, n.incarnation FROM nodes n JOIN tasks t ON t.worker = n.node AND t.worker IS NOT NULL
        WHERE NOT n.live AND n.beat_at + n.lease <= $1 LIMIT (SELECT $2))
    ORDER BY 1, 2, 3 LIMIT (SELECT $2);";

pub(in crate::store::sqlite) const RULED: &str = "SELECT name FROM queues ORDER BY name;";

pub(in crate::store::sqlite) const QUEUES: &str = "WITH RECURSIVE q(name) AS (
        SELECT min(queue) FROM tasks
        UNION ALL SELECT (SELECT min(t.queue) FROM tasks t WHERE t.queue > q.name) FROM q WHERE q.name IS NOT NULL)
    SELECT a.name, u.concurrency, u.per_key, u.rate, coalesce(u.period, 0), coalesce(u.fair, 0), coalesce(u.paused, 0),
           (SELECT count(*) FROM tasks t WHERE t.queue = a.name AND t.worker IS NULL),
           (SELECT count(*) FROM tasks t WHERE t.queue = a.name AND t.worker IS NOT NULL),
           (SELECT min(t.due_at) FROM tasks t WHERE t.queue = a.name AND t.worker IS NULL)
    FROM (SELECT name FROM queues UNION SELECT name FROM q WHERE name IS NOT NULL) a LEFT JOIN queues u ON u.name = a.name
    ORDER BY a.name;";

/// For snapshots.
pub(in crate::store::sqlite) const SNAPSHOT: &str =
    "SELECT e.id, e.run_no, t.position, t.attempt, t.queue, t.lane, t.rank, t.due_at, t.start_by, t.activity, t.needs,
           n.incarnation, t.dropped, t.body, t.details
    FROM tasks t JOIN executions e ON e.run = t.run LEFT JOIN nodes n ON n.node = t.worker;
    SELECT name, concurrency, per_key, rate, period, fair, paused, cursor, tokens, filled_at FROM queues;";

/// Every text, by name.
#[cfg(test)]
pub(in crate::store::sqlite) const ALL: &[(&str, &str)] = &[
    ("found", FOUND),
    ("write", WRITE),
    ("unqueue", UNQUEUE),
    ("waiting", WAITING),
    ("may_take", MAY_TAKE),
    ("line", LINE),
    ("running", RUNNING),
    ("heads", HEADS),
    ("heads_of_lanes", HEADS_OF_LANES),
    ("take", TAKE),
    ("move_on", MOVE_ON),
    ("declare", DECLARE),
    ("pause", PAUSE),
    ("of_run", OF_RUN),
    ("held", HELD),
    ("stale", STALE),
    ("ruled", RULED),
];
