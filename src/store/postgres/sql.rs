//! Every SQL text of this store that touches data. All are constant: what varies comes in as arrays, one per column, so a
//! batch of a thousand items runs as many statements as one of one item, each prepared once per session. The schema is
//! found by the session's `search_path`.
//!
//! Rules that all of them keep. Whatever writes an owner or appends takes the fence first: `FOR KEY SHARE` on the row of its
//! own lane, which a takeover waits for and changes. A statement sees one moment, however long it then waits for a lock:
//! what it reads of *other* rows may be old by then, so it decides only by rows that it locks itself, which PostgreSQL
//! reads anew after the wait, or by what never changes, a row of the log and its key; and what needs more is read by a later
//! statement of the same transaction.
//!
//! Nothing is read but by an index, row by row. A plan may be made while a table has many rows and no statistics, or while it is
//! empty, and be kept while it grows. So the sessions that write know nested loops only (`home.rs`), and where a loop could go
//! round the wrong way (`EXISTS` and `IN` are joins too) the inner side stands behind a `LIMIT`, or in a condition that is not
//! turned into a join, `(x IN (SELECT …)) IS TRUE`, where it is a lookup in a table of hashes.

use crate::store::packed::short;

/// The columns that `rows::summary` reads, of `e` (executions); who owns it is the caller's to say.
macro_rules! columns {
    ($owner:literal) => {
        concat!(
            "e.run, e.id, e.run_no, e.workflow, e.version, e.status, ",
            $owner,
            ", e.epoch, e.wake_at, e.priority, e.queue, e.tags, e.created_at, e.ended_at, e.deadline, e.input_digest, \
             e.inbox_seq, e.blocked_build, e.reason, e.claims, e.forced, e.format, e.needs"
        )
    };
}

/// What the partial index `executions_due` holds; the planner wants it literally.
macro_rules! due {
    () => {
        "e.owner IS NULL AND e.status = 1 AND e.wake_at IS NOT NULL"
    };
}

/// The fence of a statement: no row, no writing.
macro_rules! fence {
    () => {
        "fence AS MATERIALIZED (
            SELECT l.node FROM node_lanes l WHERE l.node = $1 AND l.lane = 0 AND l.live FOR KEY SHARE)"
    };
}

// Sessions.

pub(super) const BEGIN: &str = "BEGIN";
pub(super) const COMMIT: &str = "COMMIT";
pub(super) const ROLLBACK: &str = "ROLLBACK";

/// $1 names, $2 values. What is there already is left alone if it promises more.
pub(super) const SETTINGS: &str = "SELECT set_config(s.name, CASE WHEN s.name = 'synchronous_commit' AND s.value = 'on'
            AND current_setting(s.name) = 'remote_apply' THEN 'remote_apply' ELSE s.value END, false)
    FROM unnest($1::text[], $2::text[]) AS s(name, value)";

/// Who we are to the server, and which server it is. The name of the segment that is being written begins with the
/// timeline: the only way to it that does not lag behind a promotion.
pub(super) const GREETING: &str = "SELECT pg_backend_pid(),
           (SELECT a.backend_start::text FROM pg_stat_activity a WHERE a.pid = pg_backend_pid()),
           pg_is_in_recovery(), current_setting('fsync'), current_setting('full_page_writes'),
           current_setting('search_path'), current_setting('synchronous_commit'),
           CASE WHEN pg_is_in_recovery() THEN '' ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END,
           has_function_privilege('pg_control_system()', 'execute')";
pub(super) const SYSTEM: &str = "SELECT system_identifier::text FROM pg_control_system()";

/// $1 pid, $2 when it began. Answers one row while that backend is there.
pub(super) const END_BACKEND: &str = "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a
    WHERE a.pid = $1 AND a.backend_start::text = $2";

/// Assigns the transaction its number, by which its outcome can be asked for.
pub(super) const XID: &str = "SELECT pg_current_xact_id()::text";
/// $1 the number.
pub(super) const XID_STATUS: &str = "SELECT pg_xact_status($1::xid8)";

/// $1 class, $2 node. The sessions that commit, and those for the affairs of nodes, hold this: as long as one does, the node is
/// not proved dead.
pub(super) const HOLD_NODE: &str = "SELECT pg_try_advisory_lock_shared($1, $2)";

/// $1 run, $2 commit number, $3 digest.
pub(super) const WITNESS: &str = "SELECT 1 FROM events WHERE run = $1 AND commit_no = $2 AND digest = $3";

/// $1 milliseconds.
pub(super) const LOCK_TIMEOUT: &str = "SELECT set_config('lock_timeout', $1, true)";

// The one statement of most batches.

/// Whether a node stands, without a lock: for batches that write nothing. $1 node.
pub(super) const STANDS: &str = "SELECT 1 FROM node_lanes l WHERE l.node = $1 AND l.lane = 0 AND l.live";

