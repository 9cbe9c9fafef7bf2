//! Every SQL text of this store. All are constant: what varies comes in as JSON arrays of rows (numbers, names) and one
//! blob (digests, bodies), so a batch of a thousand items runs as many statements as one of one item. Only the three
//! statements that every run costs take their rows as `VALUES`, which `script.rs` repeats: half the price of JSON.
//!
//! Parameters are written `$n`. SQLite numbers such names densely per statement, which sqlx needs: with `?n` it would
//! take a gap in the numbers for anonymous parameters and bind other values.
//!
//! A parameter behind LIMIT, or compared where a partial index may serve, is written `(SELECT $n)`: SQLite plans with the
//! value of a bare one, and then prepares the statement anew each time it is bound.
//!
//! A commit is two scripts, each one hop to the connection's thread: `look` (open the transaction, read everything that
//! decides) and `write` (change what was accepted, assert the counts, commit). A wrong count makes `json()` fail, and with
//! it the transaction. Where an assertion reads `changes()` it directly follows its statement.

pub(super) mod history;
pub(super) mod letters;
pub(super) mod memos;
pub(super) mod published;
pub(super) mod schedules;
pub(super) mod tasks;

/// The columns that `rows::summary` reads, of `e` (executions) and `n` (nodes).
macro_rules! columns {
    () => {
        "e.run, e.id, e.run_no, e.workflow, e.version, e.status, n.incarnation, e.epoch, e.wake_at, e.priority, \
         e.queue, e.tags, e.created_at, e.ended_at, e.deadline, e.input_digest, e.inbox_seq, e.blocked_build, e.reason, \
         e.claims, e.forced, e.format, e.needs"
    };
}

/// The rows of the runs $1, in their order.
macro_rules! summaries {
    () => {
        concat!(
            "SELECT ",
            columns!(),
            " FROM json_each($1) k JOIN executions e ON e.run = k.value
            LEFT JOIN nodes n ON n.node = e.owner ORDER BY k.key;"
        )
    };
}

/// What the partial index `executions_due` holds; the planner wants it literally.
macro_rules! due {
    () => {
        "e.owner IS NULL AND e.status = 1 AND e.wake_at IS NOT NULL"
    };
}

/// The pairs of `forced` and priority that sleeping runs have, one index seek each.
macro_rules! lanes {
    () => {
        concat!(
            "lanes (forced, priority) AS (
                SELECT f.column1, (SELECT e.priority FROM executions e WHERE ",
            due!(),
            " AND e.forced = f.column1
                                   ORDER BY e.priority DESC LIMIT 1)
                FROM (VALUES (0), (1)) f
                UNION ALL
                SELECT l.forced, (SELECT e.priority FROM executions e WHERE ",
            due!(),
            " AND e.forced = l.forced
                                  AND e.priority < l.priority ORDER BY e.priority DESC LIMIT 1)
                FROM lanes l WHERE l.priority IS NOT NULL)"
        )
    };
}

/// A number of 20 digits in the blob, so far behind the offset of the row. Reading it costs a third of what a field of a
/// JSON row does, which the look at turns is worth.
macro_rules! packed {
    ($behind:literal) => {
        concat!("CAST(substr($2, value + ", $behind, ", 20) AS INTEGER)")
    };
}

macro_rules! events {
    () => {
        "INSERT INTO events (run, commit_no, digest, body)
        SELECT column1, column2, substr($2, column3, 32), substr($2, column3 + 32, column4)
        FROM (VALUES (?, ?, ?, ?)) WHERE column1 IS NOT NULL"
    };
}

/// The node $1 is $22 and lives.
macro_rules! lives {
    () => {
        "EXISTS (SELECT 1 FROM nodes n JOIN node_lanes l ON l.node = n.node AND l.lane = 0
                 WHERE n.node = $1 AND n.incarnation = $22 AND n.live AND l.live)"
    };
}

/// No other connection has written since version $23.
macro_rules! unchanged {
    () => {
        "(SELECT data_version FROM pragma_data_version) = $23"
    };
}

macro_rules! assert_count {
    ($parameter:literal) => {
        concat!("SELECT json('wrote ' || changes() || ' rows of ' || ", $parameter, ") WHERE changes() <> ", $parameter, ";")
    };
}

// Opening and closing.

