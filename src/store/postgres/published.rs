//! What runs publish: written behind the decision and within the transaction of the general path, by a statement of its own. The one
//! statement of most batches knows nothing of it.

use std::collections::BTreeMap;

use sqlx::{Row, postgres::PgRow};

use super::{read::PostgresReader, rows, session::Session, trouble::Trouble, values::Values};
use crate::{
    kernel::{
        id::{CommitNo, RunId, RunKey},
        payload::{Encoding, Payload},
    },
    store::{Publication, StoreError, memory::lines, stored::distinct},
};

/// $1 runs, $2 keys, $3 versions, $4 encodings, $5 values; each run and key once.
const WRITE: &str = "INSERT INTO published (run, key, version, encoding, value)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::bytea[])
    ON CONFLICT (run, key) DO UPDATE SET version = excluded.version, encoding = excluded.encoding, value = excluded.value";

/// $1 run.
const OF_RUN: &str = "SELECT key, version, encoding, value FROM published WHERE run = $1 ORDER BY key COLLATE \"C\"";

/// $1 run, $2 key.
const VALUE: &str = "SELECT key, version, encoding, value FROM published WHERE run = $1 AND key = $2";

/// $1 runs.
const HEIGHTS: &str = "SELECT k.run, v.commit_no FROM unnest($1::bigint[]) AS k(run) CROSS JOIN LATERAL (
        SELECT x.commit_no FROM events x WHERE x.run = k.run ORDER BY x.commit_no DESC LIMIT 1) v ORDER BY k.run";

pub(super) const ALL: &str = "SELECT e.id, e.run_no, p.key, p.version, p.encoding, p.value
    FROM published p LEFT JOIN executions e ON e.run = p.run";

/// Writes what accepted turns publish, within the transaction.
pub(super) async fn write(session: &mut Session, published: &[(RunKey, &Publication)]) -> Result<(), Trouble> {
    if published.is_empty() {
        return Ok(());
    }
    // Of two of one key the last counts; one statement does not write a row twice.
    let last: BTreeMap<(RunKey, &str), &Publication> = published.iter().map(|(run, row)| ((*run, &*row.key), *row)).collect();
    let values = Values::default()
        .with(last.keys().map(|(run, _)| run.0).collect::<Vec<_>>())
        .with(last.keys().map(|(_, key)| *key).collect::<Vec<_>>())
        .with(last.values().map(|row| rows::number(row.version)).collect::<Vec<_>>())
        .with(last.values().map(|row| row.value.encoding.as_str()).collect::<Vec<_>>())
        .with(last.values().map(|row| &row.value.bytes[..]).collect::<Vec<_>>());
    session.rows(WRITE, values).await.map(drop)
}

impl PostgresReader {
    pub(super) async fn read_published(&self, run: RunKey, key: Option<String>) -> Result<Vec<Publication>, StoreError> {
        let values = Values::default().with(run.0);
        let found = match key {
            // A NUL is in no key, and PostgreSQL does not take one even as a question.
            Some(key) if key.contains('\0') => return Ok(Vec::new()),
            Some(key) => self.read(VALUE, values.with(key)).await?,
            None => self.read(OF_RUN, values).await?,
        };
        self.decoded(found.iter().map(|row| publication(row, 0)))
    }

    pub(super) async fn read_heights(&self, runs: &[RunKey]) -> Result<Vec<(RunKey, CommitNo)>, StoreError> {
        let runs: Vec<i64> = distinct(runs).iter().map(|run| run.0).collect();
        let found = self.read(HEIGHTS, Values::default().with(runs)).await?;
        self.decoded(found.iter().map(|row| Ok((RunKey(row.try_get(0)?), rows::small(row, 1)?))))
    }
}

/// Reads a row from its key, version, encoding and value.
fn publication(row: &PgRow, from: usize) -> Result<Publication, sqlx::Error> {
    let encoding = Encoding::of_name(row.try_get(from + 2)?).ok_or_else(|| rows::damaged("an encoding is unknown"))?;
    let bytes: Vec<u8> = row.try_get(from + 3)?;
    let value = Payload { encoding, bytes: bytes.into() };
    Ok(Publication { key: row.try_get(from)?, version: rows::large(row, from + 1)?, value })
}

/// Returns the lines of a snapshot, from the answer of [`ALL`]; `of` says whose a row is.
pub(super) fn all_lines(found: &[PgRow], of: impl Fn(&PgRow) -> Result<RunId, sqlx::Error>) -> Result<Vec<String>, sqlx::Error> {
    found.iter().map(|row| Ok(lines::publication(&of(row)?, &publication(row, 2)?))).collect()
}