/// The statement of `TURNS` and `PLAIN`: what differs is named.
macro_rules! turns {
    (consumed: $consumed:literal, look: $look:literal, cleared: $cleared:literal, read: $read:literal) => {
        concat!(
            "WITH ",
            fence!(),
            ",
    beat AS (UPDATE nodes n SET beat = n.beat + 1, beat_at = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
             FROM fence f WHERE $2 AND n.node = f.node),
    t AS MATERIALIZED (
        SELECT * FROM unnest($5::bigint[], $6::bigint[], $7::bigint[], $8::bytea[], $9::smallint[], $10::bigint[], $11::bigint[],
                             $12::smallint[], $13::bytea[], $14::bytea[])
            AS t(ord, run, no, prev, kind, seen, wake_at, status, digest, body)),
    s AS MATERIALIZED (
        SELECT * FROM unnest($15::bigint[], $16::text[], $17::text[], $18::bigint[], $19::integer[], $20::text[],
                             $21::text[], $22::text[], $23::bigint[], $24::bigint[], $25::bigint[], $26::bytea[], $27::smallint[],
                             $28::boolean[], $29::bigint[], $30::bigint[], $31::bytea[], $32::bytea[])
            AS s(run, id, workflow, version, priority, queue, tags, needs, created_at, wake_at, deadline, input_digest,
                 status, owned, epoch, ended_at, digest, body)),
    free AS MATERIALIZED (
        SELECT f.node, NOT EXISTS (SELECT 1 FROM s CROSS JOIN LATERAL (SELECT 1 FROM executions e WHERE e.id = s.id LIMIT 1) e) AS ok
        FROM fence f),",
            $consumed,
            "
    look AS MATERIALIZED (
        SELECT t.* FROM free f CROSS JOIN t WHERE f.ok AND t.prev IS NULL",
            $look,
            "
        UNION ALL
        SELECT t.* FROM free f CROSS JOIN t
        JOIN events v ON v.run = t.run AND v.commit_no = t.no - 1 AND v.digest = t.prev
        JOIN executions e ON e.run = t.run AND e.status < 4 AND (t.kind = 0 OR e.inbox_seq = t.seen)
        WHERE f.ok AND t.prev IS NOT NULL",
            $look,
            "),
    settled AS (
        UPDATE executions e SET owner = NULL, claims = 0, status = CASE WHEN k.kind = 2 THEN k.status ELSE e.status END,
               wake_at = k.wake_at, ended_at = CASE WHEN k.kind = 2 THEN $3 ELSE e.ended_at END
        FROM look k WHERE k.kind > 0 AND e.run = k.run AND e.status < 4 AND e.inbox_seq = k.seen
        RETURNING e.run),
    accepted AS MATERIALIZED (
        SELECT k.ord, k.run, k.no, k.kind, k.seen, k.digest, k.body FROM look k
        WHERE k.kind = 0 OR k.run IN (SELECT u.run FROM settled u)),
    begun AS (
        INSERT INTO executions (run, id, run_no, workflow, version, status, owner, epoch, claims, forced, wake_at, priority, queue,
                                tags, needs, created_at, ended_at, deadline, input_digest, inbox_seq, format)
        SELECT s.run, s.id, 1, s.workflow, s.version, s.status, CASE WHEN s.owned THEN f.node END, s.epoch, 0, false, s.wake_at,
               s.priority, s.queue, s.tags::text[], s.needs::text[], s.created_at, s.ended_at, s.deadline, s.input_digest, 0, $4
        FROM free f CROSS JOIN s WHERE f.ok
        RETURNING 1),
    appended AS (
        INSERT INTO events (run, commit_no, digest, body)
        SELECT a.run, a.no, a.digest, a.body FROM accepted a
        UNION ALL SELECT s.run, 0, s.digest, s.body FROM free f CROSS JOIN s WHERE f.ok
        RETURNING 1),
    unread AS (
        DELETE FROM inbox i USING accepted a WHERE a.kind = 2 AND a.seen > 0 AND i.run = a.run),
    ends AS (
        DELETE FROM heartbeats h USING accepted a WHERE a.kind = 2 AND h.run = a.run),",
            $cleared,
            "
    counts AS MATERIALIZED (
        SELECT coalesce((SELECT ok FROM free), false) AS ok,
               (SELECT count(*) FROM s) AS beginnings, (SELECT count(*) FROM begun) AS begun,
               (SELECT count(*) FROM accepted) AS accepted, (SELECT count(*) FROM appended) AS appended",
            $read,
            ")
    SELECT (SELECT count(*) FROM fence), n.ok, (SELECT array_agg(a.ord) FROM accepted a),
           1 / CASE WHEN n.begun = CASE WHEN n.ok THEN n.beginnings ELSE 0 END AND n.appended = n.begun + n.accepted
                     AND n.eaten = n.read THEN 1 ELSE 0 END
    FROM counts n"
        )
    };
}

/// Turns of existing runs and beginnings of new ones, which it either writes with everything that belongs to them or does
/// not touch. Beginnings are accepted all or none: who loses an id is told its current run as it was at its place in the
/// batch, which only the general path knows. A turn whose row is there already fails the whole statement by the key of the log:
/// so rare that nothing is looked up for it. Nor is it where the row before is known to be there.
///
/// $1 node, $2 renew, $3 now, $4 format. Turns: $5 ord, $6 run, $7 commit number, $8 digest before or null, $9 kind (0 hold, 1 sleep,
/// 2 end), $10 seen, $11 wake, $12 status, $13 digest, $14 body. Beginnings: $15 run, $16 id, $17 workflow, $18 version,
/// $19 priority, $20 queue, $21 tags, $22 needs, $23 created, $24 wake, $25 deadline, $26 input, $27 status, $28 owned,
/// $29 epoch, $30 ended, $31 digest, $32 body. Messages consumed: $33 ord, $34 run, $35 seq. Heartbeats settled: $36 ord,
/// $37 run, $38 position.
pub(super) const TURNS: &str = turns!(
    consumed: "
    c AS MATERIALIZED (
        SELECT c.ord, c.run, c.seq, i.run IS NOT NULL AS there
        FROM unnest($33::bigint[], $34::bigint[], $35::bigint[]) AS c(ord, run, seq)
        LEFT JOIN inbox i ON i.run = c.run AND i.seq = c.seq),",
    look: " AND t.ord NOT IN (SELECT c.ord FROM c WHERE NOT c.there)",
    cleared: "
    eaten AS (
        DELETE FROM inbox i USING c
        WHERE i.run = c.run AND i.seq = c.seq AND (c.ord IN (SELECT a.ord FROM accepted a WHERE a.kind < 2)) IS TRUE RETURNING 1),
    calls AS (
        DELETE FROM heartbeats h USING unnest($36::bigint[], $37::bigint[], $38::bigint[]) AS d(ord, run, position)
        WHERE h.run = d.run AND h.position = d.position AND (d.ord IN (SELECT a.ord FROM accepted a WHERE a.kind < 2)) IS TRUE),
    results AS (
        DELETE FROM step_results r USING unnest($36::bigint[], $37::bigint[], $38::bigint[]) AS d(ord, run, position)
        WHERE r.run = d.run AND r.position = d.position AND (d.ord IN (SELECT a.ord FROM accepted a)) IS TRUE),",
    read: ",
               (SELECT count(*) FROM c WHERE (c.ord IN (SELECT a.ord FROM accepted a WHERE a.kind < 2)) IS TRUE) AS read,
               (SELECT count(*) FROM eaten) AS eaten"
);

/// The same for batches that consume and settle nothing, as nearly all do: half of what it takes to start a statement is what
/// is in it. Takes $1 to $32.
pub(super) const PLAIN: &str = turns!(consumed: "", look: "", cleared: "", read: ", 0 AS read, 0 AS eaten");

/// Which of these rows are in the log: what became of a statement whose answer was lost. $1 run, $2 commit number, $3 digest.
pub(super) const APPENDED: &str =
    "SELECT t.ord FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) WITH ORDINALITY AS t(run, no, digest, ord)
    JOIN events v ON v.run = t.run AND v.commit_no = t.no AND v.digest = t.digest";

// The general path: fence, lock, look, delete, write.

/// $1 node. Answers the number of the transaction if the node stands.
pub(super) const FENCE: &str = concat!("WITH ", fence!(), " SELECT pg_current_xact_id()::text FROM fence");

/// Locks the runs that items are about, in one order for everybody. What somebody else has locked is left out: nobody
/// waits here. $1 runs, $2 ids.
pub(super) const LOCK: &str = "WITH wanted AS MATERIALIZED (
        SELECT k.run FROM unnest($1::bigint[]) AS k(run)
        UNION SELECT (SELECT x.run FROM executions x WHERE x.id = k.id ORDER BY x.run_no DESC LIMIT 1)
              FROM unnest($2::text[]) AS k(id))
    SELECT e.run FROM executions e JOIN wanted w ON w.run = e.run ORDER BY e.run FOR NO KEY UPDATE OF e SKIP LOCKED";

/// $1 runs, $2 ids. Behind the columns: whether it was asked for by its id, unread messages, the last row's number and
/// digest.
pub(super) const LOOK: &str = concat!(
    "WITH wanted AS MATERIALIZED (
        SELECT k.run, false AS by_id FROM unnest($1::bigint[]) AS k(run)
        UNION ALL SELECT (SELECT x.run FROM executions x WHERE x.id = k.id ORDER BY x.run_no DESC LIMIT 1), true
                  FROM unnest($2::text[]) AS k(id))
    SELECT ",
    columns!("n.incarnation"),
    ", w.by_id, (SELECT count(*) FROM inbox i WHERE i.run = e.run), v.commit_no, v.digest
    FROM wanted w JOIN executions e ON e.run = w.run
    LEFT JOIN nodes n ON n.node = e.owner
    LEFT JOIN LATERAL (SELECT x.commit_no, x.digest FROM events x WHERE x.run = e.run ORDER BY x.commit_no DESC LIMIT 1) v ON true"
);