pub(super) const BEGIN: &str = "BEGIN IMMEDIATE;";
pub(super) const COMMIT: &str = "COMMIT;";
pub(super) const ROLLBACK: &str = "ROLLBACK;";
/// One item of a batch that failed as a whole.
pub(super) const SAVEPOINT: &str = "SAVEPOINT item;";
pub(super) const RELEASE: &str = "RELEASE item;";
pub(super) const ROLLBACK_TO: &str = "ROLLBACK TO item; RELEASE item;";

// Looking. $1 incarnation, $2 blob, $3 turns, $4 consumed, $5 new keys, $6 ids, $7 runs, $8 messages,
// $9 messages by run, $10 runs that continue.

/// Answers the node's short name, how many rows this connection has ever changed, for `ASSERT_TURNS`, a number that
/// changes when another connection has written, and whether the node may claim.
pub(super) const FENCE: &str = "SELECT n.node, total_changes(), (SELECT data_version FROM pragma_data_version), n.state = 1
    FROM nodes n JOIN node_lanes l ON l.node = n.node AND l.lane = 0
    WHERE n.incarnation = $1 AND n.live AND l.live;";

/// Refused turns of existing runs. Rows of $3 are offsets; there in the blob: run, commit number and what was seen (or
/// nothing), then the digest before. Answers: place in $3, and 1 for a moved tail or 2 for a moved inbox.
pub(super) const LOOK_TURNS: &str = concat!(
    "WITH t AS MATERIALIZED (
        SELECT key, ",
    packed!("0"),
    " AS run, ",
    packed!("20"),
    " AS no, nullif(",
    packed!("40"),
    ", -1) AS seen,
               substr($2, value + 60, 32) AS prev FROM json_each($3))
    SELECT t.key, CASE WHEN e.run IS NULL OR e.status >= 4 OR v.commit_no IS NOT t.no - 1 OR v.digest IS NOT t.prev
                       THEN 1 ELSE 2 END
    FROM t LEFT JOIN executions e ON e.run = t.run
           LEFT JOIN events v ON v.run = t.run
                AND v.commit_no = (SELECT max(x.commit_no) FROM events x WHERE x.run = t.run)
    WHERE e.run IS NULL OR e.status >= 4 OR v.commit_no IS NOT t.no - 1 OR v.digest IS NOT t.prev
       OR e.inbox_seq <> t.seen;"
);

/// Turns whose consumed rows are not all there. Rows of $4: place of the turn, run, seq.
pub(super) const LOOK_CONSUMED: &str = "SELECT DISTINCT c.value ->> 0 FROM json_each($4) c
    WHERE NOT EXISTS (SELECT 1 FROM inbox i WHERE i.run = c.value ->> 1 AND i.seq = c.value ->> 2);";

/// Keys of new runs that are given already.
pub(super) const LOOK_KEYS: &str = "SELECT e.run FROM json_each($5) k JOIN executions e ON e.run = k.value;";

/// The current runs of ids, with the number of their unread messages.
pub(super) const LOOK_IDS: &str = concat!(
    "SELECT ",
    columns!(),
    ", (SELECT count(*) FROM inbox i WHERE i.run = e.run)
    FROM json_each($6) k
    JOIN executions e ON e.run = (SELECT x.run FROM executions x WHERE x.id = k.value ORDER BY x.run_no DESC LIMIT 1)
    LEFT JOIN nodes n ON n.node = e.owner;"
);

/// Runs by key, with the number of their unread messages.
pub(super) const LOOK_RUNS: &str = concat!(
    "SELECT ",
    columns!(),
    ", (SELECT count(*) FROM inbox i WHERE i.run = e.run)
    FROM json_each($7) k JOIN executions e ON e.run = k.value LEFT JOIN nodes n ON n.node = e.owner;"
);

/// Messages that are in an inbox already. Rows of $8: id, message.
pub(super) const LOOK_MESSAGES: &str = "SELECT i.run, i.seq, i.message FROM json_each($8) s
    JOIN inbox i ON i.message = s.value ->> 1
     AND i.run = (SELECT x.run FROM executions x WHERE x.id = s.value ->> 0 ORDER BY x.run_no DESC LIMIT 1);";

/// The same where the run is known by its key. Rows of $9: run, message.
pub(super) const LOOK_REFUSALS: &str = "SELECT i.run, i.seq, i.message FROM json_each($9) s
    JOIN inbox i ON i.run = s.value ->> 0 AND i.message = s.value ->> 1;";

