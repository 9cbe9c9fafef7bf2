//! The texts about what runs publish; the rules of `sql.rs` hold here too.

/// Rows of $2: run, key, version, encoding, offset and length of the value in the blob $1. Of two of one key the last counts.
pub(in crate::store::sqlite) const WRITE: &str = "INSERT INTO published (run, key, version, encoding, value)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, substr($1, value ->> 4, value ->> 5) FROM json_each($2) WHERE true
    ON CONFLICT (run, key) DO UPDATE SET version = excluded.version, encoding = excluded.encoding, value = excluded.value;";

/// $1 run.
pub(in crate::store::sqlite) const OF_RUN: &str =
    "SELECT key, version, encoding, value FROM published WHERE run = $1 ORDER BY key;";

/// $1 run, $2 key.
pub(in crate::store::sqlite) const VALUE: &str =
    "SELECT key, version, encoding, value FROM published WHERE run = $1 AND key = $2;";

/// The last rows of the logs of the runs $1.
pub(in crate::store::sqlite) const HEIGHTS: &str = "SELECT h.run, h.height FROM (
        SELECT k.value AS run, (SELECT max(v.commit_no) FROM events v WHERE v.run = k.value) AS height FROM json_each($1) k) h
    WHERE h.height IS NOT NULL ORDER BY h.run;";

/// For snapshots.
pub(in crate::store::sqlite) const SNAPSHOT: &str = "SELECT e.id, e.run_no, p.key, p.version, p.encoding, p.value
    FROM published p LEFT JOIN executions e ON e.run = p.run;";

/// Every text that runs on an open database, by name.
#[cfg(test)]
pub(in crate::store::sqlite) const ALL: &[(&str, &str)] =
    &[("write_published", WRITE), ("published_of_run", OF_RUN), ("published_value", VALUE), ("heights", HEIGHTS)];