/// $1 runs that continue: what is unread in their inboxes.
pub(super) const LOOK_UNREAD: &str = "SELECT i.run, i.seq, i.message, i.body FROM unnest($1::bigint[]) AS k(run)
    CROSS JOIN LATERAL (SELECT run, seq, message, body FROM inbox WHERE run = k.run ORDER BY seq) i";

/// $1 runs, $2 numbers and $3 the runs that the messages go along with.
pub(super) const MOVE: &str = "WITH moved AS (
        UPDATE inbox i SET run = k.next FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS k(run, seq, next)
        WHERE i.run = k.run AND i.seq = k.seq RETURNING 1)
    SELECT count(*) FROM moved";

/// $1 runs and $2 messages that are about to be sent to them; $3 runs and $4 numbers that are about to be consumed.
pub(super) const LOOK_INBOX: &str = "SELECT i.run, i.seq, i.message FROM unnest($1::bigint[], $2::text[]) AS k(run, message)
        JOIN inbox i ON i.run = k.run AND i.message = k.message
    UNION ALL SELECT i.run, i.seq, NULL FROM unnest($3::bigint[], $4::bigint[]) AS k(run, seq)
        JOIN inbox i ON i.run = k.run AND i.seq = k.seq";

/// What goes, before anything comes: a message that was consumed may be sent again in the same batch. $1 runs and $2
/// numbers consumed; $3 runs ended; $4 runs and $5 positions settled.
pub(super) const DELETE: &str = "WITH eaten AS (
        DELETE FROM inbox i USING unnest($1::bigint[], $2::bigint[]) AS k(run, seq) WHERE i.run = k.run AND i.seq = k.seq
        RETURNING 1),
    unread AS (DELETE FROM inbox i USING unnest($3::bigint[]) AS k(run) WHERE i.run = k.run),
    ends AS (DELETE FROM heartbeats h USING unnest($3::bigint[]) AS k(run) WHERE h.run = k.run),
    calls AS (
        DELETE FROM heartbeats h USING unnest($4::bigint[], $5::bigint[]) AS k(run, position)
        WHERE h.run = k.run AND h.position = k.position),
    results AS (
        DELETE FROM step_results r USING unnest($4::bigint[], $5::bigint[]) AS k(run, position)
        WHERE r.run = k.run AND r.position = k.position)
    SELECT count(*) FROM eaten";