/// What is unread in the inboxes of runs that continue.
pub(super) const LOOK_UNREAD: &str = "SELECT i.run, i.seq, i.message, i.body FROM json_each($10) k
    CROSS JOIN inbox i ON i.run = k.value ORDER BY i.run, i.seq;";

// Writing. $1 node, $2 blob, $3 now, $4 format; then rows and their count.

/// $24 executions in memory.
pub(super) const RENEW: &str =
    "UPDATE nodes SET beat = beat + 1, beat_at = max(beat_at, $3), held = $24 WHERE node = $1 AND live;";

/// The last column is the offset of the digest. The row of `VALUES` here, and in the next two, stands for as many as are
/// written; those that only fill up to a size are null.
pub(super) const WRITE_RUNS: &str =
    "INSERT INTO executions (run, id, run_no, workflow, version, status, owner, epoch, claims, forced, wake_at, priority,
                             queue, tags, needs, created_at, ended_at, deadline, input_digest, inbox_seq, format)
    SELECT column1, column2, column3, column4, column5, column6, column7, column8, 0, 0, column9, column10, column11,
           column12, column13, column14, column15, column16, substr($2, column17, 32), 0, $4
    FROM (VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)) WHERE column1 IS NOT NULL;";

/// Columns: run, commit number, offset of the digest with the body behind it, length of the body.
pub(super) const WRITE_EVENTS: &str = concat!(events!(), ";");

/// The same for a batch that is nothing else and was decided from memory: a transaction by itself, which needs no begin and no
/// commit around it. It writes all of its rows, or none if the ground is not what it was.
pub(super) const WRITE_EVENTS_ALONE: &str = concat!(events!(), " AND ", lives!(), " AND ", unchanged!(), ";");

/// Runs that sleep or end with their turn. Columns: run, status or null for as it is, wake, end.
pub(super) const WRITE_SETTLED: &str =
    "UPDATE executions SET owner = NULL, claims = 0, status = coalesce(s.column2, executions.status), wake_at = s.column3,
            ended_at = s.column4
    FROM (VALUES (?, ?, ?, ?)) s WHERE executions.run = s.column1;";

pub(super) const WRITE_CONSUMED: &str =
    "DELETE FROM inbox WHERE (run, seq) IN (SELECT value ->> 0, value ->> 1 FROM json_each($8));";

/// Checks the five statements before it by the sum of their rows. None of them can change more rows than it was given,
/// so if the sum is right each is. $9 is what the sum must be, from the beginning of time.
pub(super) const ASSERT_TURNS: &str =
    "SELECT json('wrote up to ' || total_changes() || ' rows, not ' || $9) WHERE total_changes() <> $9;";

/// The same for a batch that was decided from memory, and that the ground it stands on is what it was: the node $22 lives,
/// and no other connection has written. Failing here is as good as failing at the beginning: nothing is committed.
pub(super) const KNOWN: &str = concat!(
    "SELECT json('memory is not to be trusted') WHERE total_changes() <> $9 OR NOT (",
    lives!(),
    " AND ",
    unchanged!(),
    ");"
);

/// Behind statements whose rows nobody counts.
pub(super) const TOTAL: &str = "SELECT total_changes();";

/// The heartbeats that an ended run leaves behind; how many that are nobody counted.
pub(super) const WRITE_ENDED: &str = "DELETE FROM heartbeats WHERE run IN (SELECT value FROM json_each($10));";

/// The messages that go along with a run that continues, before the others of that run are dropped. Rows: run, seq, the next run.
pub(super) const WRITE_ALONG: &str = concat!(
    "UPDATE inbox SET run = m.next
    FROM (SELECT value ->> 0 AS run, value ->> 1 AS seq, value ->> 2 AS next FROM json_each($25)) m
    WHERE inbox.run = m.run AND inbox.seq = m.seq;",
    assert_count!("$26")
);

/// The messages that an ended run leaves behind. Most runs never had one, and are not asked for.
pub(super) const WRITE_UNREAD: &str = "DELETE FROM inbox WHERE run IN (SELECT value FROM json_each($21));";

/// Heartbeat rows of settled calls, and results of transactional steps; most calls never had any.
pub(super) const WRITE_HEARTBEATS_SETTLED: &str =
    "DELETE FROM heartbeats WHERE (run, position) IN (SELECT value ->> 0, value ->> 1 FROM json_each($11));
    DELETE FROM step_results WHERE (run, position) IN (SELECT value ->> 0, value ->> 1 FROM json_each($11));";

