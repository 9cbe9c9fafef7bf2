//! The texts about results that runs share; the rules of `sql.rs` hold here too. Rows name bytes by where they are in the blob $1.

/// What is about the keys of $2: the stamp, and who holds it. Then the questions of the calls $3.
pub(in crate::store::sqlite) const FOUND: &str = "SELECT m.key, m.stamp, m.run, m.position FROM json_each($2) k
    JOIN memos m ON m.key = substr($1, k.value ->> 0, k.value ->> 1);
SELECT a.run, a.position, a.ask FROM json_each($3) k JOIN memo_asks a ON a.run = k.value ->> 0 AND a.position = k.value ->> 1;";

/// Rows of $2: key, run and position of what is let go; then those of $3 of what is kept: key, run, position, stamp, value, time.
pub(in crate::store::sqlite) const LEAVE: &str = "DELETE FROM memo_asks WHERE (run, position) IN
    (SELECT value ->> 2, value ->> 3 FROM json_each($2));
DELETE FROM memo_asks WHERE (run, position) IN (SELECT value ->> 2, value ->> 3 FROM json_each($3));
DELETE FROM memos WHERE (key, run, position) IN
    (SELECT substr($1, value ->> 0, value ->> 1), value ->> 2, value ->> 3 FROM json_each($2));
UPDATE memos SET stamp = v.stamp, run = NULL, position = NULL, ask = NULL, value = v.value, until = v.until
    FROM (SELECT substr($1, value ->> 0, value ->> 1) AS key, value ->> 2 AS run, value ->> 3 AS position, value ->> 4 AS stamp,
                 substr($1, value ->> 5, value ->> 6) AS value, value ->> 7 AS until FROM json_each($3)) v
    WHERE memos.key = v.key AND memos.run = v.run AND memos.position = v.position;";

/// Rows of $2: key, run, position and number of a question.
pub(in crate::store::sqlite) const ASK: &str = "INSERT INTO memo_asks (key, run, position, ask)
    SELECT substr($1, value ->> 0, value ->> 1), value ->> 2, value ->> 3, value ->> 4 FROM json_each($2) WHERE true
    ON CONFLICT (run, position) DO UPDATE SET key = excluded.key, ask = excluded.ask;";

/// Rows of $2: run and position of questions that are answered. $3: key, stamp, run, position and ask of keys that are held from now on. $4: keys
/// that are not.
pub(in crate::store::sqlite) const CHANGE: &str = "DELETE FROM memo_asks WHERE (run, position) IN
    (SELECT value ->> 0, value ->> 1 FROM json_each($2));
INSERT INTO memos (key, stamp, run, position, ask)
    SELECT substr($1, value ->> 0, value ->> 1), value ->> 2, value ->> 3, value ->> 4, value ->> 5 FROM json_each($3) WHERE true
    ON CONFLICT (key) DO UPDATE SET stamp = excluded.stamp, run = excluded.run, position = excluded.position, ask = excluded.ask,
        value = NULL, until = NULL;
DELETE FROM memos WHERE key IN (SELECT substr($1, value ->> 0, value ->> 1) FROM json_each($4));";

/// $1 key.
pub(in crate::store::sqlite) const ONE: &str = "SELECT key, stamp, run, position, ask, value, until FROM memos WHERE key = $1;";

/// $1 key, $2 limit.
pub(in crate::store::sqlite) const ASKS: &str =
    "SELECT run, position, ask FROM memo_asks WHERE key = $1 ORDER BY run, position LIMIT (SELECT $2);";

/// $1 time, $2 the due time of runs that nobody takes up, $3 limit.
pub(in crate::store::sqlite) const WORK: &str = "SELECT key FROM (
        SELECT a.key FROM (SELECT DISTINCT key FROM memo_asks) a WHERE NOT EXISTS
            (SELECT 1 FROM memos m JOIN executions e ON e.run = m.run WHERE m.key = a.key AND e.status < 4
                AND (e.owner IS NOT NULL OR (e.status = 1 AND (e.wake_at IS NULL OR e.wake_at > (SELECT $2))))))
    UNION SELECT key FROM memos WHERE until IS NOT NULL AND until <= (SELECT $1) ORDER BY key LIMIT (SELECT $3);";

/// $1 first key, $2 last, $3 limit.
pub(in crate::store::sqlite) const KEYS: &str =
    "SELECT key, stamp FROM memos WHERE key BETWEEN $1 AND $2 ORDER BY key LIMIT (SELECT $3);";

/// For snapshots.
pub(in crate::store::sqlite) const SNAPSHOT: &str =
    "SELECT e.id, e.run_no, m.run, m.position, m.ask, m.key, m.stamp, m.until, m.value
    FROM memos m LEFT JOIN executions e ON e.run = m.run;
SELECT e.id, e.run_no, a.position, a.ask, a.key FROM memo_asks a LEFT JOIN executions e ON e.run = a.run;";

/// Every text that runs on an open database, by name.
#[cfg(test)]
pub(in crate::store::sqlite) const ALL: &[(&str, &str)] = &[
    ("memos_found", FOUND),
    ("memos_leave", LEAVE),
    ("memos_ask", ASK),
    ("memos_change", CHANGE),
    ("memo", ONE),
    ("memo_asks", ASKS),
    ("memo_work", WORK),
    ("memo_keys", KEYS),
];
