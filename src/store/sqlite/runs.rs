//! Reading many runs in one hop: what a wave of sleepers costs is counted in hops.

use std::sync::atomic::Ordering::Relaxed;

use sqlx::{Row, sqlite::SqliteRow};

use super::{
    SqliteReader, read, rows,
    script::{self, Values},
    sql, tasks,
};
use crate::{
    kernel::id::RunKey,
    store::{
        StoreError, Stored,
        gathering::{Gathering, MOST_ROWS},
    },
};

impl SqliteReader {
    pub(super) async fn read_runs(&self, runs: &[RunKey]) -> Result<Vec<Stored>, StoreError> {
        if self.closed.load(Relaxed) {
            return Err(StoreError::Closed);
        }
        self.gathered(runs).await.map_err(|error| self.reading(&error))
    }

    async fn gathered(&self, runs: &[RunKey]) -> Result<Vec<Stored>, sqlx::Error> {
        let values = Values::default().with(read::keys(runs))?.with(rows::length(MOST_ROWS))?;
        let mut gathering = Gathering::new(MOST_ROWS);
        let take = |statement, row: SqliteRow| {
            let run = RunKey(row.try_get(0)?);
            match statement {
                0 => gathering.begin(read::summary(&row)?),
                1 => {
                    let (commit_no, record) = rows::record(&row, 1)?;
                    gathering.record(run, commit_no, record);
                }
                2 => gathering.task(tasks::task_row(&row)?),
                3 => gathering.heartbeat(run, rows::heartbeat(&row, 1)?),
                _ => {
                    let unread = row.try_get::<Option<i64>, _>(2)?.map(|_| rows::unread(&row, 2)).transpose()?;
                    gathering.inbox(run, rows::large(&row, 1)?, unread);
                }
            }
            Ok(())
        };
        script::each(&mut *self.pool.acquire().await?, sql::RUNS, values, take).await?;
        Ok(gathering.finish())
    }
}