/// Rows: run, status, wake, forced, build or null, reason or null. Whoever says that it cannot run it has lived on.
pub(super) const WRITE_YIELDS: &str = concat!(
    "UPDATE executions SET owner = NULL, status = y.status, wake_at = y.wake_at, forced = y.forced,
            claims = CASE WHEN y.build IS NULL THEN claims ELSE 0 END, blocked_build = coalesce(y.build, blocked_build), reason = coalesce(y.reason, executions.reason)
    FROM (SELECT value ->> 0 AS run, value ->> 1 AS status, value ->> 2 AS wake_at, value ->> 3 AS forced,
                 value ->> 4 AS build, value ->> 5 AS reason FROM json_each($12)) y
    WHERE executions.run = y.run;",
    assert_count!("$13")
);

/// Rows: run, seq, message, sent, offset and length of the body.
pub(super) const WRITE_MESSAGES: &str = concat!(
    "INSERT INTO inbox (run, seq, message, sent_at, body)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, substr($2, value ->> 4, value ->> 5)
    FROM json_each($14);",
    assert_count!("$15")
);

/// What messages did to their runs. Rows: run, inbox_seq, wake.
pub(super) const WRITE_RECEIVERS: &str = concat!(
    "UPDATE executions SET inbox_seq = s.seq, wake_at = s.wake_at
    FROM (SELECT value ->> 0 AS run, value ->> 1 AS seq, value ->> 2 AS wake_at FROM json_each($16)) s
    WHERE executions.run = s.run;",
    assert_count!("$17")
);

/// Rows: run, position, attempt, offset and length of the details. The last of a position wins.
pub(super) const WRITE_HEARTBEATS: &str = concat!(
    "INSERT OR REPLACE INTO heartbeats (run, position, attempt, details)
    SELECT value ->> 0, value ->> 1, value ->> 2, substr($2, value ->> 3, value ->> 4) FROM json_each($18);",
    assert_count!("$19")
);

pub(super) const WRITE_PROGRESSED: &str =
    "UPDATE executions SET claims = 0 WHERE claims <> 0 AND run IN (SELECT value FROM json_each($20));";

// Claiming, behind the writes. $31 now, $32 format, $33 build, $34 workflows, $35 limit, $36 queues or null, $37 tags, $38 how far
// ahead.

/// The first runs of each lane in the order of the claim. `forced_limit` is applied by the caller, over all lanes.
pub(super) const CANDIDATES: &str = concat!(
    "WITH RECURSIVE ",
    lanes!(),
    ",
    here (workflow, version) AS MATERIALIZED (SELECT value ->> 0, value ->> 1 FROM json_each($34)),
    picked (run) AS MATERIALIZED (
        SELECT p.value FROM lanes l JOIN json_each((
            SELECT json_group_array(c.run) FROM (
                SELECT e.run FROM executions e
                WHERE ",
    due!(),
    " AND e.forced = l.forced AND e.priority = l.priority AND e.wake_at <= (SELECT $38)
                  AND (e.epoch > 0 OR e.wake_at <= (SELECT $31))
                  AND e.format <= (SELECT $32) AND e.blocked_build IS NOT (SELECT $33)
                  AND EXISTS (SELECT 1 FROM here h WHERE h.workflow = e.workflow AND h.version = e.version)
                  AND ((SELECT $36) IS NULL OR e.queue IN (SELECT value FROM json_each($36)))
                  AND NOT EXISTS (SELECT 1 FROM json_each(e.needs) t WHERE t.value NOT IN (SELECT value FROM json_each($37)))
                ORDER BY e.wake_at, e.run LIMIT (SELECT $35)) c)) p
        WHERE l.priority IS NOT NULL)
    SELECT ",
    columns!(),
    " FROM picked p JOIN executions e ON e.run = p.run LEFT JOIN nodes n ON n.node = e.owner
    ORDER BY e.wake_at - e.priority * 10000000, e.run;"
);

/// $1 node, $2 runs, $3 their count. Ends the transaction.
pub(super) const CLAIM: &str = concat!(
    "UPDATE executions SET owner = $1, epoch = epoch + 1, claims = claims + 1, wake_at = NULL, forced = 0
    WHERE run IN (SELECT value FROM json_each($2));",
    assert_count!("$3"),
    "COMMIT;"
);

// Nodes and keys.

/// The nodes whose process may still live: those that are live, those that kept runs whose acts could not be stopped, and those
/// whose permits have not come back.
pub(super) const UNPROVED: &str = "SELECT incarnation FROM nodes WHERE live OR lingers IS NOT NULL OR beat_at > -lease;";

