//! What runs publish: written behind the decision and within the transaction of its batch, by a statement of its own, so that batches
//! which publish nothing know nothing of it.

use sqlx::{Row, sqlite::SqliteRow};

use super::{
    SqliteReader,
    commit::Writer,
    read,
    rows::{self, Blob, Table},
    script::Values,
    sql::published as sql,
    trouble::Trouble,
};
use crate::{
    kernel::{
        id::{CommitNo, RunId, RunKey},
        payload::{Encoding, Payload},
    },
    store::{Publication, StoreError, memory::lines, stored::distinct},
};

impl Writer {
    /// Writes what accepted turns publish, within the transaction; returns how many rows that changed.
    pub(super) async fn write_published(&mut self, published: &[(RunKey, &Publication)]) -> Result<u64, Trouble> {
        if published.is_empty() {
            return Ok(0);
        }
        let (mut blob, mut table) = (Blob::default(), Table::new());
        for (run, Publication { key, version, value }) in published {
            let (from, length) = blob.put(&value.bytes);
            let row = table.row().int(run.0).text(key).int(rows::number(*version)).text(value.encoding.as_str());
            row.int(from).int(length);
        }
        let values = Values::default().with(blob.finish()).and_then(|values| values.with(table.finish()));
        self.changes(sql::WRITE, values).await
    }
}

impl SqliteReader {
    pub(super) async fn read_published(&self, run: RunKey, key: Option<String>) -> Result<Vec<Publication>, StoreError> {
        let values = Values::default().with(run.0);
        let found = match key {
            Some(key) => self.read(sql::VALUE, values.and_then(|values| values.with(key))).await?,
            None => self.read(sql::OF_RUN, values).await?,
        };
        self.decoded(found.iter().map(|row| publication(row, 0)))
    }

    pub(super) async fn read_heights(&self, runs: &[RunKey]) -> Result<Vec<(RunKey, CommitNo)>, StoreError> {
        let found = self.read(sql::HEIGHTS, Values::default().with(read::keys(&distinct(runs)))).await?;
        self.decoded(found.iter().map(|row| Ok((RunKey(row.try_get(0)?), rows::small(row, 1)?))))
    }
}

/// Reads a row from its key, version, encoding and value.
fn publication(row: &SqliteRow, from: usize) -> Result<Publication, sqlx::Error> {
    let encoding = Encoding::of_name(row.try_get(from + 2)?).ok_or_else(|| rows::damaged("an encoding is unknown"))?;
    let bytes: Vec<u8> = row.try_get(from + 3)?;
    let value = Payload { encoding, bytes: bytes.into() };
    Ok(Publication { key: row.try_get(from)?, version: rows::large(row, from + 1)?, value })
}

/// Returns the lines of a snapshot, from the answer of [`sql::SNAPSHOT`]; `of` says whose a row is.
pub(super) fn all_lines(
    found: &[SqliteRow],
    of: impl Fn(&SqliteRow) -> Result<RunId, sqlx::Error>,
) -> Result<Vec<String>, sqlx::Error> {
    found.iter().map(|row| Ok(lines::publication(&of(row)?, &publication(row, 2)?))).collect()
}