/// What comes. Answers how many rows of each.
///
/// New runs: $1 run, $2 id, $3 run number, $4 workflow, $5 version, $6 priority, $7 queue, $8 tags, $9 needs, $10 created,
/// $11 deadline, $12 input; with $13 status, $14 owner, $15 epoch, $16 wake, $17 ended, $18 inbox_seq, $19 format. Changed
/// runs, whole as they are then: $20 run, $21 status, $22 unowned, $23 wake, $24 ended, $25 claims, $26 forced, $27 blocked,
/// $28 reason, $29 inbox_seq. Log: $30 run, $31 number, $32 digest, $33 body. Inbox: $34 run, $35 seq, $36 message,
/// $37 sent, $38 body. Heartbeats: $39 run, $40 position, $41 attempt, $42 details. $43 node, $44 whether to renew.
/// Of new runs again: $45 forced, $46 blocked, $47 reason: one that begins may be given back in the same batch.
pub(super) const WRITE: &str = "WITH beat AS (
        UPDATE nodes n SET beat = n.beat + 1,
               beat_at = greatest(n.beat_at, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
        WHERE $44 AND n.node = $43 RETURNING 1),
    begun AS (
        INSERT INTO executions (run, id, run_no, workflow, version, priority, queue, tags, needs, created_at, deadline,
                                input_digest, status, owner, epoch, wake_at, ended_at, inbox_seq, format, claims, forced, blocked_build,
                                reason)
        SELECT s.run, s.id, s.run_no, s.workflow, s.version, s.priority, s.queue, s.tags::text[], s.needs::text[], s.created_at,
               s.deadline, s.input_digest, s.status, s.owner, s.epoch, s.wake_at, s.ended_at, s.inbox_seq, $19, 0, s.forced,
               s.blocked_build, s.reason
        FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::bigint[], $6::integer[], $7::text[], $8::text[],
                    $9::text[], $10::bigint[], $11::bigint[], $12::bytea[], $13::smallint[], $14::integer[], $15::bigint[],
                    $16::bigint[], $17::bigint[], $18::bigint[], $45::boolean[], $46::bigint[], $47::text[])
            AS s(run, id, run_no, workflow, version, priority, queue, tags, needs, created_at, deadline, input_digest, status,
                 owner, epoch, wake_at, ended_at, inbox_seq, forced, blocked_build, reason)
        RETURNING 1),
    changed AS (
        UPDATE executions e SET status = u.status, owner = CASE WHEN u.freed THEN NULL ELSE e.owner END, wake_at = u.wake_at, ended_at = u.ended_at, claims = u.claims,
               forced = u.forced, blocked_build = u.blocked_build, reason = u.reason, inbox_seq = u.inbox_seq
        FROM unnest($20::bigint[], $21::smallint[], $22::boolean[], $23::bigint[], $24::bigint[], $25::integer[], $26::boolean[],
                    $27::bigint[], $28::text[], $29::bigint[])
            AS u(run, status, freed, wake_at, ended_at, claims, forced, blocked_build, reason, inbox_seq)
        WHERE e.run = u.run RETURNING 1),
    appended AS (
        INSERT INTO events (run, commit_no, digest, body)
        SELECT v.run, v.no, v.digest, v.body FROM unnest($30::bigint[], $31::bigint[], $32::bytea[], $33::bytea[])
            WITH ORDINALITY AS v(run, no, digest, body, ord)
        ORDER BY v.ord RETURNING 1),
    sent AS (
        INSERT INTO inbox (run, seq, message, sent_at, body)
        SELECT * FROM unnest($34::bigint[], $35::bigint[], $36::text[], $37::bigint[], $38::bytea[])
            AS m(run, seq, message, sent_at, body)
        RETURNING 1),
    beaten AS (
        INSERT INTO heartbeats (run, position, attempt, details)
        SELECT * FROM unnest($39::bigint[], $40::bigint[], $41::bigint[], $42::bytea[]) AS h(run, position, attempt, details)
        ON CONFLICT (run, position) DO UPDATE SET attempt = excluded.attempt, details = excluded.details
        RETURNING 1)
    SELECT (SELECT count(*) FROM begun), (SELECT count(*) FROM changed), (SELECT count(*) FROM appended),
           (SELECT count(*) FROM sent), (SELECT count(*) FROM beaten)";