/// Those of $1, in hexadecimal, that are dead.
pub(super) const ENTERED: &str =
    "SELECT incarnation, live FROM nodes WHERE hex(incarnation) IN (SELECT value FROM json_each($1));";

/// $1 incarnation, $2 now, $3 build, $4 label, $5 lease, $6 can, $7 the dead, in hexadecimal. The third statement frees.
pub(super) const REGISTER: &str = "UPDATE node_lanes SET live = 0
    WHERE live AND node IN (SELECT node FROM nodes WHERE hex(incarnation) IN (SELECT value FROM json_each($7)));
    UPDATE nodes SET live = 0, state = 3, lingers = NULL, beat_at = -lease WHERE hex(incarnation) IN (SELECT value FROM json_each($7));
    UPDATE executions SET owner = NULL, forced = 1, wake_at = $2
    WHERE owner IS NOT NULL AND owner IN (SELECT node FROM nodes WHERE hex(incarnation) IN (SELECT value FROM json_each($7)));
    INSERT INTO nodes (incarnation, build, label, live, beat, state, lease, can, beat_at)
    VALUES ($1, $3, $4, 1, 0, 1, $5, $6, $2);
    INSERT INTO node_lanes (node, lane, live) SELECT node, 0, 1 FROM nodes WHERE incarnation = $1;";

macro_rules! retire {
    () => {
        "UPDATE node_lanes SET live = 0 WHERE node = (SELECT node FROM nodes WHERE incarnation = $1);
        UPDATE nodes SET live = 0, state = 3 WHERE incarnation = $1;"
    };
}

/// $1 incarnation.
pub(super) const RETIRE: &str = retire!();

/// $1 incarnation, $2 now, $3 runs to keep, $4 now if there are any. The fourth statement frees.
pub(super) const RETIRE_AND_FREE: &str = concat!(
    retire!(),
    "UPDATE nodes SET lingers = $4, beat_at = CASE WHEN $4 IS NULL THEN -lease ELSE beat_at END WHERE incarnation = $1;
    UPDATE executions SET owner = NULL, forced = 1, wake_at = $2
    WHERE owner = (SELECT node FROM nodes WHERE incarnation = $1)
      AND run NOT IN (SELECT value FROM json_each($3));"
);

/// $1 incarnation, $2 executions in memory.
pub(super) const RENEW_ALONE: &str = "UPDATE nodes SET beat = beat + 1, held = $2 WHERE incarnation = $1 AND live;";

/// $1 incarnation.
pub(super) const DRAIN: &str = "UPDATE nodes SET state = 2 WHERE incarnation = $1 AND live;";

pub(super) const NODES: &str = "SELECT incarnation, build, label, state, beat, lease, can, held FROM nodes ORDER BY node;";

/// $1 incarnation, $2 the beat that was seen.
pub(super) const TAKE_OVER: &str = "UPDATE nodes SET live = 0, state = 3 WHERE incarnation = $1 AND live AND beat = $2;
    UPDATE node_lanes SET live = 0 WHERE node = (SELECT node FROM nodes WHERE incarnation = $1 AND NOT live);
    SELECT count(*) FROM nodes WHERE incarnation = $1 AND live;";

/// The dead nodes that own something.
pub(super) const UNSWEPT: &str = "SELECT n.incarnation FROM nodes n
    WHERE NOT n.live AND EXISTS (SELECT 1 FROM executions e INDEXED BY executions_owned WHERE e.owner = n.node AND e.owner IS NOT NULL);";

/// $1 now, $2 how many, $3 those of the dead whose process is no more, in hexadecimal.
pub(super) const SWEEP: &str = "UPDATE executions SET owner = NULL, forced = 1, wake_at = $1
    WHERE run IN (SELECT e.run FROM nodes n JOIN executions e INDEXED BY executions_owned ON e.owner = n.node AND e.owner IS NOT NULL
                  WHERE NOT n.live AND (n.lingers IS NULL OR n.lingers + n.lease <= $1
                                        OR hex(n.incarnation) IN (SELECT value FROM json_each($3)))
                  LIMIT (SELECT $2));";

