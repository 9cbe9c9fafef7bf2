//! The texts about dead letters; the rules of `sql.rs` hold here too.

/// Rows of $1: run, position, attempt, commit, place in it, parked, activity, kind, text, time.
pub(in crate::store::sqlite) const PUT: &str =
    "INSERT INTO dead_letters (run, position, attempt, commit_no, event, parked, activity, kind, text, at)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8,
        value ->> 9
    FROM json_each($1) WHERE true
    ON CONFLICT (run, position) DO UPDATE SET attempt = excluded.attempt, commit_no = excluded.commit_no, event = excluded.event, parked = excluded.parked,
        activity = excluded.activity, kind = excluded.kind, text = excluded.text, at = excluded.at;";

/// Rows of $1: run, position.
pub(in crate::store::sqlite) const DROP: &str = "DELETE FROM dead_letters
    WHERE (run, position) IN (SELECT value ->> 0, value ->> 1 FROM json_each($1));";

/// Rows of $1: run, position, commit, place in it. Only what is as it was seen.
pub(in crate::store::sqlite) const DROP_SEEN: &str = "DELETE FROM dead_letters
    WHERE (run, position) IN (SELECT d.run, d.position
        FROM json_each($1) k CROSS JOIN dead_letters d ON d.run = k.value ->> 0 AND d.position = k.value ->> 1
        WHERE d.commit_no = k.value ->> 2 AND d.event = k.value ->> 3);";

macro_rules! letters {
    () => {
        "SELECT d.run, e.id, e.run_no, e.workflow, e.status, d.position, d.attempt, d.commit_no, d.event, d.parked, d.activity, d.kind, d.text, d.at
        FROM dead_letters d CROSS JOIN executions e ON e.run = d.run
        WHERE ($1 IS NULL OR e.workflow = $1) AND ($2 IS NULL OR d.activity = $2) AND ($3 IS NULL OR d.kind = $3)
          AND ($4 IS NULL OR d.parked = $4) AND ($5 IS NULL OR d.position = $5) AND d.at >= (SELECT $6)
          AND (d.at, d.run, d.position) < ((SELECT $7), (SELECT $8), (SELECT $9))"
    };
}

/// $1 workflow, $2 activity, $3 kind, $4 parked, $5 position, $6 since, $7 to $9 before which time, run and position, $10 limit.
pub(in crate::store::sqlite) const LIST: &str =
    concat!(letters!(), " ORDER BY d.at DESC, d.run DESC, d.position DESC LIMIT (SELECT $10);");

/// The same of the run $11.
pub(in crate::store::sqlite) const OF_RUN: &str =
    concat!(letters!(), " AND d.run = (SELECT $11) ORDER BY d.at DESC, d.run DESC, d.position DESC LIMIT (SELECT $10);");

/// For snapshots.
pub(in crate::store::sqlite) const SNAPSHOT: &str =
    "SELECT e.id, e.run_no, d.position, d.attempt, d.commit_no, d.event, d.parked, d.activity,
    d.kind, d.text, d.at FROM dead_letters d LEFT JOIN executions e ON e.run = d.run;";

/// Every text that runs on an open database, by name.
#[cfg(test)]
pub(in crate::store::sqlite) const ALL: &[(&str, &str)] = &[
    ("put_letters", PUT),
    ("drop_letters", DROP),
    ("drop_seen_letters", DROP_SEEN),
    ("letters", LIST),
    ("letters_of_run", OF_RUN),
];
