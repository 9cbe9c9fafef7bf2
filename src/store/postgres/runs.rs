//! Reading many runs with five statements: what a wave of sleepers costs is counted in round trips.

use sqlx::{Row, postgres::PgRow};

use super::{
    read::{self, PostgresReader},
    rows, sql, tasks,
    values::Values,
};
use crate::{
    kernel::id::RunKey,
    store::{
        StoreError, Stored,
        gathering::{Gathering, MOST_ROWS},
    },
};

// $1 runs. The lateral joins keep the order of the runs, and are never turned round; the last statement may tell them in any.

/// $2 rows at most.
const LOGS: &str = "SELECT k.run, v.commit_no, v.digest, v.body FROM unnest($1::bigint[]) AS k(run) CROSS JOIN LATERAL (
        SELECT commit_no, digest, body FROM events WHERE run = k.run ORDER BY commit_no) v LIMIT $2";

const TASKS: &str = "SELECT t.run, t.position, t.attempt, t.queue, n.incarnation, t.dropped
    FROM unnest($1::bigint[]) AS k(run) CROSS JOIN LATERAL (
        SELECT run, position, attempt, queue, worker, dropped FROM tasks WHERE run = k.run ORDER BY position, attempt) t
    LEFT JOIN nodes n ON n.node = t.worker";

const HEARTBEATS: &str = "SELECT k.run, h.position, h.attempt, h.details FROM unnest($1::bigint[]) AS k(run) CROSS JOIN LATERAL (
        SELECT position, attempt, details FROM heartbeats WHERE run = k.run ORDER BY position) h";

const INBOXES: &str = "SELECT e.run, e.inbox_seq, i.seq, i.message, i.body, i.sent_at
    FROM unnest($1::bigint[]) AS k(run) JOIN executions e ON e.run = k.run LEFT JOIN LATERAL (
        SELECT seq, message, body, sent_at FROM inbox WHERE run = k.run ORDER BY seq) i ON true";

impl PostgresReader {
    pub(super) async fn read_runs(&self, runs: &[RunKey]) -> Result<Vec<Stored>, StoreError> {
        let keys: Vec<i64> = runs.iter().map(|run| run.0).collect();
        let most = i64::try_from(MOST_ROWS).unwrap_or(i64::MAX);
        let of_runs = || Values::default().with(keys.clone());
        // In the order of `Reader::run`: what is consumed or ended between two of them is noticed by the next commit.
        let tables = self.on_one(async |connection| {
            let mut tables = vec![self.home.rows(connection, sql::SUMMARIES, of_runs()).await?];
            tables.push(self.home.rows(connection, LOGS, of_runs().with(most)).await?);
            for text in [TASKS, HEARTBEATS, INBOXES] {
                tables.push(self.home.rows(connection, text, of_runs()).await?);
            }
            Ok(tables)
        });
        let tables = tables.await?;
        let gathered = gathered(&tables);
        gathered.map_err(|error| self.home.sort(&error).into_store(&self.home.server))
    }
}

fn gathered(tables: &[Vec<PgRow>]) -> Result<Vec<Stored>, sqlx::Error> {
    let [summaries, logs, tasks, heartbeats, inboxes] = tables else { return Ok(Vec::new()) };
    let mut gathering = Gathering::new(MOST_ROWS);
    for row in summaries {
        gathering.begin(read::summary(row)?);
    }
    for row in logs {
        let (commit_no, record) = rows::record(row, 1)?;
        gathering.record(RunKey(row.try_get(0)?), commit_no, record);
    }
    for row in tasks {
        gathering.task(tasks::task_row(row)?);
    }
    for row in heartbeats {
        gathering.heartbeat(RunKey(row.try_get(0)?), rows::heartbeat(row, 1)?);
    }
    for row in inboxes {
        let unread = row.try_get::<Option<i64>, _>(2)?.map(|_| rows::unread(row, 2)).transpose()?;
        gathering.inbox(RunKey(row.try_get(0)?), rows::large(row, 1)?, unread);
    }
    Ok(gathering.finish())
}