/// $1 id, $2 now.
pub(super) const RESUME: &str = "UPDATE executions
    SET status = 1, blocked_build = NULL, reason = NULL, wake_at = $2, claims = 0,
           forced = CASE WHEN status = 3 THEN forced ELSE 1 END
    WHERE run = (SELECT run FROM executions WHERE id = $1 ORDER BY run_no DESC LIMIT 1)
      AND owner IS NULL AND (status = 2 OR status = 3 OR status = 1 AND blocked_build IS NOT NULL);";

/// $1 run, $2 reason.
pub(super) const HALT: &str = "UPDATE executions SET status = 3, reason = $2
    WHERE run = $1 AND owner IS NULL AND status < 4 AND wake_at IS NULL AND epoch = $3;";

pub(super) const RESERVE: &str = "UPDATE meta SET value = value + $1 WHERE key = 'next_run' RETURNING value - $1;";

// Reads.

pub(super) const TAIL: &str = "SELECT commit_no, digest, body FROM events WHERE run = $1 ORDER BY commit_no DESC LIMIT 1;";

pub(super) const NEWEST: &str = "SELECT e.id, e.run_no, v.commit_no, v.digest, v.body
    FROM events v JOIN executions e ON e.run = v.run WHERE v.pos = (SELECT max(pos) FROM events);";

/// One row per unread message, or one with nulls; `inbox_seq` comes from the same snapshot.
pub(super) const INBOX: &str = "SELECT e.inbox_seq, i.seq, i.message, i.body, i.sent_at
    FROM executions e LEFT JOIN inbox i ON i.run = e.run WHERE e.run = $1 ORDER BY i.seq;";

pub(super) const FIND: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM executions e LEFT JOIN nodes n ON n.node = e.owner
    WHERE e.id = $1 AND e.run_no = coalesce($2, e.run_no) ORDER BY e.run_no DESC LIMIT 1;"
);

pub(super) const SUMMARIES: &str = summaries!();

/// $1 runs, $2 rows of logs at most. The order is that of `Reader::run`: what is consumed or ended between two of them is noticed
/// by the next commit. CROSS JOIN keeps the order of the runs.
pub(super) const RUNS: &str = concat!(
    summaries!(),
    "SELECT v.run, v.commit_no, v.digest, v.body FROM json_each($1) k CROSS JOIN events v ON v.run = k.value LIMIT (SELECT $2);
    SELECT t.run, t.position, t.attempt, t.queue, n.incarnation, t.dropped
    FROM json_each($1) k CROSS JOIN tasks t ON t.run = k.value LEFT JOIN nodes n ON n.node = t.worker;
    SELECT h.run, h.position, h.attempt, h.details FROM json_each($1) k CROSS JOIN heartbeats h ON h.run = k.value;
    SELECT e.run, e.inbox_seq, i.seq, i.message, i.body, i.sent_at
    FROM json_each($1) k CROSS JOIN executions e ON e.run = k.value LEFT JOIN inbox i ON i.run = e.run;"
);

/// $1 workflow, $2 states or null, $3 tag, $4 the last of the page before, $5 limit.
pub(super) const LIST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM executions e LEFT JOIN nodes n ON n.node = e.owner
    WHERE e.run < coalesce($4, 9223372036854775807) AND ($1 IS NULL OR e.workflow = $1)
      AND ($2 IS NULL OR e.status IN (SELECT value FROM json_each($2)))
      AND ($3 IS NULL OR EXISTS (SELECT 1 FROM json_each(e.tags) t WHERE t.value = $3))
    ORDER BY e.run DESC LIMIT (SELECT $5);"
);

pub(super) const OWNED: &str = "SELECT run, inbox_seq FROM executions
    WHERE owner = (SELECT node FROM nodes WHERE incarnation = $1) ORDER BY run;";

pub(super) const NEXT_WAKE: &str = concat!(
    "WITH RECURSIVE ",
    lanes!(),
    "
    SELECT min((SELECT e.wake_at FROM executions e WHERE ",
    due!(),
    " AND e.forced = l.forced
                AND e.priority = l.priority AND e.wake_at > $1 ORDER BY e.wake_at LIMIT 1))
    FROM lanes l WHERE l.priority IS NOT NULL;"
);

pub(super) const HEARTBEATS: &str = "SELECT position, attempt, details FROM heartbeats WHERE run = $1 ORDER BY position;";