/// $1 priorities.
pub(super) const PRIORITIES: &str =
    "INSERT INTO priorities (priority) SELECT k.priority FROM unnest($1::integer[]) AS k(priority) ON CONFLICT DO NOTHING";

// Claiming. $1 node, $2 now, $3 floor, $4 format, $5 build, $6 workflows, $7 versions, $8 queues or null, $9 tags, $10 limit,
// $11 forced limit, $12 how far ahead.

macro_rules! candidates {
    ($limit:literal, $lock:literal) => {
        concat!(
            "here AS MATERIALIZED (SELECT * FROM unnest($6::text[], $7::bigint[]) AS h(workflow, version)),
            lanes AS MATERIALIZED (SELECT p.priority, f.forced FROM fence CROSS JOIN priorities p CROSS JOIN (VALUES (false), (true)) f(forced)),
            candidates AS MATERIALIZED (
                SELECT d.* FROM lanes l CROSS JOIN LATERAL (
                    SELECT e.run, e.priority, e.wake_at, e.forced FROM executions e
                    WHERE ",
            due!(),
            " AND e.forced = l.forced AND e.priority = l.priority AND e.wake_at <= $12 AND e.wake_at >= $3
                      AND (e.epoch > 0 OR e.wake_at <= $2)
                      AND e.format <= $4 AND e.blocked_build IS DISTINCT FROM $5
                      AND (e.workflow, e.version) IN (SELECT h.workflow, h.version FROM here h)
                      AND ($8::text[] IS NULL OR e.queue = ANY ($8::text[])) AND e.needs <@ $9::text[]
                    ORDER BY e.wake_at, e.run LIMIT CASE WHEN l.forced THEN least($11::bigint, ",
            $limit,
            ") ELSE ",
            $limit,
            " END ",
            $lock,
            ") d)"
        )
    };
}

/// Whether there is anything to claim, without any lock: an idle poll writes nothing. Answers no row when the node is dead.
pub(super) const POLL: &str = concat!(
    "WITH fence AS MATERIALIZED (
        SELECT n.state FROM node_lanes l JOIN nodes n ON n.node = l.node WHERE l.node = $1 AND l.lane = 0 AND l.live), ",
    candidates!("1", ""),
    " SELECT f.state = 1 AND $10::bigint > 0 AND EXISTS (SELECT 1 FROM candidates) FROM fence f"
);

/// Takes candidates that nobody else is taking. Behind the columns: whether it was forced, and when it was due. $13 is the
/// incarnation. The transaction has its number by `FENCE` before.
pub(super) const CLAIM: &str = concat!(
    "WITH fence AS MATERIALIZED (
        SELECT l.node FROM node_lanes l JOIN nodes n ON n.node = l.node
        WHERE l.node = $1 AND l.lane = 0 AND l.live AND n.state = 1 FOR KEY SHARE OF l), ",
    candidates!("$10::bigint", "FOR NO KEY UPDATE SKIP LOCKED"),
    ",
    ranked AS (
        SELECT c.*, row_number() OVER (PARTITION BY c.forced ORDER BY c.wake_at::numeric - c.priority::bigint * 10000000, c.run) AS place FROM candidates c),
    picked AS MATERIALIZED (
        SELECT r.run, r.forced, r.wake_at FROM ranked r WHERE NOT r.forced OR r.place <= $11::bigint
        ORDER BY r.wake_at::numeric - r.priority::bigint * 10000000, r.run LIMIT $10::bigint)
    UPDATE executions e SET owner = $1, epoch = e.epoch + 1, claims = e.claims + 1, wake_at = NULL, forced = false
    FROM picked p WHERE e.run = p.run RETURNING ",
    columns!("$13::uuid"),
    ", p.forced, p.wake_at"
);

// Nodes and keys.

/// $1 incarnation, $2 build, $3 label, $4 lease, $5 can, $6 pid, $7 when the backend began.
pub(super) const ENTER: &str = "WITH entered AS (
        INSERT INTO nodes (incarnation, build, label, state, beat, lease, can, held, beat_at)
        VALUES ($1, $2, $3, 1, 0, $4, $5, 0, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
        RETURNING node)
    INSERT INTO node_lanes (node, lane, live, pid, backend_start)
    SELECT e.node, l.lane, true, l.pid, l.began FROM entered e CROSS JOIN (VALUES (0, $6::integer, $7::text), (1, 0, '')) l(lane, pid, began)
    RETURNING node";

/// $1 incarnation.
pub(super) const NODE: &str = "SELECT node FROM nodes WHERE incarnation = $1";

/// $1 node, $2 pid, $3 when the backend began, $4 lane: a session of this node was opened anew.
pub(super) const LANE_MOVED: &str = "UPDATE node_lanes SET pid = $2, backend_start = $3 WHERE node = $1 AND lane = $4 AND live";

/// $1 incarnation. The first lock of a takeover: waits for nobody but a renewal.
pub(super) const LOCK_NODE: &str = "SELECT node, state, beat FROM nodes WHERE incarnation = $1 FOR UPDATE";

/// $1 node. The second: waits for the commits under way. New ones overtake it; whoever waits too long ends them.
pub(super) const LOCK_LANES: &str = "SELECT lane FROM node_lanes WHERE node = $1 ORDER BY lane FOR UPDATE";

/// $1 node. Both in the transaction that holds both locks: a lock alone does not stop a commit of an older snapshot.
pub(super) const KILL: &str = "WITH lanes AS (UPDATE node_lanes SET live = false WHERE node = $1)
    UPDATE nodes SET state = 3 WHERE node = $1";

/// $1 node. Ends the sessions that hold up a takeover; a node that retires is not held up by itself.
pub(super) const END_HOLDERS: &str = "SELECT pg_terminate_backend(a.pid) FROM node_lanes l
    JOIN pg_stat_activity a ON a.pid = l.pid AND a.backend_start::text = l.backend_start
    WHERE l.node = $1 AND a.pid <> pg_backend_pid()";

/// $1 node, $2 now, $3 runs to keep. What a foreign transaction has locked is left to a sweep: its owner is dead then.
pub(super) const FREE: &str = "WITH ours AS MATERIALIZED (
        SELECT x.run FROM executions x WHERE x.owner = $1 AND x.owner IS NOT NULL AND NOT x.run = ANY ($3::bigint[])
        FOR NO KEY UPDATE SKIP LOCKED)
    UPDATE executions e SET owner = NULL, forced = true, wake_at = $2 FROM ours o WHERE e.run = o.run RETURNING 1";

