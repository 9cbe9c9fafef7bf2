//! The texts about schedules.

/// The revisions of those that items are about. $1 names.
pub(in crate::store::sqlite) const FOUND: &str =
    "SELECT s.name, s.revision FROM json_each($1) k JOIN schedules s ON s.name = k.value;";

/// $1 blob, $2 rows: name, the revision in its place, the new one, due time, run awaited, where its body is in the blob.
pub(in crate::store::sqlite) const WRITE: &str = "INSERT INTO schedules (name, revision, next_at, awaits, body)
    SELECT value ->> 0, value ->> 2, value ->> 3, value ->> 4, substr($1, value ->> 5, value ->> 6) FROM json_each($2) WHERE true
    ON CONFLICT (name) DO UPDATE SET revision = excluded.revision, next_at = excluded.next_at, awaits = excluded.awaits,
        body = excluded.body;";

/// $1 name.
pub(in crate::store::sqlite) const ONE: &str = "SELECT name, revision, next_at, awaits, body FROM schedules WHERE name = $1;";

/// $1 name, $2 limit.
pub(in crate::store::sqlite) const LIST: &str =
    "SELECT name, revision, next_at, awaits, body FROM schedules WHERE name > $1 ORDER BY name LIMIT (SELECT $2);";

/// $1 time, $2 limit. Two halves, each by its own index.
pub(in crate::store::sqlite) const DUE: &str = "SELECT s.name, s.next_at, s.awaits IS NOT NULL AND NOT EXISTS
        (SELECT 1 FROM executions e WHERE e.run = s.awaits AND e.status < 4) AS ready
    FROM (SELECT name FROM schedules WHERE next_at IS NOT NULL AND next_at <= (SELECT $1)
          UNION SELECT name FROM schedules WHERE awaits IS NOT NULL) d JOIN schedules s ON s.name = d.name
    ORDER BY ready DESC, s.next_at IS NULL, s.next_at, s.name LIMIT (SELECT $2);";

/// For snapshots.
pub(in crate::store::sqlite) const SNAPSHOT: &str = "SELECT name, revision, next_at, awaits, body FROM schedules;";

/// Every text, by name.
#[cfg(test)]
pub(in crate::store::sqlite) const ALL: &[(&str, &str)] =
    &[("found", FOUND), ("write", WRITE), ("one", ONE), ("list", LIST), ("due", DUE)];