/// To be run in one transaction.
pub(super) const SNAPSHOT: &str = concat!(
    "SELECT incarnation, build, label, live, beat FROM nodes;
    SELECT ",
    columns!(),
    " FROM executions e LEFT JOIN nodes n ON n.node = e.owner;
    SELECT e.id, e.run_no, v.commit_no, v.digest, v.body FROM events v LEFT JOIN executions e ON e.run = v.run;
    SELECT e.id, e.run_no, i.seq, i.message, i.body, i.sent_at FROM inbox i LEFT JOIN executions e ON e.run = i.run;
    SELECT e.id, e.run_no, h.position, h.attempt, h.details FROM heartbeats h LEFT JOIN executions e ON e.run = h.run;"
);

// Transactional steps, on a connection of their own.

/// $1 run, $2 position.
pub(super) const STEP_LOOK: &str = "SELECT output FROM step_results WHERE run = $1 AND position = $2;";

/// Fails inside a transaction.
pub(super) const STEP_PROBE: &str = "BEGIN;";

/// The last statement before the COMMIT: the row, if the fence stands. $1 run, $2 epoch, $3 incarnation, $4 position,
/// $5 attempt, $6 output.
pub(super) const STEP_LAST: &str = "INSERT INTO step_results (run, position, attempt, output)
    SELECT e.run, $4, $5, $6 FROM executions e JOIN nodes n ON n.node = e.owner
    WHERE e.run = $1 AND e.epoch = $2 AND e.status < 4 AND n.incarnation = $3 AND n.live;";

// A caller's own transaction.

macro_rules! now {
    () => {
        "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"
    };
}

/// One call: done as a whole or not at all. The second statement changes nothing: outside of a transaction it waits for the
/// write lock, which who has read before gets at once or not at all.
pub(super) const OUTSIDE_SAVE: &str = "SAVEPOINT stent_outbox; DELETE FROM meta WHERE 0;";
pub(super) const OUTSIDE_KEEP: &str = "RELEASE stent_outbox;";
pub(super) const OUTSIDE_UNDO: &str = "ROLLBACK TO stent_outbox; RELEASE stent_outbox;";

/// $1 id. Answers the time, and the current run of the id if there is one.
pub(super) const OUTSIDE_LOOK: &str = concat!(
    "SELECT ",
    now!(),
    ", e.run_no, e.workflow, e.status, e.input_digest FROM (SELECT 1)
    LEFT JOIN executions e ON e.run = (SELECT x.run FROM executions x WHERE x.id = $1 ORDER BY x.run_no DESC LIMIT 1);"
);

/// $1 run, $2 id, $3 run number, $4 workflow, $5 version, $6 status, $7 wake, $8 priority, $9 queue, $10 tags, $11 needs,
/// $12 created, $13 deadline, $14 input, $15 format, $16 digest, $17 body.
pub(super) const OUTSIDE_BEGIN: &str =
    "INSERT INTO executions (run, id, run_no, workflow, version, status, epoch, claims, forced, wake_at, priority, queue, tags,
                             needs, created_at, deadline, input_digest, inbox_seq, format)
    VALUES ($1, $2, $3, $4, $5, $6, 0, 0, 0, $7, $8, $9, $10, $11, $12, $13, $14, 0, $15);
    INSERT INTO events (run, commit_no, digest, body) VALUES ($1, 0, $16, $17);";

/// $1 id, $2 message. Answers what decides about the message.
pub(super) const OUTSIDE_TARGET: &str = "SELECT e.run, e.status, (SELECT count(*) FROM inbox i WHERE i.run = e.run),
           EXISTS (SELECT 1 FROM inbox i WHERE i.run = e.run AND i.message = $2)
    FROM executions e WHERE e.run = (SELECT x.run FROM executions x WHERE x.id = $1 ORDER BY x.run_no DESC LIMIT 1);";