/// $1 node, $2 when it was retired, if it keeps some, $3 whether it has left well: then its permits are back at once.
pub(super) const LINGER: &str =
    "UPDATE nodes SET lingers = $2, beat_at = CASE WHEN $3 AND $2::bigint IS NULL THEN -lease ELSE beat_at END
    WHERE node = $1";

/// $1 incarnation, $2 executions in memory. The time is taken in the same statement.
pub(super) const RENEW: &str = "UPDATE nodes SET beat = beat + 1, held = $2,
           beat_at = greatest(beat_at, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
    WHERE incarnation = $1 AND state < 3
    RETURNING node, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// $1 incarnation.
pub(super) const DRAIN: &str = "UPDATE nodes SET state = 2 WHERE incarnation = $1 AND state = 1";

/// $1 channel, $2 texts.
pub(super) const NOTIFY: &str = "SELECT pg_notify($1, t.text) FROM unnest($2::text[]) AS t(text)";

pub(super) const TIME: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// Whether the last beat of `n` is older than a day, by the server's clock.
macro_rules! long_ago {
    () => {
        "n.beat_at < (extract(epoch FROM clock_timestamp() - interval '1 day') * 1000000)::bigint"
    };
}

/// $1 class. The column behind `can` is a proof that no session of the node is left: nobody holds its lock. A session's own lock
/// does not stand in its own way: the caller knows its node. A server that has just begun holds nobody's lock yet: those who live
/// come back within moments. Of the dead only those are told that a sweep has to do with, and none of their locks is tried.
pub(super) const NODES: &str = concat!(
    "SELECT n.incarnation, n.build, n.label, n.state, n.beat, n.lease, n.held, n.can,
           CASE WHEN n.state < 3 AND clock_timestamp() - pg_postmaster_start_time()
                                     > least(n.lease * interval '1 microsecond', interval '5 seconds')
                THEN pg_try_advisory_xact_lock($1, n.node) ELSE false END, n.node
    FROM nodes n
    WHERE n.state < 3 OR (SELECT true FROM executions e WHERE e.owner = n.node AND e.owner IS NOT NULL LIMIT 1) OR ",
    long_ago!(),
    " ORDER BY n.node"
);

/// $1 now, $2 how many. Rows of living owners are not even looked at. What a node has kept because its acts could not be stopped waits
/// for another lease of it: such a node has closed its sessions, so that its lock is free says nothing of what its process still does.
/// The dead of whom nothing is left are forgotten after a day; those who left well, whose last beat is set far back, at once. Nobody gets anything in a dead node's name, so
/// who owns nothing at this moment never will.
pub(super) const SWEEP: &str = concat!(
    "WITH dead AS MATERIALIZED (
        SELECT n.node FROM nodes n
        WHERE n.state = 3 AND (n.lingers IS NULL OR n.lingers + n.lease <= $1)),
    gone AS MATERIALIZED (
        SELECT n.node FROM nodes n
        WHERE n.state = 3 AND ",
    long_ago!(),
    " AND (SELECT true FROM executions x WHERE x.owner = n.node AND x.owner IS NOT NULL LIMIT 1) IS NULL
          AND (SELECT true FROM tasks t WHERE t.worker = n.node AND t.worker IS NOT NULL LIMIT 1) IS NULL
        LIMIT $2 FOR UPDATE SKIP LOCKED),
    no_lanes AS (DELETE FROM node_lanes l USING gone g WHERE l.node = g.node),
    no_nodes AS (DELETE FROM nodes n USING gone g WHERE n.node = g.node),
    freed AS MATERIALIZED (
        SELECT e.run FROM dead d CROSS JOIN LATERAL (
            SELECT x.run FROM executions x WHERE x.owner = d.node AND x.owner IS NOT NULL LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED) e
        LIMIT $2)
    UPDATE executions e SET owner = NULL, forced = true, wake_at = $1 FROM freed f WHERE e.run = f.run RETURNING 1"
);

