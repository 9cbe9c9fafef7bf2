//! Reading many runs in one hop: what a wave of sleepers costs is counted in hops.

use std::sync::atomic::Ordering::Relaxed;

use sqlx::Row;

use super::{
    SqliteReader, read, rows,
    script::{self, Values},
    sql, tasks,
};
use crate::{
    kernel::id::RunKey,
    store::{StoreError, Stored, stored::Gathering},
};

impl SqliteReader {
    pub(super) async fn read_runs(&self, runs: &[RunKey]) -> Result<Vec<Stored>, StoreError> {
        if self.closed.load(Relaxed) {
            return Err(StoreError::Closed);
        }
        self.gathered(runs).await.map_err(|error| self.reading(&error))
    }

    async fn gathered(&self, runs: &[RunKey]) -> Result<Vec<Stored>, sqlx::Error> {
        let most = Gathering::most(runs.len());
        let values = Values::default().with(read::keys(runs))?.with(most)?;
        let mut tables = script::run(&mut *self.pool.acquire().await?, sql::RUNS, values).await?.into_iter();
        let mut next = || tables.next().unwrap_or_default().rows;
        let mut gathering = Gathering::of(next().iter().map(read::summary).collect::<Result<_, _>>()?, most);
        for row in next() {
            let (commit_no, record) = rows::record(&row, 1)?;
            gathering.record(RunKey(row.try_get(0)?), commit_no, record);
        }
        for row in next() {
            gathering.task(tasks::task_row(&row)?);
        }
        for row in next() {
            gathering.heartbeat(RunKey(row.try_get(0)?), rows::heartbeat(&row, 1)?);
        }
        for row in next() {
            let unread = row.try_get::<Option<i64>, _>(2)?.map(|_| rows::unread(&row, 2)).transpose()?;
            gathering.inbox(RunKey(row.try_get(0)?), rows::large(&row, 1)?, unread);
        }
        Ok(gathering.finish())
    }
}