/// $1 run, $2 message, $3 body.
pub(super) const OUTSIDE_POST: &str = concat!(
    "UPDATE executions SET inbox_seq = inbox_seq + 1,
           wake_at = CASE WHEN owner IS NULL AND status = 1 THEN min(coalesce(wake_at, ",
    now!(),
    "), ",
    now!(),
    ") ELSE wake_at END
    WHERE run = $1;
    INSERT INTO inbox (run, seq, message, sent_at, body) SELECT run, inbox_seq, $2, ",
    now!(),
    ", $3 FROM executions WHERE run = $1;"
);

// The file.

pub(super) const CHECKPOINT: &str = "PRAGMA wal_checkpoint(TRUNCATE);";
/// Waits for nobody, and brings in what can be without that.
pub(super) const CHECKPOINT_BESIDE: &str = "PRAGMA wal_checkpoint(PASSIVE);";
/// What a node of any release has: the table of the first schema.
pub(super) const LIVE: &str = "SELECT incarnation FROM nodes WHERE live;";
pub(super) const TABLES: &str = "SELECT name FROM sqlite_schema WHERE type = 'table';";
pub(super) const WAL: &str = "PRAGMA journal_mode = WAL;";
pub(super) const MIGRATIONS: &str =
    "CREATE TABLE IF NOT EXISTS _stent_migrations (version INTEGER PRIMARY KEY, applied_at INTEGER NOT NULL);";
pub(super) const VERSION: &str = "SELECT coalesce(max(version), 0) FROM _stent_migrations;";
pub(super) const MIGRATED: &str =
    "INSERT INTO _stent_migrations (version, applied_at) VALUES ($1, CAST(unixepoch('subsec') * 1000000 AS INTEGER));";

/// Every text that runs on an open database, by name.
#[cfg(test)]
pub(super) const ALL: &[(&str, &str)] = &[
    ("begin", BEGIN),
    ("commit", COMMIT),
    ("rollback", ROLLBACK),
    ("savepoint", SAVEPOINT),
    ("release", RELEASE),
    ("rollback_to", ROLLBACK_TO),
    ("fence", FENCE),
    ("look_turns", LOOK_TURNS),
    ("look_consumed", LOOK_CONSUMED),
    ("look_keys", LOOK_KEYS),
    ("look_ids", LOOK_IDS),
    ("look_runs", LOOK_RUNS),
    ("look_messages", LOOK_MESSAGES),
    ("look_refusals", LOOK_REFUSALS),
    ("look_unread", LOOK_UNREAD),
    ("renew", RENEW),
    ("write_runs", WRITE_RUNS),
    ("write_events", WRITE_EVENTS),
    ("write_events_alone", WRITE_EVENTS_ALONE),
    ("write_settled", WRITE_SETTLED),
    ("write_consumed", WRITE_CONSUMED),
    ("assert_turns", ASSERT_TURNS),
    ("known", KNOWN),
    ("total", TOTAL),
    ("write_ended", WRITE_ENDED),
    ("write_along", WRITE_ALONG),
    ("write_unread", WRITE_UNREAD),
    ("write_heartbeats_settled", WRITE_HEARTBEATS_SETTLED),
    ("write_yields", WRITE_YIELDS),
    ("write_messages", WRITE_MESSAGES),
    ("write_receivers", WRITE_RECEIVERS),
    ("write_heartbeats", WRITE_HEARTBEATS),
    ("write_progressed", WRITE_PROGRESSED),
    ("candidates", CANDIDATES),
    ("claim", CLAIM),
    ("unproved", UNPROVED),
    ("entered", ENTERED),
    ("register", REGISTER),
    ("renew_alone", RENEW_ALONE),
    ("drain", DRAIN),
    ("nodes", NODES),
    ("take_over", TAKE_OVER),
    ("unswept", UNSWEPT),
    ("sweep", SWEEP),
    ("retire", RETIRE),
    ("retire_and_free", RETIRE_AND_FREE),
    ("reserve", RESERVE),
    ("resume", RESUME),
    ("halt", HALT),
    ("history", history::HISTORY),
    ("history_long", history::HISTORY_LONG),
    ("tail", TAIL),
    ("newest", NEWEST),
    ("inbox", INBOX),
    ("find", FIND),
    ("summaries", SUMMARIES),
    ("runs", RUNS),
    ("list", LIST),
    ("owned", OWNED),
    ("next_wake", NEXT_WAKE),
    ("heartbeats", HEARTBEATS),
    ("snapshot", SNAPSHOT),
    ("step_look", STEP_LOOK),
    ("step_probe", STEP_PROBE),
    ("step_last", STEP_LAST),
    ("outside_save", OUTSIDE_SAVE),
    ("outside_keep", OUTSIDE_KEEP),
    ("outside_undo", OUTSIDE_UNDO),
    ("outside_look", OUTSIDE_LOOK),
    ("outside_begin", OUTSIDE_BEGIN),
    ("outside_target", OUTSIDE_TARGET),
    ("outside_post", OUTSIDE_POST),
    ("checkpoint", CHECKPOINT),
    ("checkpoint_beside", CHECKPOINT_BESIDE),
    ("live", LIVE),
    ("tables", TABLES),
    ("wal", WAL),
    ("migrations", MIGRATIONS),
    ("version", VERSION),
    ("migrated", MIGRATED),
];