/// $1 id, $2 now.
pub(super) const RESUME: &str = "UPDATE executions
    SET status = 1, blocked_build = NULL, reason = NULL, wake_at = $2, claims = 0,
           forced = CASE WHEN status = 3 THEN forced ELSE true END
    WHERE run = (SELECT x.run FROM executions x WHERE x.id = $1 ORDER BY x.run_no DESC LIMIT 1)
      AND owner IS NULL AND (status = 2 OR status = 3 OR status = 1 AND blocked_build IS NOT NULL)";

/// $1 run, $2 reason.
pub(super) const HALT: &str = "UPDATE executions SET status = 3, reason = $2
    WHERE run = $1 AND owner IS NULL AND status < 4 AND wake_at IS NULL AND epoch = $3";

/// $1 how many.
pub(super) const RESERVE: &str = "UPDATE meta SET value = value + $1 WHERE key = 'next_run' RETURNING value - $1";

// Transactional steps, on sessions whose search path is the user's.

/// $1 run, $2 position.
pub(super) const STEP_LOOK: &str = "SELECT output FROM \"{schema}\".step_results WHERE run = $1 AND position = $2";

/// Back to where the transaction of an attempt was begun.
pub(super) const STEP_BACK: &str = "ROLLBACK TO SAVEPOINT stent_step";

/// The last statement before the COMMIT: the fence, and the row if it stands. The lock keeps the run from being taken away
/// until the COMMIT; whoever took it away before is seen behind the lock. From here on the session may not stand still.
/// $1 run, $2 epoch, $3 incarnation, $4 position, $5 attempt, $6 output, $7 mark of the transaction, $8 milliseconds. Answers
/// whether the run is ours, whether the transaction is the one that was begun, and how many rows were written.
pub(super) const STEP_LAST: &str = "WITH ours AS MATERIALIZED (
        SELECT e.run FROM \"{schema}\".executions e
        WHERE e.run = $1 AND e.epoch = $2 AND e.status < 4
          AND e.owner = (SELECT n.node FROM \"{schema}\".nodes n WHERE n.incarnation = $3 AND n.state < 3)
        FOR SHARE),
    kept AS (
        INSERT INTO \"{schema}\".step_results (run, position, attempt, output)
        SELECT o.run, $4, $5, $6 FROM ours o WHERE current_setting('stent.step', true) = $7
        RETURNING set_config('idle_in_transaction_session_timeout', $8, true))
    SELECT EXISTS (SELECT 1 FROM ours), current_setting('stent.step', true) IS NOT DISTINCT FROM $7,
           (SELECT count(*) FROM kept)";

// A caller's own transaction, whose search path is the caller's.

/// $1 id. Answers the time, and the current run of the id if there is one.
pub(super) const OUTSIDE_LOOK: &str = "SELECT c.now, e.run_no, e.workflow, e.status, e.input_digest
    FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now) c
    LEFT JOIN LATERAL (SELECT x.run_no, x.workflow, x.status, x.input_digest FROM \"{schema}\".executions x
                       WHERE x.id = $1 ORDER BY x.run_no DESC LIMIT 1) e ON true";

/// A run and its first commit, unless its id is taken: answers a row if it is written. $1 run, $2 id, $3 run number,
/// $4 workflow, $5 version, $6 status, $7 wake, $8 priority, $9 queue, $10 tags, $11 needs, $12 created, $13 deadline,
/// $14 input, $15 format, $16 digest, $17 body; $18 channel and $19 text of the hint, which comes with the commit.
pub(super) const OUTSIDE_BEGIN: &str = "WITH begun AS (
        INSERT INTO \"{schema}\".executions (run, id, run_no, workflow, version, status, epoch, claims, forced, wake_at, priority, queue,
                                            tags, needs, created_at, deadline, input_digest, inbox_seq, format)
        VALUES ($1, $2, $3, $4, $5, $6, 0, 0, false, $7, $8, $9, $10, $11, $12, $13, $14, 0, $15)
        ON CONFLICT (id, run_no) DO NOTHING RETURNING run),
    kept AS (INSERT INTO \"{schema}\".events (run, commit_no, digest, body) SELECT b.run, 0, $16, $17 FROM begun b)
    SELECT pg_notify($18, $19) FROM begun";

/// $1 id. Locks its current run.
pub(super) const OUTSIDE_LOCK: &str = "SELECT e.run FROM \"{schema}\".executions e
    WHERE e.run = (SELECT x.run FROM \"{schema}\".executions x WHERE x.id = $1 ORDER BY x.run_no DESC LIMIT 1) FOR NO KEY UPDATE";

/// $1 run, $2 message. Answers what decides about the message, and the time.
pub(super) const OUTSIDE_TARGET: &str = "SELECT e.status, n.incarnation,
           (SELECT count(*) FROM \"{schema}\".inbox i WHERE i.run = e.run),
           EXISTS (SELECT 1 FROM \"{schema}\".inbox i WHERE i.run = e.run AND i.message = $2),
           (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
    FROM \"{schema}\".executions e LEFT JOIN \"{schema}\".nodes n ON n.node = e.owner WHERE e.run = $1";

/// $1 run, $2 message, $3 body; $4 channel and $5 text of the hint.
pub(super) const OUTSIDE_POST: &str = "WITH clock AS (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now),
    moved AS (
        UPDATE \"{schema}\".executions e SET inbox_seq = e.inbox_seq + 1,
               wake_at = CASE WHEN e.owner IS NULL AND e.status = 1 THEN least(coalesce(e.wake_at, c.now), c.now) ELSE e.wake_at END
        FROM clock c WHERE e.run = $1 RETURNING e.inbox_seq, c.now),
    sent AS (
        INSERT INTO \"{schema}\".inbox (run, seq, message, sent_at, body) SELECT $1, m.inbox_seq, $2, m.now, $3 FROM moved m)
    SELECT pg_notify($4, $5) FROM moved";

// Reads.

macro_rules! page {
    () => {
        "FROM (SELECT commit_no, digest, body FROM events WHERE run = $1 AND commit_no >= $2 ORDER BY commit_no LIMIT $3) AS page"
    };
}

/// A page of a log in one row: how many rows it has, and the short ones of them. All columns are made in one pass, so that they
/// agree in their order.
pub(super) const HISTORY: &str = concat!(
    "SELECT count(*), string_agg(commit_no::text, ',') FILTER (WHERE octet_length(body) <= ",
    short!(),
    "), string_agg(octet_length(body)::text, ',') FILTER (WHERE octet_length(body) <= ",
    short!(),
    "), string_agg(digest, ''::bytea) FILTER (WHERE octet_length(body) <= ",
    short!(),
    "), string_agg(body, ''::bytea) FILTER (WHERE octet_length(body) <= ",
    short!(),
    ") ",
    page!()
);

/// The rows of a page that are not short.
pub(super) const HISTORY_LONG: &str =
    concat!("SELECT commit_no, digest, body ", page!(), " WHERE octet_length(body) > ", short!());

pub(super) const TAIL: &str = "SELECT commit_no, digest, body FROM events WHERE run = $1 ORDER BY commit_no DESC LIMIT 1";

/// One row per unread message, or one with nulls; `inbox_seq` comes from the same snapshot.
pub(super) const INBOX: &str = "SELECT e.inbox_seq, i.seq, i.message, i.body, i.sent_at
    FROM executions e LEFT JOIN inbox i ON i.run = e.run WHERE e.run = $1 ORDER BY i.seq";

pub(super) const FIND: &str = concat!(
    "SELECT ",
    columns!("n.incarnation"),
    " FROM executions e LEFT JOIN nodes n ON n.node = e.owner WHERE e.id = $1 ORDER BY e.run_no DESC LIMIT 1"
);

pub(super) const FIND_RUN: &str = concat!(
    "SELECT ",
    columns!("n.incarnation"),
    " FROM executions e LEFT JOIN nodes n ON n.node = e.owner WHERE e.id = $1 AND e.run_no = $2"
);

pub(super) const SUMMARIES: &str = concat!(
    "SELECT ",
    columns!("n.incarnation"),
    " FROM unnest($1::bigint[]) WITH ORDINALITY AS k(run, ord) JOIN executions e ON e.run = k.run
    LEFT JOIN nodes n ON n.node = e.owner ORDER BY k.ord"
);

/// $1 workflow, $2 states, $3 tag, $4 the last of the page before, $5 limit.
pub(super) const LIST: &str = concat!(
    "SELECT ",
    columns!("n.incarnation"),
    " FROM executions e LEFT JOIN nodes n ON n.node = e.owner
    WHERE e.run < coalesce($4::bigint, 9223372036854775807) AND ($1::text IS NULL OR e.workflow = $1)
      AND (cardinality($2::smallint[]) = 0 OR e.status = ANY ($2::smallint[]))
      AND ($3::text IS NULL OR $3 = ANY (e.tags))
    ORDER BY e.run DESC LIMIT $5"
);

pub(super) const OWNED: &str = "SELECT run, inbox_seq FROM executions
    WHERE owner = (SELECT node FROM nodes WHERE incarnation = $1) AND owner IS NOT NULL ORDER BY run";

/// $1 the time behind which to look.
pub(super) const NEXT_WAKE: &str = concat!(
    "SELECT min(d.wake_at) FROM priorities p CROSS JOIN (VALUES (false), (true)) f(forced) CROSS JOIN LATERAL (
        SELECT e.wake_at FROM executions e WHERE ",
    due!(),
    " AND e.forced = f.forced AND e.priority = p.priority AND e.wake_at > $1 ORDER BY e.wake_at LIMIT 1) d"
);

pub(super) const HEARTBEATS: &str = "SELECT position, attempt, details FROM heartbeats WHERE run = $1 ORDER BY position";

/// Opens the moment in which a snapshot reads all tables.
pub(super) const MOMENT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
pub(super) const ALL_NODES: &str = "SELECT incarnation, build, label, state < 3, beat FROM nodes";
pub(super) const ALL_RUNS: &str =
    concat!("SELECT ", columns!("n.incarnation"), " FROM executions e LEFT JOIN nodes n ON n.node = e.owner");
pub(super) const ALL_EVENTS: &str =
    "SELECT e.id, e.run_no, v.commit_no, v.digest, v.body FROM events v LEFT JOIN executions e ON e.run = v.run";
pub(super) const ALL_MESSAGES: &str =
    "SELECT e.id, e.run_no, i.seq, i.message, i.body, i.sent_at FROM inbox i LEFT JOIN executions e ON e.run = i.run";
pub(super) const ALL_HEARTBEATS: &str =
    "SELECT e.id, e.run_no, h.position, h.attempt, h.details FROM heartbeats h LEFT JOIN executions e ON e.run = h.run";
